"""`python -m benchmarks.endurance.cancels`: five hundred calls that are given up at random moments, and what is left of them: nothing.

Four processes. Callers hang up after so many events of a stage that the call reached (queued, encode, sample, decode), before its first
event, by their deadline, by closing the connection, in the middle of an upload; some are jobs that are cancelled. First some alone, to see
that the device makes at most one more forward for each; then many at a time. Before and after: tasks of the event loops, bytes held of the
devices, predicted work, open files, files in the temporary folder; memory is compared with that after the first hundred.
"""

import argparse
import asyncio
import contextlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.longrunning import operations_pb2, operations_pb2_grpc

from acestep_rpc.channels import connect
from acestep_rpc.v1 import music_pb2, music_pb2_grpc, sampling_pb2, stage_pb2, stage_pb2_grpc
from benchmarks.endurance import processes
from benchmarks.endurance.processes import Bound, memory_bytes, open_files
from benchmarks.load import LYRICS, TAGS, TASKS, task_fields, upload_sources
from tests.integration.conftest import System
from tests.integration.requests import generate, song_request

LENGTHS = (3.0, 20.0, 45.0)
WAYS = ("queued", "encode", "sample", "sample", "decode", "decode", "unheard", "deadline", "connection", "upload", "job")
STAGES = {
    "queued": music_pb2.STAGE_QUEUED,
    "encode": music_pb2.STAGE_ENCODE,
    "sample": music_pb2.STAGE_SAMPLE,
    "decode": music_pb2.STAGE_DECODE,
}
AT_A_TIME = 8
SETTLE_SECONDS = 60.0
MOST_GROWTH = 1.1


def draw_request(rng: random.Random, sources: dict[float, str]) -> music_pb2.GenerateRequest:
    """Any task and length, three songs of it now and then."""
    return music_pb2.GenerateRequest(
        prompt=music_pb2.Prompt(tags=rng.choice(TAGS), lyrics=LYRICS),
        num_variants=rng.choice((1, 1, 3)),
        sampling=sampling_pb2.SamplingParams(infer_step=rng.choice((8, 30))),
        **task_fields(rng.choice(TASKS), rng.choice(LENGTHS), sources),
    )


async def give_up(system: System, way: str, request: music_pb2.GenerateRequest, rng: random.Random) -> str:
    """One call that is given up; how it ended for its caller."""
    pause = rng.uniform(0, 0.2)
    try:
        async with connect(system.front.target) as channel:
            music = music_pb2_grpc.MusicServiceStub(channel)
            match way:
                case "upload":
                    call = music.UploadAudio(_slow_upload())
                    await asyncio.sleep(pause)
                    call.cancel()
                    await call
                case "job":
                    await _cancel_job(channel, music, request, pause)
                case "deadline":
                    await _listen(music.Generate(request, timeout=rng.uniform(0.05, 3.0)), None)
                case "unheard":
                    call = music.Generate(request)
                    await asyncio.sleep(pause)
                    call.cancel()
                    await _listen(call, None)
                case "connection":
                    call = music.Generate(request)
                    await _listen(call, rng.choice(list(STAGES)))
                    await asyncio.sleep(pause)
                case _:
                    call = music.Generate(request)
                    await _listen(call, way)
                    await asyncio.sleep(pause)
                    call.cancel()
                    await _listen(call, None)
        return "ended"
    except grpc.aio.AioRpcError as error:
        return error.code().name
    except asyncio.CancelledError:
        return "CANCELLED"


async def _slow_upload() -> AsyncIterator[music_pb2.UploadAudioRequest]:
    for _ in range(100):
        yield music_pb2.UploadAudioRequest(data=bytes(10_000))
        await asyncio.sleep(0.02)


async def _listen(call: Any, stage: str | None) -> None:
    """Until the first event of a stage; None: to the end."""
    while (event := await call.read()) is not grpc.aio.EOF:
        if stage is not None and event.WhichOneof("event") == "progress" and event.progress.stage >= STAGES[stage]:
            return


async def _cancel_job(channel: grpc.aio.Channel, music: Any, request: music_pb2.GenerateRequest, pause: float) -> None:
    operation = await music.SubmitGeneration(music_pb2.SubmitGenerationRequest(generation=request))
    await asyncio.sleep(5 * pause)
    operations = operations_pb2_grpc.OperationsStub(channel)
    await operations.CancelOperation(operations_pb2.CancelOperationRequest(name=operation.name))
    await operations.WaitOperation(operations_pb2.WaitOperationRequest(name=operation.name))
    await operations.DeleteOperation(operations_pb2.DeleteOperationRequest(name=operation.name))


