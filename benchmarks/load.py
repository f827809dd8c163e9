"""`python -m benchmarks.load --server HOST:PORT`: open-loop load on a running server; prints what came of it as JSON.

Requests arrive at random (Poisson) whether or not earlier ones are done, as those of real callers do, so that a server that falls behind
shows it. Lengths, tasks and steps are drawn from a seed; some callers hang up at a random moment, some read slowly. The draws of one seed
are the same in every run.
"""

import argparse
import asyncio
import collections
import io
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import numpy as np
import soundfile

from acestep_rpc.v1 import music_pb2, music_pb2_grpc, sampling_pb2

SOURCE_RATE = 44_100
TASKS = ("text_to_music", "retake", "repaint", "extend", "edit", "audio_to_audio")
TAGS = ("funk, bass, 108 bpm", "jazz, piano", "rock, drums, female vocals", "ambient")
LYRICS = "[verse]\nhello world\nwe sing"
WINDOW_BYTES = 65_536
"""Of HTTP/2, for slow readers: what the server may send ahead of them."""


@dataclass(frozen=True)
class Traffic:
    """What arrives.

    Attributes:
        rate: Requests per second, in the mean.
        requests: How many.
        seconds: Lengths of songs to draw from; sources are as long.
        tasks: Tasks to draw from.
        steps: Numbers of steps to draw from; empty: the server's default.
        cancelled: Share of callers who hang up.
        patience: They do so at a moment drawn from 0 to so many seconds.
        slow: Share of callers who read slowly.
        bytes_per_second: How slowly.
        timeout: Deadline of every call in seconds; None: none.
    """

    rate: float
    requests: int
    seconds: Sequence[float] = (5.0, 10.0, 30.0)
    tasks: Sequence[str] = TASKS
    steps: Sequence[int] = ()
    cancelled: float = 0.0
    patience: float = 10.0
    slow: float = 0.0
    bytes_per_second: float = 100_000.0
    timeout: float | None = None


@dataclass(frozen=True)
class Call:
    """One caller.

    Attributes:
        arrival: Seconds after the start.
        request: What is asked for.
        hangs_up: After so many seconds; None: listens to the end.
        slow: Reads slowly.
    """

    arrival: float
    request: music_pb2.GenerateRequest
    hangs_up: float | None
    slow: bool


@dataclass(frozen=True)
class Outcome:
    """What came of a call.

    Attributes:
        code: "OK", "HUNG_UP" or the name of a status code.
        seconds: From the call to its end.
        accepted: Until it was accepted; None: never.
        first_audio: Until the first piece of the song; None: never.
        audio_seconds: Of finished songs.
        slow: The caller read slowly.
    """

    code: str
    seconds: float
    accepted: float | None = None
    first_audio: float | None = None
    audio_seconds: float = 0.0
    slow: bool = False


def draw_calls(traffic: Traffic, sources: dict[float, str], seed: int) -> list[Call]:
    """The callers, in order of arrival.

    Args:
        traffic: What arrives.
        sources: Names of uploads, by their length in seconds.
        seed: Of all draws.
    """
    rng, arrival, calls = random.Random(seed), 0.0, []
    for _ in range(traffic.requests):
        arrival += rng.expovariate(traffic.rate)
        seconds, task = rng.choice(list(traffic.seconds)), rng.choice(list(traffic.tasks))
        request = music_pb2.GenerateRequest(
            prompt=music_pb2.Prompt(tags=rng.choice(TAGS), lyrics=LYRICS),
            seeds=[rng.randrange(2**32)],
            sampling=sampling_pb2.SamplingParams(infer_step=rng.choice(list(traffic.steps))) if traffic.steps else None,
            **_task(task, seconds, sources),
        )
        hangs_up = rng.uniform(0, traffic.patience) if rng.random() < traffic.cancelled else None
        calls.append(Call(arrival, request, hangs_up, rng.random() < traffic.slow))
    return calls


def _task(name: str, seconds: float, sources: dict[float, str]) -> dict[str, Any]:
    source = {"asset": sources[seconds]} if sources else {}
    fields: dict[str, dict[str, Any]] = {
        "text_to_music": {"duration_seconds": seconds},
        "retake": {"duration_seconds": seconds, "retake_variances": [0.3]},
        "repaint": {"source": source, "regions": [{"start_seconds": seconds / 4, "end_seconds": seconds / 2}]},
        "extend": {"source": source, "right_seconds": seconds / 2},
        "edit": {"source": source, "target": {"tags": TAGS[0], "lyrics": LYRICS}},
        "audio_to_audio": {"source": source},
    }
    return {name: fields[name]}


async def upload_sources(channel: grpc.aio.Channel, lengths: Sequence[float]) -> dict[float, str]:
    """Upload a tone of each length; their names, by length."""
    stub, names = music_pb2_grpc.MusicServiceStub(channel), {}
    for seconds in lengths:
        tone = 0.1 * np.sin(2 * np.pi * 220 * np.arange(int(seconds * SOURCE_RATE)) / SOURCE_RATE)
        file = io.BytesIO()
        soundfile.write(file, tone.astype(np.float32), SOURCE_RATE, format="FLAC")
        names[seconds] = (await stub.UploadAudio(iter([music_pb2.UploadAudioRequest(data=file.getvalue())]))).name
    return names


