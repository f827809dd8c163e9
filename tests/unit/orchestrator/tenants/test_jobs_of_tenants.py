"""Jobs that run when their callers have long gone: for whom, and at whose cost."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acestep_rpc.errors import NotFound, QuotaExceeded, StageError
from acestep_rpc.inprocess import InProcessStub
from acestep_rpc.telemetry import tenant
from acestep_rpc.v1 import music_pb2
from orchestrator.assets import AssetStore
from orchestrator.jobs.database import Database
from orchestrator.jobs.retention import expire
from orchestrator.jobs.service import Jobs
from orchestrator.jobs.store import FAILED, SUCCEEDED
from orchestrator.settings import Settings
from orchestrator.stages import Stages
from orchestrator.tenants.directory import read_tenants
from orchestrator.tenants.quotas import Quotas
from tests.unit.orchestrator.test_pipeline import Describing, Diffusion, Encoder, Vae

SECONDS = 6.25


@contextlib.contextmanager
def acting(name: str) -> Iterator[None]:
    token = tenant.set(name)
    try:
        yield
    finally:
        tenant.reset(token)


def jobs_on(database: Database, folder: Path, diffusion: Any) -> Jobs:
    stages = Stages(
        encoder=InProcessStub(Encoder()),
        diffusion=InProcessStub(diffusion),
        vae=InProcessStub(Vae()),
        describers=[InProcessStub(Describing(stage)) for stage in ("encoder", "diffusion", "vae")],
    )
    quotas = Quotas(database, lambda: read_tenants(f"alice.audio_seconds_per_day = {1.5 * SECONDS}", "file"))
    settings = Settings(encoder="a:1", diffusion="b:2", vae="c:3", concurrent_jobs=1)
    return Jobs(database, stages, AssetStore(str(folder / "store")), settings, quotas)


async def submit(jobs: Jobs, name: str, seed: int = 4) -> None:
    generation = music_pb2.GenerateRequest(
        request_id=name, prompt={"tags": "funk"}, seeds=[seed], text_to_music={"duration_seconds": SECONDS}
    )
    await jobs.submit(music_pb2.SubmitGenerationRequest(generation=generation), None)


async def test_another_server_works_for_the_tenant_of_each_job(databases: list[Database], tmp_path: Path) -> None:
    diffusion = Diffusion()
    front, worker = jobs_on(databases[0], tmp_path, Diffusion()), jobs_on(databases[1], tmp_path, diffusion)
    for number, name in enumerate(("alice", "bob", "")):
        with acting(name):
            await submit(front, "same", seed=number)
    worker.start()
    for name in ("alice", "bob", ""):
        with acting(name):
            assert (await asyncio.wait_for(front.wait("same", None), 20)).state == SUCCEEDED
            assert await front.sources.latents("operations/same/results/0", None)
    await worker.stop()
    assert [request.tenant for request in diffusion.requests] == ["alice", "bob", ""]
    with acting("carol"), pytest.raises(NotFound):
        await front.sources.latents("operations/same/results/0", None)
    assert len(list((tmp_path / "store" / "tenants").iterdir())) == 2


async def test_cancelling_ends_the_callers_job_and_not_one_of_the_same_name(databases: list[Database], tmp_path: Path) -> None:
    jobs = jobs_on(databases[0], tmp_path, Diffusion())
    for name in ("alice", "bob"):
        with acting(name):
            await submit(jobs, "same")
    with acting("bob"):
        await jobs.cancel("same")
        await jobs.delete("same")
    with acting("alice"):
        assert not (await jobs.store.get("same")).done
        assert len(await jobs.store.events("same", 1, 10)) == 1


async def test_a_job_that_fails_is_given_back(databases: list[Database], tmp_path: Path) -> None:
    jobs = jobs_on(databases[0], tmp_path, Diffusion(failure=StageError("the latents are not finite")))
    with acting("alice"):
        await submit(jobs, "a")
        with pytest.raises(QuotaExceeded):
            await submit(jobs, "b")
        await submit(jobs, "a")  # the same job again costs nothing
        jobs.start()
        assert (await asyncio.wait_for(jobs.wait("a", None), 20)).state == FAILED
        await jobs.stop()
        await submit(jobs, "b")


async def test_retention_removes_each_tenants_own_and_the_songs_of_one_push_out_none_of_another(
    databases: list[Database], tmp_path: Path
) -> None:
    jobs = jobs_on(databases[0], tmp_path, Diffusion())
    jobs.start()
    for name, count in (("bob", 3), ("carol", 1)):
        for number in range(count):
            with acting(name):
                await submit(jobs, f"{number}")
                await asyncio.wait_for(jobs.wait(f"{number}", None), 20)
    await jobs.stop()
    with acting("bob"):
        size = (await jobs.store.get("0")).size_bytes
    await expire(jobs.store, jobs.expire, 0, 2 * size)
    kept = {}
    for name in ("bob", "carol"):
        with acting(name):
            kept[name] = [number for number in range(3) if await jobs.store.find(f"{number}") is not None]
            for number in kept[name]:
                await jobs.sources.latents(f"operations/{number}/results/0", None)
    assert kept == {"bob": [1, 2], "carol": [0]}
    assert len(list((tmp_path / "store").rglob("audio"))) == 3
