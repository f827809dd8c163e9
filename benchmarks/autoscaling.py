"""`python -m benchmarks.autoscaling`: how targets of backlog, start-up times and steps of load meet; prints JSON, draws docs/scaling.png.

    python -m benchmarks.autoscaling --plot docs/scaling.png          # the curves of docs/scaling.md
    python -m benchmarks.autoscaling --targets 30 --startup 60        # one of them

The simulation of `simulation.py` with a diffusion stage that an autoscaler resizes as a HorizontalPodAutoscaler does, by the policies of
the chart: every 15 s, in proportion to backlog, up at once by what is there or by four, down by a quarter a minute after five minutes.
Devices are as fast as --song-seconds says, and load is in devices that it keeps busy.
"""

import argparse
import json
import math
import random
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from acestep_rpc.v1 import music_pb2, stage_pb2
from benchmarks.simulated import Forwards, Simulation

SYNC_SECONDS = 15.0
TOLERANCE = 0.1
STABILISATION_SECONDS = 300.0
UP_PODS, UP_SHARE, DOWN_SHARE, DOWN_PODS = 4, 1.0, 0.25, 1
DIFFUSION = 1


@dataclass
class Autoscaler:
    """Resizes the diffusion stage of a simulation.

    Args:
        simulation: Whose.
        target_seconds: Backlog for each replica.
        startup_seconds: From the decision for a replica to its first work.
        minimum: Replicas.
        maximum: Replicas.
        until: When nobody looks any more.
    """

    simulation: Simulation
    target_seconds: float
    startup_seconds: float
    minimum: int
    maximum: int
    until: float
    ordered: int = field(init=False)
    history: list[tuple[float, int, float]] = field(default_factory=list)
    replica_seconds: float = 0.0
    _wishes: deque[tuple[float, int]] = field(default_factory=deque)
    _downs: deque[tuple[float, int]] = field(default_factory=deque)
    _leaving: list[Forwards] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ordered = len(self._pool)
        self.simulation.clock.after(SYNC_SECONDS, self._look)

    @property
    def _pool(self) -> list[Any]:
        return self.simulation.pools[DIFFUSION]

    def _look(self) -> None:
        clock = self.simulation.clock
        backlog = sum(replica.backlog_seconds for replica in (*self._pool, *self._leaving))
        self.history.append((clock.now, len(self._pool), backlog))
        self.replica_seconds += SYNC_SECONDS * (self.ordered + sum(replica.backlog_seconds > 0 for replica in self._leaving))
        ratio = backlog / (self.target_seconds * self.ordered)
        wish = self.ordered if abs(ratio - 1) <= TOLERANCE else math.ceil(backlog / self.target_seconds)
        wish = min(max(wish, self.minimum), self.maximum)
        self._wishes.append((clock.now, wish))
        while self._wishes[0][0] < clock.now - STABILISATION_SECONDS:
            self._wishes.popleft()
        if wish > self.ordered:
            self._grow(min(wish, self.ordered + max(UP_PODS, round(self.ordered * UP_SHARE))))
        elif (calm := max(one for _, one in self._wishes)) < self.ordered:
            self._shrink(calm)
        if clock.now < self.until:
            clock.after(SYNC_SECONDS, self._look)

    def _grow(self, count: int) -> None:
        for _ in range(count - self.ordered):
            self.simulation.clock.after(self.startup_seconds, lambda: self._pool.append(self.simulation.new_sampler()))
        self.ordered = count

    def _shrink(self, count: int) -> None:
        now = self.simulation.clock.now
        while self._downs and self._downs[0][0] <= now - 60:
            self._downs.popleft()
        lately = sum(number for _, number in self._downs)
        allowed = max(DOWN_PODS, int((self.ordered + lately) * DOWN_SHARE)) - lately
        leaving = min(self.ordered - count, allowed, len(self._pool) - 1)
        for _ in range(leaving):  # the one with the least work goes, and finishes what it has
            replica = min(self._pool, key=lambda one: float(one.backlog_seconds))
            self._pool.remove(replica)
            self._leaving.append(replica)
        if leaving > 0:
            self._downs.append((now, leaving))
            self.ordered -= leaving


@dataclass(frozen=True)
class Load:
    """A step of load: so many busy devices, then a multiple, then as before.

    Attributes:
        devices: Kept busy before and after, if songs share no forwards.
        rise: The multiple.
        quiet_seconds: Before and after.
        busy_seconds: Between.
    """

    devices: float = 2.0
    rise: float = 5.0
    quiet_seconds: float = 600.0
    busy_seconds: float = 1200.0

    @property
    def seconds(self) -> float:
        """In all."""
        return 2 * self.quiet_seconds + self.busy_seconds

    def at(self, now: float) -> float:
        """Devices that it keeps busy."""
        return self.devices * (self.rise if self.quiet_seconds <= now < self.quiet_seconds + self.busy_seconds else 1.0)


def scaled(descriptions: Sequence[stage_pb2.DescribeResponse], song_seconds: float, song: float) -> list[stage_pb2.DescribeResponse]:
    """The same stages on devices that take `song_seconds` for a song's samples instead of `song`."""
    found = []
    for description in descriptions:
        other = stage_pb2.DescribeResponse()
        other.CopyFrom(description)
        for cost in other.costs:
            if cost.name in ("forward", "encode", "decode", "encode_audio"):
                for name in cost.coefficients:
                    cost.coefficients[name] *= song_seconds / song
        found.append(other)
    return found


