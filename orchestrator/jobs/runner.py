"""Works for jobs: takes them, keeps their leases, writes their events and their end. Knows the pipeline, not who asked."""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Sequence

from acestep_rpc import telemetry
from acestep_rpc.errors import AcestepError, AttemptsExhausted, Overloaded, RequestCancelled, StageError, StageUnavailable, to_status
from acestep_rpc.telemetry import JOBS, log
from acestep_rpc.tracing import work_span
from acestep_rpc.v1 import music_pb2
from orchestrator.admission import Admission, accompany
from orchestrator.assets import AssetStore
from orchestrator.jobs.database import DatabaseUnavailable
from orchestrator.jobs.job import PREFIX, Entry, Job, entry
from orchestrator.jobs.store import JobStore, LeaseLost
from orchestrator.pipeline import generate
from orchestrator.plan import plan
from orchestrator.results import Results, preview_place, previews_place
from orchestrator.sources import Sources
from orchestrator.stages import Stages
from orchestrator.tenants.quotas import Quotas

_RENEWALS_PER_LEASE = 5
_MAX_RENEWAL_SECONDS = 1.0  # how late a cancellation on another server is noticed at most
_AWAY_SECONDS = 5.0  # until a job is tried again that found a stage away before it began
_FIRST_RETRY_SECONDS = 2.0  # after a stage failed in the middle; doubles with each failure
_MAX_RETRY_SECONDS = 60.0
_NOTHING_LEFT_TO_DRAW = random.SystemRandom()  # by resolved_request, at submission