async def place(call: Call, target: str, traffic: Traffic) -> Outcome:
    """Make one call on a connection of its own, so that a slow reader holds back nobody but itself."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    if call.slow:
        options += [("grpc.http2.lookahead_bytes", WINDOW_BYTES), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        started = time.perf_counter()
        listening = _Listening(started, call.slow)
        try:
            async with asyncio.timeout(call.hangs_up):
                pace = traffic.bytes_per_second if call.slow else None
                await listening.listen(music_pb2_grpc.MusicServiceStub(channel).Generate(call.request, timeout=traffic.timeout), pace)
            return listening.outcome("OK")
        except TimeoutError:
            return listening.outcome("HUNG_UP")
        except grpc.aio.AioRpcError as error:
            return listening.outcome(error.code().name)


class _Listening:
    """What a caller has heard so far."""

    def __init__(self, started: float, slow: bool) -> None:
        self._started, self._slow = started, slow
        self._accepted: float | None = None
        self._first_audio: float | None = None
        self._audio_seconds = 0.0

    async def listen(self, events: Any, bytes_per_second: float | None) -> None:
        async for event in events:
            elapsed = time.perf_counter() - self._started
            match event.WhichOneof("event"):
                case "accepted":
                    self._accepted = elapsed
                case "audio_chunk" if not event.audio_chunk.HasField("preview_step"):
                    if self._first_audio is None:
                        self._first_audio = elapsed
                    if bytes_per_second:
                        await asyncio.sleep(len(event.audio_chunk.data) / bytes_per_second)
                case "completed":
                    self._audio_seconds = sum(song.duration_seconds for song in event.completed.songs)

    def outcome(self, code: str) -> Outcome:
        seconds = time.perf_counter() - self._started
        return Outcome(code, seconds, self._accepted, self._first_audio, self._audio_seconds, self._slow)


async def run(target: str, traffic: Traffic, seed: int) -> dict[str, Any]:
    """Let the traffic arrive at a server, and wait until every call has ended.

    Returns:
        What `summarise` says.
    """
    needs_source = set(traffic.tasks) - {"text_to_music", "retake"}
    async with grpc.aio.insecure_channel(target) as channel:
        sources = await upload_sources(channel, sorted(set(traffic.seconds))) if needs_source else {}
    calls = draw_calls(traffic, sources, seed)
    started = time.perf_counter()

    async def arrive(call: Call) -> Outcome:
        await asyncio.sleep(started + call.arrival - time.perf_counter())
        return await place(call, target, traffic)

    outcomes = await asyncio.gather(*map(arrive, calls))
    return summarise(outcomes, time.perf_counter() - started)


def summarise(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """Figures of a run of so many seconds: rates over all of it, quantiles of the calls that ended well; slow readers count apart."""
    good = [outcome for outcome in outcomes if outcome.code == "OK" and not outcome.slow]
    refused = [outcome.seconds for outcome in outcomes if outcome.code == "RESOURCE_EXHAUSTED"]
    return {
        "seconds": seconds,
        "calls": len(outcomes),
        "codes": dict(sorted(collections.Counter(outcome.code for outcome in outcomes).items())),
        "completed_per_second": sum(outcome.code == "OK" for outcome in outcomes) / seconds,
        "audio_seconds_per_second": sum(outcome.audio_seconds for outcome in outcomes) / seconds,
        "latency_seconds": quantiles([outcome.seconds for outcome in good]),
        "accepted_seconds": quantiles([outcome.accepted for outcome in outcomes if outcome.accepted is not None]),
        "first_audio_seconds": quantiles([outcome.first_audio for outcome in good if outcome.first_audio is not None]),
        "refused_seconds": quantiles(refused),
        "slow_reader_seconds": quantiles([outcome.seconds for outcome in outcomes if outcome.code == "OK" and outcome.slow]),
    }


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """Median, 90th and 99th percentile; None of nothing."""
    if not values:
        return None
    return {f"p{share}": float(np.percentile(values, share)) for share in (50, 90, 99)}


def main(arguments: list[str] | None = None) -> int:
    """Read the traffic from the command line, run it, print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument("--rate", type=float, default=1.0, help="requests per second (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=50, help="how many (default: %(default)s)")
    parser.add_argument("--seconds", type=float, nargs="+", default=list(Traffic.seconds), help="lengths (default: %(default)s)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="default: all")
    parser.add_argument("--steps", type=int, nargs="+", default=[], help="numbers of steps (default: the server's)")
    parser.add_argument("--cancelled", type=float, default=0.0, metavar="SHARE", help="of callers who hang up (default: %(default)s)")
    parser.add_argument("--patience", type=float, default=10.0, metavar="SECONDS", help="within which they do (default: %(default)s)")
    parser.add_argument("--slow", type=float, default=0.0, metavar="SHARE", help="of callers who read slowly (default: %(default)s)")
    parser.add_argument("--bytes-per-second", type=float, default=100_000.0, help="how slowly (default: %(default)s)")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="deadline of every call (default: none)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: %(default)s)")
    options = vars(parser.parse_args(arguments))
    target, seed = options.pop("server"), options.pop("seed")
    print(json.dumps(asyncio.run(run(target, Traffic(**options), seed)), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
