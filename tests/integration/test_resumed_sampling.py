"""Two replicas of the diffusion stage, as processes that are killed, drained and restarted in mid-song: the results are the same bytes."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import torch
from prometheus_client import REGISTRY

from acestep_rpc.torch_tensor import pack
from acestep_rpc.v1 import diffusion_pb2, encoder_pb2, sampling_pb2
from orchestrator.stages import Stages, connect_stages
from tests.integration.conftest import Server

NOBODY = "127.0.0.1:1"
DISTURBED_AT = 40  # of 200 steps of both songs


def sample_request(checkpoint: Path) -> diffusion_pb2.SampleRequest:
    config = json.loads((checkpoint / "ace_step_transformer" / "config.json").read_text())
    generator = torch.Generator().manual_seed(0)
    text, lyrics, null_lyrics = (
        torch.randn(tokens, config[width], generator=generator)
        for tokens, width in ((4, "text_embedding_dim"), (9, "lyric_hidden_size"), (9, "lyric_hidden_size"))
    )
    return diffusion_pb2.SampleRequest(
        conditioning=encoder_pb2.Conditioning(
            text_hidden_states=pack(text),
            lyric_hidden_states=pack(lyrics),
            lyric_attention_mask=pack(torch.ones(9, dtype=torch.bool)),
            null_lyric_hidden_states=pack(null_lyrics),
        ),
        params=sampling_pb2.SamplingParams(
            infer_step=100,
            guidance_scale=5.0,
            scheduler_type=sampling_pb2.SCHEDULER_TYPE_PINGPONG,
            cfg_type=sampling_pb2.CFG_TYPE_APG,
            omega_scale=10.0,
            guidance_interval=0.8,
            guidance_interval_decay=0.0,
            min_guidance_scale=3.0,
            guidance_scale_text=0.0,
            guidance_scale_lyric=0.0,
            use_erg_tag=True,
            use_erg_lyric=True,
            use_erg_diffusion=True,
        ),
        seeds=[1, 2],
        text_to_music=diffusion_pb2.TextToMusicSampling(duration_seconds=10.0),
    )


@pytest.fixture(scope="module")
def replicas(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    arguments, folder = (
        ["diffusion", "--checkpoint", str(checkpoint), "--dtype", "float32", "--threads", "1"],
        tmp_path_factory.mktemp("two"),
    )
    servers = [Server(f"diffusion-{number}", arguments, folder) for number in (1, 2)]
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            if server.process is not None and server.process.poll() is None:
                server.stop(signal.SIGKILL)


@pytest.fixture
async def stages(replicas: list[Server]) -> AsyncIterator[Stages]:
    targets = ",".join(server.target for server in replicas)
    stages = connect_stages(NOBODY, targets, NOBODY, ready_seconds=120.0, snapshot_seconds=0.02)
    await stages.sampling_defaults(None)  # it watches them from its first call on
    yield stages
    await stages.close()


Disturb = Callable[[Server, Server], Awaitable[None]]


async def sample(stages: Stages, checkpoint: Path, replicas: list[Server], disturb: Disturb | None = None) -> list[bytes]:
    """Final latents. Once there is a snapshot, `disturb` gets the replica that samples and the other one; steps never run backwards."""
    before = [server.metric("acestep_batch_rows_count") if running(server) else 0.0 for server in replicas]
    steps: list[int] = []
    async with contextlib.aclosing(stages.sample(sample_request(checkpoint), None)) as responses:
        async for response in responses:
            if response.WhichOneof("event") == "result":
                assert steps == sorted(set(steps))
                assert steps[-1] == 200
                return [latents.data for latents in response.result.latents]
            steps.append(response.progress.step)
            if disturb and steps[-1] >= DISTURBED_AT and REGISTRY.get_sample_value("acestep_snapshots_kept_bytes"):
                disturbed, disturb = disturb, None
                done = [server.metric("acestep_batch_rows_count") if running(server) else 0.0 for server in replicas]
                mine = done[1] > before[1]
                await disturbed(replicas[mine], replicas[not mine])
    raise AssertionError("there was no result")


def running(server: Server) -> bool:
    return server.process is not None and server.process.poll() is None


def resumed(server: Server) -> float:
    return server.metric("acestep_snapshots_total", outcome="resumed")


async def until_ready(stages: Stages, count: int) -> None:
    async with asyncio.timeout(120):
        while stages.replicas("diffusion") != count:
            await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def expected() -> dict[str, list[bytes]]:
    return {}


async def undisturbed(stages: Stages, checkpoint: Path, replicas: list[Server], expected: dict[str, list[bytes]]) -> list[bytes]:
    if not expected:
        expected["latents"] = await sample(stages, checkpoint, replicas)
    return expected["latents"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "drained"])
async def test_another_replica_goes_on(number: signal.Signals, stages: Stages, checkpoint: Path, replicas: list[Server], expected) -> None:
    wanted = await undisturbed(stages, checkpoint, replicas, expected)
    await until_ready(stages, 2)
    others: list[tuple[Server, float]] = []
    reason = "broken_off" if number == signal.SIGKILL else "drained"
    moved = REGISTRY.get_sample_value("acestep_sampling_resumed_total", {"reason": reason}) or 0.0

    async def disturb(mine: Server, other: Server) -> None:
        others.append((other, resumed(other)))
        assert mine.process is not None
        mine.process.send_signal(number)

    assert await sample(stages, checkpoint, replicas, disturb) == wanted
    ((other, before),) = others
    assert resumed(other) == before + 1
    assert REGISTRY.get_sample_value("acestep_sampling_resumed_total", {"reason": reason}) == moved + 1
    (victim,) = [server for server in replicas if server is not other]
    assert victim.process is not None
    assert await asyncio.to_thread(victim.process.wait, 60) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    await asyncio.to_thread(victim.start)
    await until_ready(stages, 2)


async def test_the_only_replica_goes_on_after_its_restart_and_ends_the_song_when_it_drains(
    stages: Stages, checkpoint: Path, replicas: list[Server], expected
) -> None:
    wanted = await undisturbed(stages, checkpoint, replicas, expected)
    await until_ready(stages, 2)
    absent, only = replicas
    await asyncio.to_thread(absent.stop, signal.SIGKILL)
    await until_ready(stages, 1)

    async def restart(mine: Server, _: Server) -> None:
        assert mine is only
        await asyncio.to_thread(mine.stop, signal.SIGKILL)
        await asyncio.to_thread(mine.start)

    assert await sample(stages, checkpoint, replicas, restart) == wanted
    assert resumed(only) == 1

    async def drain(mine: Server, _: Server) -> None:
        assert mine.process is not None
        mine.process.send_signal(signal.SIGTERM)

    await until_ready(stages, 1)
    assert await sample(stages, checkpoint, replicas, drain) == wanted
    assert only.process is not None
    assert await asyncio.to_thread(only.process.wait, 60) == 0
