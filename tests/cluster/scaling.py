"""One run of the autoscalers: what arrives, what waits, how many replicas there are, second by second. Draws it too."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client

from benchmarks import load
from tests.cluster.prometheus import Prometheus
from tests.cluster.release import STAGES, Release

BACKLOG = "acestep_stage_backlog_seconds"
_SAMPLE_SECONDS = 0.5


@dataclass
class Sample:
    """One moment.

    Attributes:
        seconds: Since the start.
        backlog: Seconds of work by stage, as the autoscalers get it; a stage of which nothing is known is not in it.
        wanted: Replicas by stage, as the autoscaler set them.
        ready: Of these.
    """

    seconds: float
    backlog: dict[str, float]
    wanted: dict[str, int]
    ready: dict[str, int]


@dataclass
class Phase:
    """Open-loop traffic.

    Attributes:
        name: For the drawing.
        rate: Calls a second.
        begin: Seconds since the start of the recording.
        end: When its last call had arrived.
    """

    name: str
    rate: float
    begin: float = 0.0
    end: float = 0.0


@dataclass
class Recording:
    """All of a run.

    Attributes:
        targets: Backlog for each replica that autoscalers aim at, by stage.
        phases: In order.
        samples: In order.
        codes: Of all calls.
    """

    targets: dict[str, float]
    phases: list[Phase] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)

    def passed(self, stage: str, after: float = 0.0) -> float | None:
        """When the backlog was first above what the replicas of that moment should have."""
        found = (one for one in self.samples if one.seconds >= after and stage in one.backlog)
        return next((one.seconds for one in found if one.backlog[stage] > 1.1 * self.targets[stage] * one.wanted[stage]), None)

    def scaled(self, stage: str, after: float) -> float | None:
        """When more replicas were first wanted than at a moment."""
        later = [one for one in self.samples if one.seconds >= after]
        return next((one.seconds for one in later if one.wanted[stage] > later[0].wanted[stage]), None)

    def most(self, stage: str, begin: float, end: float) -> int:
        """Most replicas wanted between two moments."""
        return max(one.wanted[stage] for one in self.samples if begin <= one.seconds <= end)

    def save(self, folder: Path) -> None:
        """As JSON and as a picture."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scaling.json").write_text(json.dumps(asdict(self) | {"codes": dict(self.codes)}, indent=1) + "\n")
        draw(self, folder / "scaling.png")


class Recorder:
    """Looks at a release twice a second in the block of `async with`."""

    def __init__(self, release: Release, prometheus: Prometheus, query: str, targets: dict[str, float]) -> None:
        self._release, self._prometheus, self._query = release, prometheus, query
        self._apps: Any = client.AppsV1Api(release.cluster.api)
        self.recording = Recording(targets)
        self._began = time.monotonic()

    async def __aenter__(self) -> "Recorder":
        self._looking = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._looking

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._began

    async def send(self, name: str, target: str, traffic: load.Traffic, seed: int) -> None:
        """Let traffic arrive at a server, until every call has ended."""
        phase = Phase(name, traffic.rate, self.seconds)
        calls = load.draw_calls(traffic, {}, seed)
        phase.end = phase.begin + calls[-1].arrival
        print(f"{self.seconds:6.1f} {name}: {traffic.requests} calls, {traffic.rate:.2f} a second", flush=True)
        self.recording.phases.append(phase)
        self.recording.codes.update((await load.run(target, traffic, seed))["codes"])

    async def _look(self) -> None:
        while True:
            with contextlib.suppress(OSError, client.ApiException, urllib3.exceptions.HTTPError):  # a busy machine: no sample
                self.recording.samples.append(await asyncio.to_thread(self._sample))
            await asyncio.sleep(_SAMPLE_SECONDS)

    def _sample(self) -> Sample:
        sample = Sample(self.seconds, {}, {}, {})
        for stage in STAGES:
            value = self._prometheus.query(self._query.replace("STAGE", stage))
            if value is not None:
                sample.backlog[stage] = value
            deployment = self._apps.read_namespaced_deployment(f"{self._release.name}-acestep-{stage}", self._release.namespace)
            sample.wanted[stage], sample.ready[stage] = deployment.spec.replicas, deployment.status.ready_replicas or 0
        return sample


async def seconds_per_song(target: str, traffic: load.Traffic) -> float:
    """What a song of this traffic takes where several wait for the same replicas; their predictions follow what they see meanwhile."""
    songs = 8
    return float((await load.run(target, replace(traffic, requests=songs, rate=100.0), 0))["seconds"]) / songs


def draw(recording: Recording, path: Path) -> None:
    """Load, backlog and replicas over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (arrivals, backlogs, replicas) = pyplot.subplots(3, 1, sharex=True, figsize=(9, 7), height_ratios=(1, 2, 2))
    for phase in recording.phases:
        arrivals.fill_between([phase.begin, phase.end], phase.rate, alpha=0.4, color="tab:gray", linewidth=0)
        arrivals.annotate(phase.name, (phase.begin, phase.rate), fontsize=8, va="bottom")
    arrivals.set(ylabel="calls a second")
    arrivals.margins(y=0.3)
    times = [one.seconds for one in recording.samples]
    for stage, colour in zip(STAGES, ("tab:green", "tab:blue", "tab:orange"), strict=True):
        known = [(one.seconds, one.backlog[stage]) for one in recording.samples if stage in one.backlog]
        backlogs.plot(*zip(*known, strict=True), color=colour, label=stage)
        backlogs.plot(
            times, [recording.targets[stage] * one.wanted[stage] for one in recording.samples], color=colour, linestyle=":", linewidth=1
        )
        replicas.step(times, [one.wanted[stage] for one in recording.samples], where="post", color=colour, label=stage)
        replicas.step(times, [one.ready[stage] for one in recording.samples], where="post", color=colour, linestyle="--", linewidth=1)
    backlogs.set(ylabel="backlog in s\n(dotted: target x replicas)")
    backlogs.legend(loc="upper right")
    replicas.set(ylabel="replicas\n(dashed: ready)", xlabel="seconds")
    replicas.yaxis.get_major_locator().set_params(integer=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