def request() -> music_pb2.GenerateRequest:
    """One song of 60 s with few steps: of a song's way the simulation needs the time, not each step."""
    sampling = {"infer_step": 10, "guidance_scale": 1.0}
    return music_pb2.GenerateRequest(prompt={"tags": "funk, bass"}, sampling=sampling, text_to_music={"duration_seconds": 60})


def run(
    descriptions: Sequence[stage_pb2.DescribeResponse],
    song_seconds: float,
    load: Load,
    target_seconds: float,
    startup_seconds: float,
    maximum: int = 64,
    seed: int = 0,
) -> dict[str, Any]:
    """Figures of one target."""
    randoms, simulation = random.Random(seed), Simulation(descriptions, (16, max(round(load.devices), 1), 16), refuse=False, seed=seed)
    scaler = Autoscaler(simulation, target_seconds, startup_seconds, 1, maximum, load.seconds)
    now = 0.0
    while now < load.seconds:
        now += randoms.expovariate(load.at(now) / song_seconds)
        simulation.add(now, request())
    simulation.run()
    waits = [(one.arrival, one.finished - one.arrival) for one in simulation.requests if one.outcome == "completed"]
    taken = np.array([seconds for _, seconds in waits])
    rise = np.array([seconds for arrival, seconds in waits if load.quiet_seconds <= arrival < load.quiet_seconds + 300])
    return {
        "target_seconds": target_seconds,
        "startup_seconds": startup_seconds,
        "song_seconds": song_seconds,
        "completed": len(waits),
        "latency_seconds": {f"p{share}": round(float(np.percentile(taken, share)), 1) for share in (50, 95, 99)},
        "latency_after_the_rise_seconds": {f"p{share}": round(float(np.percentile(rise, share)), 1) for share in (50, 95)},
        "replica_hours": round(scaler.replica_seconds / 3600, 2),
        "most_replicas": max(count for _, count, _ in scaler.history),
        "history": [(round(at), count, round(backlog, 1)) for at, count, backlog in scaler.history],
    }


def draw(file: Path, results: Sequence[dict[str, Any]], load: Load) -> None:
    """Replicas and backlog over time for one start-up time, and latency against cost for all."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(8, 10))
    startups = sorted({one["startup_seconds"] for one in results})
    for one in results:
        if one["startup_seconds"] == startups[len(startups) // 2]:
            at, counts, backlogs = zip(*one["history"], strict=True)
            top.step(at, counts, where="post", label=f"target {one['target_seconds']:g} s")
            middle.plot(at, backlogs)
    for axes, name in ((top, "diffusion replicas"), (middle, "backlog, s")):
        axes.axvspan(load.quiet_seconds, load.quiet_seconds + load.busy_seconds, alpha=0.1)
        axes.set_ylabel(name)
        axes.set_xlabel("s")
    top.legend(fontsize="small")
    top.set_title(f"load x{load.rise:g}, a replica starts in {startups[len(startups) // 2]:g} s")
    for startup in startups:
        own = [one for one in results if one["startup_seconds"] == startup]
        hours, latencies = [one["replica_hours"] for one in own], [one["latency_after_the_rise_seconds"]["p95"] for one in own]
        bottom.plot(hours, latencies, "o-", label=f"starts in {startup:g} s")
        for one, hour, latency in zip(own, hours, latencies, strict=True):
            bottom.annotate(f"{one['target_seconds']:g}", (hour, latency), textcoords="offset points", xytext=(4, 4), fontsize="small")
    bottom.set_xlabel("replica hours in all (numbers: target in s)")
    bottom.set_ylabel("p95 in the 5 min after the rise, s")
    bottom.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(file, dpi=80)


def main(arguments: list[str] | None = None) -> int:
    """Simulate each target with each start-up time, print the figures."""
    from benchmarks.simulation import PACKAGED, measure, read_costs

    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoscaling", description=__doc__.partition("\n")[0])
    parser.add_argument("--targets", type=float, nargs="+", default=[5, 10, 30, 60, 120], metavar="SECONDS", help="(default: %(default)s)")
    parser.add_argument("--startup", type=float, nargs="+", default=[20, 60, 180], metavar="SECONDS", help="(default: %(default)s)")
    parser.add_argument("--song-seconds", type=float, default=10.0, help="of a device, for the samples of one song (default: %(default)s)")
    parser.add_argument("--rise", type=float, default=5.0, help="of the load (default: %(default)s)")
    parser.add_argument("--costs", type=Path, metavar="FILE", help="of `benchmarks.simulation --save-costs` (default: measured here)")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    import asyncio

    descriptions = read_costs(options.costs) if options.costs else asyncio.run(measure(PACKAGED, "cpu", 1))
    probe = Simulation(descriptions, refuse=False)
    probe.add(0.0, request())
    devices = scaled(descriptions, options.song_seconds, probe.requests[0].prediction.alone[DIFFUSION])
    load = Load(rise=options.rise)
    results = []
    for startup in options.startup:
        for target in options.targets:
            results.append(run(devices, options.song_seconds, load, target, startup))
            print(json.dumps({name: value for name, value in results[-1].items() if name != "history"}), flush=True)
    if options.plot:
        draw(options.plot, results, load)
    return 0


if __name__ == "__main__":
    sys.exit(main())
