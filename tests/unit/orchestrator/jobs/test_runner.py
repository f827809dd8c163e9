"""Jobs on three tiny stages whose song is a ramp."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.rpc import status_pb2

from acestep_rpc.errors import AcestepError, RequestCancelled, StageError, StageUnavailable, from_status
from acestep_rpc.inprocess import InProcessStub
from acestep_rpc.v1 import diffusion_pb2, music_pb2
from orchestrator.assets import AssetStore
from orchestrator.jobs import runner
from orchestrator.jobs.database import Database, open_database
from orchestrator.jobs.job import Job
from orchestrator.jobs.service import Jobs
from orchestrator.jobs.store import FAILED, QUEUED, RUNNING, SUCCEEDED
from orchestrator.resuming import TRIES_WHEN_BEGUN
from orchestrator.settings import Settings
from orchestrator.stages import Stages
from tests.unit.orchestrator.test_pipeline import Describing, Diffusion, Encoder, Vae


class Passing(Diffusion):
    """Fails as often as it has failures."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__()
        self.failures = list(failures)

    async def Sample(self, request: Any, context: Any) -> AsyncIterator[diffusion_pb2.SampleResponse]:
        self.failure = self.failures.pop(0) if self.failures else None
        async for response in super().Sample(request, context):
            yield response


@pytest.fixture
async def databases(tmp_path: Path) -> AsyncIterator[list[Database]]:
    opened = [await open_database(f"sqlite:///{tmp_path}/jobs.sqlite") for _ in range(2)]
    yield opened
    for database in opened:
        await database.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_FIRST_RETRY_SECONDS", 0.01)


def jobs_on(database: Database, folder: Path, diffusion: Any = None, vae: Any = None, **settings: Any) -> Jobs:
    stages = Stages(
        encoder=InProcessStub(Encoder()),
        diffusion=InProcessStub(diffusion or Diffusion()),
        vae=InProcessStub(vae or Vae()),
        describers=[InProcessStub(Describing(stage)) for stage in ("encoder", "diffusion", "vae")],
    )
    own = Settings(encoder="a:1", diffusion="b:2", vae="c:3", **settings)
    return Jobs(database, stages, AssetStore(str(folder / "store")), own)


async def submit(jobs: Jobs, name: str = "a") -> Job:
    generation = music_pb2.GenerateRequest(request_id=name, prompt={"tags": "funk"}, seeds=[4], text_to_music={"duration_seconds": 6.25})
    return await jobs.submit(music_pb2.SubmitGenerationRequest(generation=generation), None)


def error_of(job: Job) -> AcestepError:
    assert job.state == FAILED
    return from_status(status_pb2.Status.FromString(job.error or b""))


def kept_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder / "store")) for path in (folder / "store").rglob("*") if path.is_file())


@pytest.mark.parametrize("failure", [StageUnavailable("away"), RequestCancelled("the stage stops")])
async def test_a_stage_that_no_replica_goes_on_with_delays_the_job(databases: list[Database], tmp_path: Path, failure: Exception) -> None:
    jobs = jobs_on(databases[0], tmp_path, Passing(*[failure] * (2 * TRIES_WHEN_BEGUN)))
    await submit(jobs)
    jobs.start()
    job = await asyncio.wait_for(jobs.wait("a", None), 20)
    await jobs.stop()
    assert (job.state, job.attempt, job.failed_attempts) == (SUCCEEDED, 3, 2)
    assert kept_files(tmp_path) == [f"operations/a/attempts/3/results/0/{name}" for name in ("audio", "latents", "song")]


async def test_a_stage_that_always_fails_is_the_jobs_error_after_its_attempts(databases: list[Database], tmp_path: Path) -> None:
    diffusion = Diffusion(failure=StageUnavailable("away for good"))
    jobs = jobs_on(databases[0], tmp_path, diffusion, job_attempts=2)
    await submit(jobs)
    jobs.start()
    job = await asyncio.wait_for(jobs.wait("a", None), 20)
    await jobs.stop()
    assert isinstance(error_of(job), StageUnavailable)
    assert len(diffusion.requests) == 2 * TRIES_WHEN_BEGUN


@pytest.mark.parametrize("failure", [StageError("the latents are not finite"), ZeroDivisionError()])
async def test_an_error_that_would_come_again_ends_the_job_at_once(databases: list[Database], tmp_path: Path, failure: Exception) -> None:
    jobs = jobs_on(databases[0], tmp_path, Diffusion(failure=failure))
    await submit(jobs)
    jobs.start()
    job = await asyncio.wait_for(jobs.wait("a", None), 20)
    await jobs.stop()
    assert isinstance(error_of(job), StageError)
    assert job.attempt == 1
    assert kept_files(tmp_path) == []


async def test_a_job_that_is_stopped_in_the_middle_is_another_servers_at_once_and_leaves_nothing(
    databases: list[Database], tmp_path: Path
) -> None:
    slow = Diffusion(seconds_per_step=0.3)
    first = jobs_on(databases[0], tmp_path, slow, job_lease_seconds=3600)
    await submit(first)
    first.start()
    async with asyncio.timeout(20):
        while slow.steps < 1:
            await asyncio.sleep(0.01)
    assert (await first.store.get("a")).state == RUNNING
    await first.stop()
    await asyncio.wait_for(slow.cancelled.wait(), 5)
    assert (await first.store.get("a")).state == QUEUED
    second = jobs_on(databases[1], tmp_path)
    second.start()
    job = await asyncio.wait_for(second.wait("a", None), 20)
    await second.stop()
    assert (job.state, job.attempt, job.failed_attempts) == (SUCCEEDED, 2, 0)
    assert kept_files(tmp_path) == [f"operations/a/attempts/2/results/0/{name}" for name in ("audio", "latents", "song")]


async def test_stopping_at_any_moment_loses_no_song_that_was_promised(databases: list[Database], tmp_path: Path) -> None:
    """What the database calls succeeded has its file, whenever the server is stopped."""
    jobs = jobs_on(databases[0], tmp_path)
    for number in range(5):
        await submit(jobs, f"job-{number}")
        running = jobs_on(databases[1], tmp_path)
        running.start()
        async with asyncio.timeout(20):
            while not (await jobs.store.get(f"job-{number}")).last_sequence > 2 * number:
                await asyncio.sleep(0)
        await running.stop()
        job = await jobs.store.get(f"job-{number}")
        assert job.state in (SUCCEEDED, QUEUED)
        folder = f"operations/job-{number}/attempts/{job.attempt}/results/0"
        there = [name for name in kept_files(tmp_path) if name.startswith(f"operations/job-{number}/")]
        assert there == ([f"{folder}/{name}" for name in ("audio", "latents", "song")] if job.state == SUCCEEDED else [])


async def test_a_cancelled_job_stops_its_stage_and_keeps_nothing(databases: list[Database], tmp_path: Path) -> None:
    slow = Diffusion(seconds_per_step=0.3)
    jobs = jobs_on(databases[0], tmp_path, slow)
    await submit(jobs)
    jobs.start()
    async with asyncio.timeout(20):
        while slow.steps < 1:
            await asyncio.sleep(0.01)
    await jobs.cancel("a")
    await asyncio.wait_for(slow.cancelled.wait(), 0.25)  # before the next step
    await jobs.stop()
    assert kept_files(tmp_path) == []
