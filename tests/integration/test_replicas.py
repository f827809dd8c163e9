"""Two replicas of each stage behind one orchestrator, as processes that die and drain."""

import asyncio
import io
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from acestep_rpc.channels import connect
from acestep_rpc.v1 import music_pb2, music_pb2_grpc, sampling_pb2
from tests.integration.conftest import STAGES, Server
from tests.integration.requests import Answer, generate, song_request


class Replicated:
    """An orchestrator and its replicas."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self._arguments = ["--checkpoint", str(checkpoint), "--dtype", "float32", "--threads", "1"]
        self._folder = folder
        self.replicas = {stage: [self._server(stage, number) for number in (1, 2)] for stage in STAGES}
        self.front = Server("orchestrator", [], folder)

    def _server(self, stage: str, number: int) -> Server:
        return Server(f"{stage}-{number}", [stage, *self._arguments], self._folder)

    @property
    def servers(self) -> list[Server]:
        return [server for many in self.replicas.values() for server in many] + [self.front]

    def start(self) -> None:
        for stage in STAGES:
            for server in self.replicas[stage]:
                server.start()
        targets = [word for stage, many in self.replicas.items() for word in (f"--{stage}", ",".join(one.target for one in many))]
        self.front.arguments = ["orchestrator", *targets]
        prefix = "ACESTEP_ORCHESTRATOR_"
        self.front.environment = {f"{prefix}SNAPSHOT_SECONDS": "0.05", f"{prefix}REPLICA_WAIT_SECONDS": "60"}
        self.front.start()

    def stop(self) -> None:
        for server in self.servers:
            if server.process is not None and server.process.poll() is None:
                server.stop(signal.SIGKILL)

    def ready(self, stage: str) -> float:
        return self.front.metric("acestep_pool_replicas", stage=stage, state="ready")

    async def until_ready(self, stage: str, count: int) -> None:
        async with asyncio.timeout(30):
            while self.ready(stage) != count:
                await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def replicated(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicated]:
    system = Replicated(checkpoint, tmp_path_factory.mktemp("replicated"))
    try:
        system.start()
        yield system
    finally:
        system.stop()


async def song(replicated: Replicated, **fields: Any) -> bytes:
    """Its samples."""
    async with connect(replicated.front.target) as channel:
        answer = await generate(music_pb2_grpc.MusicServiceStub(channel), song_request(**fields))
    samples, _ = soundfile.read(io.BytesIO(answer.file()), dtype="int16")  # the file has the times of its making too
    return bytes(samples.tobytes())


async def test_every_replica_works_and_the_song_is_the_same(replicated: Replicated) -> None:
    songs = await asyncio.gather(*(song(replicated) for _ in range(6)))
    assert len(set(songs)) == 1
    for stage in STAGES:
        await replicated.until_ready(stage, 2)
    served = [one.metric("acestep_requests_total", method="Sample", code="OK") for one in replicated.replicas["diffusion"]]
    assert sum(served) == 6


@pytest.mark.parametrize("stage", STAGES)
async def test_songs_go_on_while_a_replica_is_killed_and_it_is_taken_back(replicated: Replicated, stage: str) -> None:
    expected = await song(replicated)
    victim = replicated.replicas[stage][0]
    await replicated.until_ready(stage, 2)
    victim.stop(signal.SIGKILL)
    assert [await song(replicated) for _ in range(3)] == [expected] * 3
    assert replicated.ready(stage) == 1
    victim.start()
    await replicated.until_ready(stage, 2)
    assert await song(replicated) == expected


LONG = {"seconds": 20.0, "steps": 40, "seeds": (7, 8)}
PINGPONG = sampling_pb2.SamplingParams(scheduler_type=sampling_pb2.SCHEDULER_TYPE_PINGPONG)


class Listener:
    """A call of Generate under way."""

    def __init__(self, replicated: Replicated, **fields: Any) -> None:
        self.steps: list[int] = []
        self._answer = Answer()
        self._task = asyncio.create_task(self._listen(replicated.front.target, song_request(**fields)))

    async def _listen(self, target: str, request: music_pb2.GenerateRequest) -> None:
        async with connect(target) as channel:
            async for event in music_pb2_grpc.MusicServiceStub(channel).Generate(request):
                self._answer.events.append(event)
                if event.progress.stage == music_pb2.STAGE_SAMPLE:
                    self.steps.append(event.progress.step)

    async def samples(self) -> list[bytes]:
        """Of its songs, at its end. Its steps never ran backwards."""
        await self._task
        assert self.steps == sorted(set(self.steps))
        files = [soundfile.read(io.BytesIO(self._answer.file(index)), dtype="int16")[0] for index in range(2)]
        return [bytes(samples.tobytes()) for samples in files]


async def until_halfway(replicated: Replicated, listener: Listener) -> Server:
    """Until there are snapshots and a third of the steps is done; the replica that did them."""
    before = [one.metric("acestep_snapshots_total", outcome="sent") for one in replicated.replicas["diffusion"]]
    async with asyncio.timeout(60):
        while len(listener.steps) < 20:
            await asyncio.sleep(0.02)
        while True:
            for server, sent in zip(replicated.replicas["diffusion"], before, strict=True):
                if server.metric("acestep_snapshots_total", outcome="sent") > sent:
                    return server
            await asyncio.sleep(0.02)


def resumed(server: Server) -> float:
    return server.metric("acestep_snapshots_total", outcome="resumed")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_song_goes_on_at_another_replica_when_its_own_is_killed_or_drains(replicated: Replicated, number: signal.Signals) -> None:
    await replicated.until_ready("diffusion", 2)
    expected = await Listener(replicated, **LONG, sampling=PINGPONG).samples()
    listener = Listener(replicated, **LONG, sampling=PINGPONG)
    victim = await until_halfway(replicated, listener)
    (other,) = [one for one in replicated.replicas["diffusion"] if one is not victim]
    before = resumed(other)
    assert victim.process is not None
    victim.process.send_signal(number)
    assert await listener.samples() == expected
    assert resumed(other) == before + 1
    assert replicated.front.metric("acestep_sampling_resumed_total", reason="drained" if number == signal.SIGTERM else "broken_off") >= 1
    status = await asyncio.to_thread(victim.process.wait, 60)
    assert status == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    victim.start()
    await replicated.until_ready("diffusion", 2)


async def test_a_song_goes_on_at_the_only_replica_when_that_is_restarted_and_ends_there_when_that_drains(replicated: Replicated) -> None:
    await replicated.until_ready("diffusion", 2)
    expected = await Listener(replicated, **LONG).samples()
    absent, only = replicated.replicas["diffusion"]
    absent.stop(signal.SIGKILL)
    await replicated.until_ready("diffusion", 1)
    listener = Listener(replicated, **LONG)
    assert await until_halfway(replicated, listener) is only
    only.stop(signal.SIGKILL)
    only.start()
    assert await listener.samples() == expected
    assert resumed(only) == 1
    await replicated.until_ready("diffusion", 1)
    listener = Listener(replicated, **LONG)
    await until_halfway(replicated, listener)
    assert only.stop(signal.SIGTERM) == 0
    assert await listener.samples() == expected
    for server in (absent, only):
        server.start()
    await replicated.until_ready("diffusion", 2)
