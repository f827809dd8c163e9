"""`python -m benchmarks.endurance.overhead`: a song of 30 s from four processes over gRPC against the same song from one process.

Both systems run at once and take turns, so a pair sees the same machine; the medians of the pairs decide. One thread a process. Wall time
is what the caller sees; processor time is that of all servers.
"""

import argparse
import contextlib
import statistics
import sys
import time
from typing import Any

from benchmarks.endurance import processes
from benchmarks.endurance.processes import Bound, cpu_seconds
from tests.integration.conftest import System, running
from tests.integration.requests import generate, song_request

SONG_SECONDS, STEPS = 30.0, 27
MOST_OVERHEAD = 1.05


async def one(system: System) -> tuple[float, float, str]:
    """Seconds that a song takes, processor seconds of the servers, and its digest."""
    cpu = sum(map(cpu_seconds, system.servers.values()))
    started = time.perf_counter()
    async with system.music() as music:
        answer = await generate(music, song_request(seconds=SONG_SECONDS, steps=STEPS))
    seconds = time.perf_counter() - started
    return seconds, sum(map(cpu_seconds, system.servers.values())) - cpu, answer.result.songs[0].sha256


async def run(pairs: int) -> dict[str, Any]:
    """Both systems, in turn."""
    with contextlib.ExitStack() as stack:
        checkpoint, adapters, folder = stack.enter_context(processes.model())
        systems = {}
        for mode in ("embedded", "remote"):
            (folder / mode).mkdir()
            systems[mode] = stack.enter_context(running(mode, checkpoint, adapters, folder / mode))
            await one(systems[mode])  # the first of everything is slow
        measured = []
        for number in range(pairs):
            order = ("embedded", "remote") if number % 2 else ("remote", "embedded")
            measured.append({mode: await one(systems[mode]) for mode in order})
    ratios = {
        name: [pair["remote"][index] / pair["embedded"][index] for pair in measured]
        for index, name in enumerate(("seconds", "cpu_seconds"))
    }
    bounds = {
        "remote_over_embedded_seconds": Bound(statistics.median(ratios["seconds"]), most=MOST_OVERHEAD),
        "remote_over_embedded_cpu_seconds": Bound(statistics.median(ratios["cpu_seconds"]), most=MOST_OVERHEAD),
        "songs": Bound(len({made[2] for pair in measured for made in pair.values()}), most=1),
    }
    medians = {
        f"{mode}_{name}": statistics.median(pair[mode][index] for pair in measured)
        for mode in systems
        for index, name in enumerate(("seconds", "cpu_seconds"))
    }
    return processes.report(bounds, {**medians, "ratios": ratios})


def main(arguments: list[str] | None = None) -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.overhead", description=__doc__)
    parser.add_argument("--pairs", type=int, default=9, help="(default: %(default)s)")
    return processes.main(parser, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
