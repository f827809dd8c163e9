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
ENCODE_SHARE, DECODE_SHARE = 0.01, 0.1
FORWARD_ROW_FRAMES = 4 * 646
"""Of four songs of 60 s."""


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


def devices(song_seconds: float) -> list[stage_pb2.DescribeResponse]:
    """Stages of an assumed kind: samples of `song()` take so long, in company too; encoding and decoding are shares of it."""

    def stage(name: str, costs: dict[str, dict[str, float]], **limits: float) -> stage_pb2.DescribeResponse:
        named = [stage_pb2.Cost(name=cost, coefficients=coefficients) for cost, coefficients in costs.items()]
        return stage_pb2.DescribeResponse(stage=name, costs=named, limits=limits)

    def all_three(row_frame_seconds: float) -> list[stage_pb2.DescribeResponse]:
        tokens = {"text_tokens": {"characters": 0.25}, "lyric_tokens": {"characters": 0.5}}
        return [
            stage("encoder", {"encode": {"prompts": ENCODE_SHARE * song_seconds}} | tokens),
            stage("diffusion", {"forward": {"row_frames": row_frame_seconds}}, forward_row_frames=FORWARD_ROW_FRAMES),
            stage("vae", {"decode": {"songs": DECODE_SHARE * song_seconds}}),
        ]

    probe = Simulation(all_three(1.0), refuse=False)
    probe.add(0.0, song())
    return all_three(song_seconds / probe.requests[0].prediction.alone[DIFFUSION])


def song() -> music_pb2.GenerateRequest:
    """One of 60 s with few steps: of its samples the simulation needs the time, not each step."""
    sampling = {"infer_step": 10, "guidance_scale": 1.0}
    return music_pb2.GenerateRequest(prompt={"tags": "funk, bass"}, sampling=sampling, text_to_music={"duration_seconds": 60})


def run(
    song_seconds: float,
    load: Load,
    target_seconds: float,
    startup_seconds: float,
    maximum: int = 64,
    seed: int = 0,
) -> dict[str, Any]:
    """Figures of one target."""
    replicas = (maximum, max(round(load.devices), 1), maximum)
    randoms, simulation = random.Random(seed), Simulation(devices(song_seconds), replicas, refuse=False, seed=seed)
    scaler = Autoscaler(simulation, target_seconds, startup_seconds, 1, maximum, load.seconds)
    now = 0.0
    while now < load.seconds:
        now += randoms.expovariate(load.at(now) / song_seconds)
        simulation.add(now, song())
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoscaling", description=__doc__.partition("\n")[0])
    parser.add_argument("--targets", type=float, nargs="+", default=[5, 10, 30, 60, 120], metavar="SECONDS", help="(default: %(default)s)")
    parser.add_argument("--startup", type=float, nargs="+", default=[20, 60, 180], metavar="SECONDS", help="(default: %(default)s)")
    parser.add_argument("--song-seconds", type=float, default=10.0, help="of a device, for the samples of one song (default: %(default)s)")
    parser.add_argument("--rise", type=float, default=5.0, help="of the load (default: %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    load = Load(rise=options.rise)
    results = []
    for startup in options.startup:
        for target in options.targets:
            results.append(run(options.song_seconds, load, target, startup))
            print(json.dumps({name: value for name, value in results[-1].items() if name != "history"}), flush=True)
    if options.plot:
        draw(options.plot, results, load)
    return 0


if __name__ == "__main__":
    sys.exit(main())
