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
from acestep_rpc.v1 import music_pb2_grpc
from tests.integration.conftest import STAGES, Server
from tests.integration.requests import generate, song_request


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


async def test_a_replica_that_drains_finishes_its_song_and_gets_no_other(replicated: Replicated) -> None:
    expected = await song(replicated, seconds=20.0, steps=20)
    leaving = replicated.replicas["diffusion"][1]
    await replicated.until_ready("diffusion", 2)
    running = [asyncio.create_task(song(replicated, seconds=20.0, steps=20)) for _ in range(4)]
    async with asyncio.timeout(30):
        while leaving.metric("acestep_batch_rows_count") < 1:
            await asyncio.sleep(0.02)
    assert leaving.process is not None
    leaving.process.send_signal(signal.SIGTERM)
    await replicated.until_ready("diffusion", 1)
    assert await song(replicated, seconds=20.0, steps=20) == expected
    assert await asyncio.gather(*running) == [expected] * 4
    assert await asyncio.to_thread(leaving.process.wait, 60) == 0
    leaving.start()
    await replicated.until_ready("diffusion", 2)
