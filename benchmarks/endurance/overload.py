"""`python -m benchmarks.endurance.overload`: three times the traffic that the system can take, for ten minutes.

Four processes, the stages with a lower priority of the processor than the orchestrator beside them. First callers who wait for each other's
end find the peak: songs per second when as many calls as the stages can overlap are always under way. Then calls arrive at random at three
times that rate, each with a deadline. Goodput is songs that came before it; refusals are timed at the caller and, from the server's log, at
the server. Memory is compared between the first and the last third.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from typing import Any

import numpy as np

from benchmarks.endurance import processes
from benchmarks.endurance.processes import Bound, memory_bytes
from benchmarks.load import Outcome, Traffic, draw_calls, place, summarise
from tests.integration.conftest import STAGES, Server, System

TIMES_CAPACITY = 3.0
LEAST_OF_PEAK = 0.9
MOST_REFUSAL_SECONDS = 0.05
MOST_MEMORY_GROWTH = 1.05
CALLERS = 8
DEADLINE_SECONDS = 10.0
SAMPLE_SECONDS = 2.0
TRAFFIC = {"seconds": (2.0, 5.0, 10.0), "tasks": ("text_to_music", "retake"), "steps": (8, 16)}


async def peak(system: System, seconds: float, seed: int) -> float:
    """Songs per second with CALLERS callers, each of whom calls again when a song is there."""
    traffic = Traffic(rate=1.0, requests=10_000, **TRAFFIC)
    calls, done, started = iter(draw_calls(traffic, {}, seed)), 0, time.perf_counter()

    async def work() -> None:
        nonlocal done
        while time.perf_counter() < started + seconds:
            outcome = await place(next(calls), system.front.target, traffic)
            done += outcome.code == "OK"

    await asyncio.gather(*(work() for _ in range(CALLERS)))
    return done / (time.perf_counter() - started)


async def watch_memory(system: System) -> list[dict[str, int]]:
    """Bytes of every server, again and again until it is cancelled."""
    samples: list[dict[str, int]] = []
    try:
        while True:
            samples.append({name: memory_bytes(server) for name, server in system.servers.items()})
            await asyncio.sleep(SAMPLE_SECONDS)
    except asyncio.CancelledError:
        return samples


async def overload(system: System, rate: float, seconds: float, seed: int) -> tuple[list[Outcome], float]:
    """What came of calls that arrive for so long, and how long it was until the last ended."""
    traffic = Traffic(rate=rate, requests=max(int(rate * seconds), 1), timeout=DEADLINE_SECONDS, **TRAFFIC)
    started = time.perf_counter()

    async def arrive(call: Any) -> Outcome:
        await asyncio.sleep(started + call.arrival - time.perf_counter())
        return await place(call, system.front.target, traffic)

    outcomes = await asyncio.gather(*map(arrive, draw_calls(traffic, {}, seed)))
    return list(outcomes), time.perf_counter() - started


def refused_at_the_server(server: Server, from_line: int) -> list[float]:
    """Seconds of refused calls in the server's log."""
    records = [json.loads(line) for line in server.log().splitlines()[from_line:] if line.startswith("{")]
    return [record["seconds"] for record in records if record["event"] == "request" and record.get("code") == "RESOURCE_EXHAUSTED"]


def growth(samples: list[dict[str, int]]) -> dict[str, float]:
    """Of each server's memory from the first third to the last."""
    third = max(len(samples) // 3, 1)
    return {
        name: statistics.median(one[name] for one in samples[-third:]) / statistics.median(one[name] for one in samples[:third])
        for name in samples[0]
    }


def megabytes_each_minute(samples: list[dict[str, int]]) -> dict[str, list[float]]:
    """Of each server's memory, medians."""
    a_minute = round(60 / SAMPLE_SECONDS)
    minutes = [samples[start : start + a_minute] for start in range(0, len(samples), a_minute)]
    return {name: [round(statistics.median(one[name] for one in minute) / 1e6, 1) for minute in minutes] for name in samples[0]}


async def run(seconds: float, peak_seconds: float, seed: int) -> dict[str, Any]:
    """Peak, then too much."""
    with processes.system() as system:
        for name, server in system.servers.items():
            if name in STAGES:
                processes.yield_to_others(server)
        await peak(system, peak_seconds / 3, seed)  # costs settle, memory grows to what it needs
        capacity = await peak(system, peak_seconds, seed + 1)
        lines = len(system.front.log().splitlines())
        watching = asyncio.create_task(watch_memory(system))
        await asyncio.sleep(0)
        outcomes, lasted = await overload(system, TIMES_CAPACITY * capacity, seconds, seed + 2)
        watching.cancel()
        memory = await watching
        grown = growth(memory)
        refused = refused_at_the_server(system.front, lines)
    goodput = sum(outcome.code == "OK" for outcome in outcomes) / lasted
    seen = [outcome.seconds for outcome in outcomes if outcome.code == "RESOURCE_EXHAUSTED"]
    bounds = {
        "goodput_of_peak": Bound(goodput / capacity if capacity else None, least=LEAST_OF_PEAK),
        "refusal_seconds_p99_at_the_server": Bound(float(np.percentile(refused, 99)) if refused else None, most=MOST_REFUSAL_SECONDS),
        "refusal_seconds_p99_at_the_caller": Bound(float(np.percentile(seen, 99)) if seen else None, most=MOST_REFUSAL_SECONDS),
        "largest_growth_of_memory": Bound(max(grown.values()), most=MOST_MEMORY_GROWTH),
        "other_codes": Bound(sum(outcome.code not in ("OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED") for outcome in outcomes), most=0),
    }
    figures = {
        "peak_songs_per_second": capacity,
        "songs_per_second": goodput,
        "growth": grown,
        "megabytes_each_minute": megabytes_each_minute(memory),
        "load": summarise(outcomes, lasted),
    }
    return processes.report(bounds, figures)


def main(arguments: list[str] | None = None) -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="of too much traffic (default: %(default)s)")
    parser.add_argument("--peak-seconds", type=float, default=60.0, help="of finding the peak (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: %(default)s)")
    return processes.main(parser, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
