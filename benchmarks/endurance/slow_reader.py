"""`python -m benchmarks.endurance.slow_reader`: callers that read a kilobyte a second hold up nobody but themselves.

Four processes. Songs are asked for one after another, first without and then beside callers whose long songs are made and hardly read. The
latencies of the songs must not change, and what the slow callers cost the orchestrator in memory is bounded; their songs go on where they
were. One of them then reads on at full speed, and its song must be whole.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from typing import Any

import grpc.aio

from acestep_rpc.v1 import music_pb2_grpc
from benchmarks.endurance import processes
from benchmarks.endurance.processes import Bound, memory_bytes
from benchmarks.load import WINDOW_BYTES
from tests.integration.conftest import System
from tests.integration.requests import Answer, generate, song_request

SLOW_SECONDS = 120.0
"""Length of the songs of slow callers: 23 MB each."""
BYTES_PER_SECOND = 1000.0
MOST_SLOWER = 1.25
MOST_BYTES_PER_READER = 12 << 20
"""4 MiB of events that wait, a chunk of 1 MiB at each of their stations, buffers of the connection."""


class SlowReader:
    """A caller that reads a kilobyte a second, at its own connection with a small window."""

    def __init__(self, system: System, seed: int) -> None:
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
            ("grpc.http2.bdp_probe", 0),
        ]
        self._channel = grpc.aio.insecure_channel(system.front.target, options=options)
        self._call = music_pb2_grpc.MusicServiceStub(self._channel).Generate(song_request(seconds=SLOW_SECONDS, seeds=(seed,)))
        self.answer = Answer()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while (event := await self._call.read()) is not grpc.aio.EOF:
            self.answer.events.append(event)
            await asyncio.sleep(event.ByteSize() / BYTES_PER_SECOND if event.WhichOneof("event") == "audio_chunk" else 0)

    async def hurry(self) -> Answer:
        """The rest, at once."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        while (event := await self._call.read()) is not grpc.aio.EOF:
            self.answer.events.append(event)
        return self.answer

    async def close(self) -> None:
        """Hang up."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._channel.close()


async def latencies(system: System, songs: int) -> list[float]:
    """Of songs one after another."""
    found = []
    for _ in range(songs):
        started = time.perf_counter()
        async with system.music() as music:
            await generate(music, song_request(seconds=10.0, steps=10))
        found.append(time.perf_counter() - started)
    return found


async def decoded(system: System) -> float:
    """Songs whose decoding has come to its end."""
    return await asyncio.to_thread(system.stage("vae").metric, "acestep_requests_total", method="DecodeLatents", code="OK")


async def run(readers: int, songs: int, patience: float) -> dict[str, Any]:
    """Without slow callers, beside them, and after one hurried."""
    with processes.system() as system:
        await latencies(system, 2)
        async with system.music() as music:  # what a long song costs the servers' allocators once
            whole = (await generate(music, song_request(seconds=SLOW_SECONDS, seeds=(0,)))).file()
        before = await latencies(system, songs)
        memory, done = memory_bytes(system.front), await decoded(system)
        async with contextlib.AsyncExitStack() as stack:
            slow = [SlowReader(system, seed) for seed in range(readers)]
            for reader in slow:
                stack.push_async_callback(reader.close)
            deadline = time.monotonic() + patience
            while (made := await decoded(system) - done) < readers and time.monotonic() < deadline:
                await asyncio.sleep(0.5)
            grown = (memory_bytes(system.front) - memory) / readers
            beside = await latencies(system, songs)
            read = [sum(event.WhichOneof("event") == "audio_chunk" for event in reader.answer.events) for reader in slow]
            hurried = (await slow[0].hurry()).file()
    bounds = {
        "latency_beside_over_without": Bound(statistics.median(beside) / statistics.median(before), most=MOST_SLOWER),
        "songs_of_slow_readers_that_left_the_stages": Bound(made, least=readers),
        "memory_bytes_per_slow_reader": Bound(grown, most=MOST_BYTES_PER_READER),
        "songs_that_slow_readers_had_read": Bound(sum(count > SLOW_SECONDS / 5 for count in read), most=0),
        "the_song_of_one_that_hurried_is_whole": Bound(hurried == whole, least=1),
    }
    return processes.report(bounds, {"seconds_without": before, "seconds_beside": beside, "chunks_read": read})


def main(arguments: list[str] | None = None) -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance.slow_reader", description=__doc__)
    parser.add_argument("--readers", type=int, default=8, help="slow ones (default: %(default)s)")
    parser.add_argument("--songs", type=int, default=15, help="of the others (default: %(default)s)")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds for the slow readers' songs (default: %(default)s)")
    return processes.main(parser, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
