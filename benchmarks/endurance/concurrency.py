"""`python -m benchmarks.endurance.concurrency`: sixteen different requests one after another, then the same sixteen at once.

Four processes, one thread each; the codec may work at a song on each core (ACESTEP_VAE_WORKERS). A run is a pair of both; the medians of
the pairs decide. A request's fair share of the queue is what it waits where every other one gets as much of the machine as itself: of each
the smaller of its own and the other's time alone.
"""

import argparse
import asyncio
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from acestep_rpc.channels import connect
from acestep_rpc.v1 import music_pb2, sampling_pb2
from benchmarks.endurance import processes
from benchmarks.endurance.processes import Bound, cpu_seconds
from benchmarks.load import LYRICS, TAGS, TASKS, task_fields, upload_sources
from tests.integration.conftest import System
from tests.integration.requests import generate

LENGTHS = (3.0, 5.0, 8.0, 12.0, 20.0, 30.0, 45.0, 60.0)
CFG_TYPES = (sampling_pb2.CFG_TYPE_APG, sampling_pb2.CFG_TYPE_CFG, sampling_pb2.CFG_TYPE_CFG_STAR)
MOST_OF_SEQUENTIAL = 0.6
MOST_OF_SOLO = 3.0


def draw_requests(sources: dict[float, str], seed: int) -> list[music_pb2.GenerateRequest]:
    """Sixteen requests: every length twice, every task at least twice, any steps, solvers, guidance; every fourth under an adapter."""
    rng = random.Random(seed)
    lengths = list(LENGTHS * 2)
    rng.shuffle(lengths)
    made = []
    for index, seconds in enumerate(lengths):
        task = TASKS[index % len(TASKS)]
        sampling = sampling_pb2.SamplingParams(
            infer_step=rng.choice((12, 20, 27)),
            guidance_scale=rng.choice((1.0, 7.0, 15.0)),
            cfg_type=rng.choice(CFG_TYPES) if task != "edit" else sampling_pb2.CFG_TYPE_APG,
        )
        if task in ("text_to_music", "retake", "audio_to_audio"):
            sampling.scheduler_type = rng.choice((sampling_pb2.SCHEDULER_TYPE_EULER, sampling_pb2.SCHEDULER_TYPE_HEUN))
        made.append(
            music_pb2.GenerateRequest(
                prompt=music_pb2.Prompt(tags=rng.choice(TAGS), lyrics=LYRICS),
                seeds=[index],
                sampling=sampling,
                adapters=[sampling_pb2.AdapterSelection(name="loud")] if index % 4 == 3 else [],
                **task_fields(task, seconds, sources),
            )
        )
        if task in ("retake", "repaint", "extend", "edit"):  # drawn anew for every call otherwise
            getattr(made[-1], task).retake_seeds.append(100 + index)
    return made


async def one(system: System, request: music_pb2.GenerateRequest) -> tuple[float, str]:
    """Seconds to the last byte of a song, and its digest."""
    started = time.perf_counter()
    async with system.music() as stub:
        answer = await generate(stub, request)
    return time.perf_counter() - started, answer.result.songs[0].sha256


async def measure(system: System, requests: Sequence[music_pb2.GenerateRequest]) -> dict[str, Any]:
    """One after another, then at once."""
    before = {name: cpu_seconds(server) for name, server in system.servers.items()}
    started = time.perf_counter()
    alone = [await one(system, request) for request in requests]
    sequential = time.perf_counter() - started
    between = {name: cpu_seconds(server) for name, server in system.servers.items()}
    started = time.perf_counter()
    together = await asyncio.gather(*(one(system, request) for request in requests))
    concurrent = time.perf_counter() - started
    after = {name: cpu_seconds(server) for name, server in system.servers.items()}
    solo = [seconds for seconds, _ in alone]
    return {
        "one_after_another_seconds": sequential,
        "at_once_seconds": concurrent,
        "ratio": concurrent / sequential,
        "same_songs": [digest for _, digest in alone] == [digest for _, digest in together],
        "one_after_another_cpu_seconds": {name: between[name] - before[name] for name in before},
        "at_once_cpu_seconds": {name: after[name] - between[name] for name in before},
        "requests": [
            {
                "task": request.WhichOneof("task"),
                "alone_seconds": own,
                "at_once_seconds": seconds,
                "allowed_seconds": MOST_OF_SOLO * own + sum(min(own, other) for other in solo) - own,
            }
            for request, own, (seconds, _) in zip(requests, solo, together, strict=True)
        ],
    }


async def run(pairs: int, seed: int) -> dict[str, Any]:
    """All pairs on one system."""
    os.environ["ACESTEP_VAE_WORKERS"] = str(os.cpu_count())  # the servers have it from here
    with processes.system() as system:
        async with connect(system.front.target) as channel:
            sources = await upload_sources(channel, LENGTHS)
        requests = draw_requests(sources, seed)
        for request in requests[:6]:  # the first of everything is slow
            await one(system, request)
        measured = [await measure(system, requests) for _ in range(pairs)]
    slowest = max(request["at_once_seconds"] / request["allowed_seconds"] for pair in measured for request in pair["requests"])
    bounds = {
        "ratio_at_once_to_one_after_another": Bound(statistics.median(pair["ratio"] for pair in measured), most=MOST_OF_SEQUENTIAL),
        "slowest_request_of_what_it_may_take": Bound(slowest, most=1.0),
        "pairs_with_the_same_songs": Bound(sum(pair["same_songs"] for pair in measured), least=pairs),
    }
    return processes.report(bounds, {"pairs": measured})


def main(arguments: list[str] | None = None) -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.concurrency", description=__doc__)
    parser.add_argument("--pairs", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the requests (default: %(default)s)")
    return processes.main(parser, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