class Runner:
    """Runs several jobs at a time.

    Args:
        store: Has the jobs.
        stages: Who does the work.
        sources: What the jobs start from.
        assets: Where the songs go.
        quotas: Get back what jobs that fail were charged.
        admission: Counts the work under way.
        concurrent_jobs: How many at a time; 0: none, other servers run them.
        max_attempts: Failed attempts after which a job is given up.
        lease_seconds: Of the store.
    """

    def __init__(
        self,
        store: JobStore,
        stages: Stages,
        sources: Sources,
        assets: AssetStore,
        quotas: Quotas,
        admission: Admission,
        concurrent_jobs: int,
        max_attempts: int,
        lease_seconds: float,
    ) -> None:
        self._store = store
        self._stages = stages
        self._sources = sources
        self._assets = assets
        self._quotas = quotas
        self._admission = admission
        self._concurrent_jobs = concurrent_jobs
        self._max_attempts = max_attempts
        self._renewal_seconds = min(lease_seconds / _RENEWALS_PER_LEASE, _MAX_RENEWAL_SECONDS)
        self._works: dict[asyncio.Task[None], tuple[str, str]] = {}
        self.wake = asyncio.Event()
        """Set it when there may be something to do."""

    async def fill(self) -> None:
        """Take jobs until none waits or enough run."""
        while len(self._works) < self._concurrent_jobs and (job := await self._store.take()) is not None:
            work = asyncio.create_task(self._work(job))
            self._works[work] = job.tenant, job.id
            work.add_done_callback(self._ended)

    def _ended(self, work: asyncio.Task[None]) -> None:
        del self._works[work]
        self.wake.set()

    def drop(self, job_id: str) -> None:
        """Stop working for a job of the running task's tenant, if this server does."""
        for work, known in self._works.items():
            if known == (telemetry.tenant.get(), job_id):
                work.cancel()

    async def stop(self) -> None:
        """Stop working for all jobs and let other servers take them up at once."""
        works = list(self._works)
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
        await self._store.release()

    async def _work(self, job: Job) -> None:
        telemetry.request_id.set(job.id)
        telemetry.tenant.set(job.tenant)  # from here on the store and the assets know nothing but what is this tenant's
        with work_span("job", request_id=job.id, attempt=job.attempt):
            await self._work_on(job)

    async def _work_on(self, job: Job) -> None:
        log("job_started", attempt=job.attempt, failed_attempts=job.failed_attempts)
        outcome = "lost"
        try:
            outcome = await self._attempt(job)
        except LeaseLost:
            await self._forget(job)
        except DatabaseUnavailable as error:
            log("job_left", level=logging.ERROR, reason=str(error))  # what its songs are worth, the next attempt finds out
        except asyncio.CancelledError:
            outcome = "stopped"
            await self._forget(job)
            raise
        finally:
            JOBS.labels(outcome).inc()
            log("job_left_off" if outcome in ("lost", "stopped") else "job_ended", attempt=job.attempt, outcome=outcome)

    @contextlib.asynccontextmanager
    async def _renewed(self, job: Job) -> AsyncIterator[None]:
        """Keep the lease; cancel the running task when it is lost."""
        work = asyncio.current_task()
        assert work is not None

        async def renew() -> None:
            try:
                while True:
                    await asyncio.sleep(self._renewal_seconds)
                    await self._store.renew(job)
            except (LeaseLost, DatabaseUnavailable) as error:
                log("lease_lost", level=logging.WARNING, reason=type(error).__name__)
                work.cancel()

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    async def _attempt(self, job: Job) -> str:
        """Run the pipeline and write what comes of it; returns how it ended."""
        if job.failed_attempts >= self._max_attempts:
            error = AttemptsExhausted(
                f"{PREFIX}{job.id} was given up: {job.failed_attempts} attempts ended without a result", attempts=str(job.failed_attempts)
            )
            return await self._fail(job, error)
        began = False
        try:
            async with self._renewed(job):
                await self._stages.describe(None)  # a stage that is away is not the job's doing
                began = True
                history = await self._generate(job)
            await self._store.succeed(job, history)
        except DatabaseUnavailable:
            raise
        except (StageUnavailable, Overloaded, RequestCancelled) as error:  # a stage that stops cancels what it does
            failures = job.failed_attempts + began
            if failures >= self._max_attempts:
                return await self._fail(job, error)
            seconds = min(_FIRST_RETRY_SECONDS * 2 ** (failures - 1), _MAX_RETRY_SECONDS) if began else _AWAY_SECONDS
            await self._store.postpone(job, seconds, failed=began)
            await self._forget(job)
            return "postponed"
        except AcestepError as error:
            return await self._fail(job, error)
        except (LeaseLost, asyncio.CancelledError):
            raise
        except Exception as error:
            log("job_failed", level=logging.ERROR, exception=error)
            return await self._fail(job, StageError(f"internal error in request {job.id}"))
        await self._assets.remove(previews_place(job.id, job.attempt))
        for attempt in range(1, job.attempt):  # what a killed server left behind
            await self._assets.remove(f"{PREFIX}{job.id}/attempts/{attempt}")
        return "succeeded"

    async def _fail(self, job: Job, error: AcestepError) -> str:
        await self._store.fail(job, to_status(error))
        await self._quotas.refund(job.audio_seconds, job.created)
        await self._assets.remove(PREFIX + job.id)
        return "failed"

    async def _generate(self, job: Job) -> list[Entry]:
        """Make the songs; returns the events that end the job."""
        planned = plan(music_pb2.GenerateRequest.FromString(job.request), _NOTHING_LEFT_TO_DRAW, job.id)
        descriptions = await self._admission.facts.get(None)
        frames = await self._sources.num_frames(planned.task, descriptions[2].model_digest)
        results = Results(self._assets, job.attempt)
        history: list[Entry] = []
        preview: list[music_pb2.GenerateEvent] = []
        with self._admission.enter(planned, self._admission.estimate(planned, frames, descriptions)) as admitted:
            source, original = await self._sources.of_task(planned.task, planned.sample_rate, None)
            made = accompany(generate(planned, self._stages, None, source, original, results, admitted.load), admitted)
            async with contextlib.aclosing(made) as events:
                async for event in events:
                    match event.WhichOneof("event"):
                        case "progress":
                            await self._store.append(job, entry(event))
                        case "audio_chunk" if event.audio_chunk.HasField("preview_step"):
                            preview.append(event)
                            if event.audio_chunk.last:
                                await self._show(job, preview)
                                preview = []
                        case "audio_chunk" | "completed":  # known together: a watcher never hears what another attempt might make again
                            history.append(entry(event))
        return history

    async def _show(self, job: Job, preview: Sequence[music_pb2.GenerateEvent]) -> None:
        """Let watchers hear a whole preview; it goes when the job ends."""
        data = b"".join(event.audio_chunk.data for event in preview)
        await self._assets.add_preview(preview_place(job.id, job.attempt, preview[0].audio_chunk), data)
        for event in preview:
            await self._store.append(job, entry(event))

    async def _forget(self, job: Job) -> None:
        """Remove the songs of this attempt, unless they are the job's."""
        try:
            known = await self._store.find(job.id)
        except DatabaseUnavailable:
            return  # they go with the job
        if known is None or (known.state, known.attempt) != (music_pb2.JOB_STATE_SUCCEEDED, job.attempt):
            await self._assets.remove(f"{PREFIX}{job.id}/attempts/{job.attempt}")