async def held(system: System, folder: Path | None) -> dict[str, float]:
    """What is there of calls: in every server and stage, and in the folder of their temporary files, if that is theirs alone."""
    found: dict[str, float] = {}
    for name, server in system.servers.items():
        found[f"{name} tasks"] = await asyncio.to_thread(server.metric, "acestep_event_loop_tasks")
        found[f"{name} held bytes"] = await asyncio.to_thread(server.metric, "acestep_held_memory_bytes")
        found[f"{name} predicted seconds"] = await asyncio.to_thread(server.metric, "acestep_backlog_seconds")
        if name != "orchestrator":
            async with connect(server.target) as channel:
                statuses = stage_pb2_grpc.StageServiceStub(channel).WatchStatus(stage_pb2.WatchStatusRequest())
                status = await statuses.read()
                statuses.cancel()
            found[f"{name} running rows"], found[f"{name} waiting requests"] = status.running_rows, status.waiting_requests
    if folder is not None:
        found["temporary files"] = sum(1 for path in folder.rglob("*") if _counts(path))
    return found


def _counts(path: Path) -> bool:
    return path.is_file() and ".sqlite" not in path.name and not path.name.endswith((".ready", ".log"))


async def settled(system: System, wanted: dict[str, float], folder: Path | None = None) -> dict[str, float]:
    """What is left that was not there, when nothing goes away any more."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while left := {name: value for name, value in (await held(system, folder)).items() if value > wanted[name]}:
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(0.5)
    return left


async def forwards_after_cancel(system: System, count: int) -> list[float]:
    """Forwards that the device made for a call after it was given up, of calls that are alone."""
    music_request, diffusion, found = song_request(seconds=45.0, steps=200), system.stage("diffusion"), []
    for _ in range(count):
        async with connect(system.front.target) as channel:
            call = music_pb2_grpc.MusicServiceStub(channel).Generate(music_request)
            await _listen(call, "sample")
            before = await asyncio.to_thread(diffusion.metric, "acestep_requests_total", method="Sample", code="CANCELLED")
            call.cancel()
        while await asyncio.to_thread(diffusion.metric, "acestep_requests_total", method="Sample", code="CANCELLED") == before:
            await asyncio.sleep(0.005)
        heard = await asyncio.to_thread(diffusion.metric, "acestep_step_seconds_count")
        await asyncio.sleep(1.0)
        found.append(await asyncio.to_thread(diffusion.metric, "acestep_step_seconds_count") - heard)
    return found


async def cancel_many(system: System, sources: dict[float, str], numbers: Sequence[int], seed: int) -> Counter[str]:
    """Some at a time; how they ended, by way."""
    waiting, ended = iter(numbers), Counter[str]()

    async def work() -> None:
        for number in waiting:
            rng = random.Random(f"{seed} {number}")
            way = WAYS[number % len(WAYS)]
            ended[f"{way}: {await give_up(system, way, draw_request(rng, sources), rng)}"] += 1

    await asyncio.gather(*(work() for _ in range(AT_A_TIME)))
    return ended


async def run(cancels: int, alone: int, seed: int) -> dict[str, Any]:
    """On one system."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="acestep-cancels-")))
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)  # of the servers too
        system = stack.enter_context(processes.system())
        async with connect(system.front.target) as channel:
            sources = await upload_sources(channel, LENGTHS)
        async with system.music() as music:
            before_song = (await generate(music, song_request())).result.songs[0].sha256
        warm_up = cancels // 5
        ended = await cancel_many(system, sources, range(warm_up), seed)
        wanted = {name: 0.0 if not name.endswith(("tasks", "files")) else value for name, value in (await quiet(system, folder)).items()}
        memory = {name: memory_bytes(server) for name, server in system.servers.items()}
        files = {name: open_files(server) for name, server in system.servers.items()}
        forwards = await forwards_after_cancel(system, alone)
        ended += await cancel_many(system, sources, range(warm_up, cancels), seed)
        left = await settled(system, wanted, folder)
        grown = {name: memory_bytes(server) / memory[name] for name, server in system.servers.items()}
        more_files = {name: open_files(server) - files[name] for name, server in system.servers.items()}
        async with system.music() as music:
            after_song = (await generate(music, song_request())).result.songs[0].sha256
    bounds = {
        "forwards_after_a_cancel": Bound(max(forwards, default=0.0), most=1),
        "things_left_behind": Bound(len(left), most=0),
        "open_files_more": Bound(max(more_files.values()), most=4),
        "largest_growth_of_memory": Bound(max(grown.values()), most=MOST_GROWTH),
        "the_song_is_the_same_afterwards": Bound(before_song == after_song, least=1),
    }
    figures = {"cancels": cancels, "ended": dict(sorted(ended.items())), "left": left, "memory_after_over_before": grown}
    return processes.report(bounds, figures)


async def quiet(system: System, folder: Path | None = None) -> dict[str, float]:
    """What is there when nothing changes any more."""
    last = await held(system, folder)
    for _ in range(int(SETTLE_SECONDS)):
        await asyncio.sleep(1.0)
        found = await held(system, folder)
        if found == last:
            break
        last = found
    return last


def main(arguments: list[str] | None = None) -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.cancels", description=__doc__)
    parser.add_argument("--cancels", type=int, default=500, help="(default: %(default)s)")
    parser.add_argument("--alone", type=int, default=10, help="calls that are given up alone, to count forwards (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: %(default)s)")
    return processes.main(parser, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
