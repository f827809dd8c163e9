"""Jobs as the servicers use them: submitted, watched, waited for, cancelled, deleted. Starts and stops what works for them."""

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from google.rpc import status_pb2

from acestep_rpc.admission import retry_seconds
from acestep_rpc.errors import AlreadyExists, InvalidRequest, NotFound, Overloaded, StageUnavailable, from_status
from acestep_rpc.telemetry import REFUSED, log, new_request_id, tenant
from acestep_rpc.v1 import music_pb2
from orchestrator.admission import Admission, finish_time
from orchestrator.assets import AssetStore
from orchestrator.jobs.database import Database, DatabaseUnavailable
from orchestrator.jobs.job import PREFIX, Entry, Job, body_sha256, entry
from orchestrator.jobs.retention import expire
from orchestrator.jobs.runner import Runner
from orchestrator.jobs.store import JobStore
from orchestrator.jobs.webhooks import WebhookSender, check_secret, check_url
from orchestrator.plan import Plan, plan, resolved_request
from orchestrator.preview_spec import check_window
from orchestrator.results import is_result, place, preview_place, result_name
from orchestrator.settings import Settings
from orchestrator.sources import Sources
from orchestrator.stages import Stages
from orchestrator.tasks import song_seconds, source_of
from orchestrator.tenants.quotas import Quotas

_POLL_SECONDS = 1.0  # how often jobs and webhooks of other servers are looked for
_WATCH_SECONDS = 0.25  # how often a watcher looks for news
_RETENTION_SECONDS = 30.0
_EVENTS_AT_A_TIME = 100


class Jobs:
    """Everything about jobs on this server.

    Args:
        database: Where they are.
        stages: Who does their work.
        assets: Where their songs go.
        settings: How many at a time, and so on.
        quotas: Of the tenants; None: there are none.
    """

    def __init__(self, database: Database, stages: Stages, assets: AssetStore, settings: Settings, quotas: Quotas | None = None) -> None:
        self._stages = stages
        self._assets = assets
        self._settings = settings
        self._seed_source = random.SystemRandom()
        self._database = database
        self.store = JobStore(database, secrets.token_hex(8), settings.job_lease_seconds)
        self.sources = Sources(assets, stages, self._place)
        """Uploads and kept songs."""
        self.quotas = Quotas(database) if quotas is None else quotas
        """What tenants may use."""
        self.admission = Admission(stages, settings.max_requests, settings.max_backlog_seconds)
        """Who is let in, and what the work under way takes."""
        self._runner = Runner(
            self.store,
            stages,
            self.sources,
            assets,
            self.quotas,
            self.admission,
            settings.concurrent_jobs,
            settings.job_attempts,
            settings.job_lease_seconds,
        )
        self._webhooks = WebhookSender(
            database, settings.webhook_private_addresses, settings.webhook_attempts, settings.webhook_retry_seconds
        )
        self._stopping = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to work for jobs, those of an earlier process too."""

        async def retain() -> None:
            await expire(self.store, self.expire, self._settings.retention_seconds, self._settings.retention_bytes)

        never = asyncio.Event()
        loops = (self._runner.fill, _POLL_SECONDS, self._runner.wake), (self._webhooks.send_due, _POLL_SECONDS, never)
        self._loops = [asyncio.create_task(_repeat(*loop)) for loop in (*loops, (retain, _RETENTION_SECONDS, never))]

    async def stop(self) -> None:
        """Give running jobs back, for other servers to take up at once, and send watchers away."""
        self._stopping.set()
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        with contextlib.suppress(DatabaseUnavailable):  # their leases end all the same
            await self._runner.stop()

    async def close(self) -> None:
        """Let go of the database, after the last call."""
        await self._database.close()

    async def submit(self, request: music_pb2.SubmitGenerationRequest, deadline: float | None) -> Job:
        """Check a request as Generate does, decide what it leaves open, and keep it as a job.

        Raises:
            AcestepError: As of Generate; AlreadyExists: the request id was used with another body.
        """
        digest, given_id = body_sha256(request), request.generation.request_id
        if given_id and (known := await self.store.find(given_id)) is not None:
            if known.body_sha256 == digest:
                return known
            raise AlreadyExists(f"{PREFIX}{given_id} is there already, with another body", name=PREFIX + given_id)
        secret = self._webhook_secret(request)
        generation = music_pb2.GenerateRequest()
        generation.CopyFrom(self.quotas.with_priority(request.generation))
        generation.keep_results = True
        descriptions = await self.admission.facts.get(deadline)
        planned = plan(generation, self._seed_source, new_request_id(), descriptions[1].sampling_defaults)
        frames = await self.sources.num_frames(planned.task, descriptions[2].model_digest)
        estimate = self.admission.estimate(planned, frames, descriptions)
        waiting = await self._check_queue()
        source = await self.sources.check(planned.task, deadline)
        accepted = music_pb2.GenerateEvent(request_id=planned.request_id)
        duration_seconds = song_seconds(planned.task, source)
        check_window(planned.preview, duration_seconds)
        accepted.accepted.CopyFrom(music_pb2.Accepted(seeds=planned.seeds, duration_seconds=duration_seconds))
        if estimate is not None:
            accepted.accepted.estimated_finish_time.CopyFrom(finish_time(waiting + estimate.seconds))
        accepted.time.GetCurrentTime()
        await self.sources.results.claim(planned.request_id)
        cost_seconds = estimate.prediction.device_seconds if estimate is not None else 0.0
        audio_seconds = duration_seconds * len(planned.seeds)
        columns = _columns(planned, generation, digest, audio_seconds) | {
            "cost_seconds": cost_seconds,
            "webhook_url": request.webhook_url or None,
            "webhook_secret": secret,
        }
        async with self.quotas.request(audio_seconds):
            job = await self.store.add(columns, entry(accepted))
        self._runner.wake.set()
        return job

    async def _check_queue(self) -> float:
        """Predicted device time of all jobs that wait.

        Raises:
            Overloaded: There are too many jobs already.
        """
        count, waiting_seconds, all_seconds = await self.store.load()
        limits = self._settings
        if count >= limits.max_queued_jobs or all_seconds > limits.max_queued_job_seconds:
            REFUSED.labels("jobs").inc()
            full = f"{count} jobs of {all_seconds:.3g} s have not ended; the limits are {limits.max_queued_jobs} and"
            retry = max(all_seconds - limits.max_queued_job_seconds, retry_seconds(all_seconds, count))
            raise Overloaded(f"{full} {limits.max_queued_job_seconds:g} s", retry)
        return waiting_seconds

    def _webhook_secret(self, request: music_pb2.SubmitGenerationRequest) -> str | None:
        if not request.HasField("webhook_url"):
            if request.HasField("webhook_secret"):
                raise InvalidRequest("webhook_secret", "(not shown)", "none without webhook_url")
            return None
        check_url("webhook_url", request.webhook_url, self._settings.webhook_private_addresses)
        secret = request.webhook_secret if request.HasField("webhook_secret") else self._settings.webhook_secret
        if not secret:
            raise InvalidRequest("webhook_secret", "", "a key for the signature: this server has none of its own")
        check_secret("webhook_secret", secret)
        return secret

    async def claim(self, request_id: str) -> None:
        """Check that a call may keep its songs under its name.

        Raises:
            AlreadyExists: An earlier one, or a job, has that name.
        """
        if await self.store.find(request_id) is not None:
            raise AlreadyExists(f"{PREFIX}{request_id} is there already: request_id must be new to keep results", name=PREFIX + request_id)
        await self.sources.results.claim(request_id)

    async def add_finished(self, request: music_pb2.GenerateRequest, planned: Plan, history: Sequence[Entry]) -> None:
        """Note what a call of Generate has kept; from now on it can be found, listed and deleted as a job's result.

        Raises:
            AlreadyExists: Its name was taken in the meantime.
        """
        digest = body_sha256(music_pb2.SubmitGenerationRequest(generation=request))
        audio_seconds = sum(song.duration_seconds for song in history[-1].event.completed.songs)
        await self.store.add_finished(_columns(planned, request, digest, audio_seconds), history)

    async def cancel(self, job_id: str) -> None:
        """End a job at once, wherever it runs."""
        await self.store.cancel(job_id)
        self._runner.drop(job_id)

    async def delete(self, job_id: str) -> None:
        """Remove a job that has ended, and its songs.

        Raises:
            NotFound: There is none of that id.
            NotFinished: It has not ended.
        """
        await self._remove(await self.store.get(job_id))

    async def _remove(self, job: Job) -> None:
        if job.done:
            await self._assets.remove(PREFIX + job.id)  # before the row: what is cut off here is done again
        await self.store.delete(job.id)

    async def expire(self, job: Job) -> None:
        """Remove a job of any tenant that has ended, and its songs."""
        token = tenant.set(job.tenant)
        try:
            await self._remove(job)
        finally:
            tenant.reset(token)

    async def wait(self, job_id: str, timeout_seconds: float | None) -> Job:
        """A job when it has ended, or after so many seconds."""
        end = None if timeout_seconds is None else asyncio.get_running_loop().time() + timeout_seconds
        while not (job := await self.store.get(job_id)).done and (end is None or asyncio.get_running_loop().time() < end):
            await self._pause()
        return job

    async def watch(self, job_id: str, from_sequence: int, skip_audio: bool) -> AsyncGenerator[music_pb2.GenerateEvent, None]:
        """Events of a job from a number on, until it ends.

        Raises:
            NotFound: There is no such job, or it was deleted.
            AcestepError: The job failed with it.
        """
        while True:
            job = await self.store.get(job_id)  # before its events: if it is done, they are complete
            history = await self.store.events(job_id, from_sequence, _EVENTS_AT_A_TIME)
            for event, audio_bytes in history:
                from_sequence = event.sequence + 1
                if event.WhichOneof("event") == "audio_chunk":
                    if skip_audio:
                        continue
                    chunk = event.audio_chunk
                    if chunk.HasField("preview_step"):
                        try:
                            name = preview_place(job_id, job.attempt, chunk)
                            chunk.data = await self._assets.read_range(name, chunk.offset, audio_bytes)
                        except NotFound:
                            continue  # the job has ended, or another attempt has begun
                    else:
                        name = await self._place(result_name(job_id, chunk.variant_index))
                        chunk.data = await self._assets.read_range(name, chunk.offset, audio_bytes)
                yield event
            if len(history) == _EVENTS_AT_A_TIME:
                continue
            if job.error is not None:
                raise from_status(status_pb2.Status.FromString(job.error))
            if job.done:
                return
            await self._pause()

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), _WATCH_SECONDS)
            raise StageUnavailable("this replica is shutting down")

    async def _place(self, name: str) -> str:
        """Where a kept song is: with the attempt that won."""
        folder, _, _ = name.partition("/results/")
        job = await self.store.find(folder.removeprefix(PREFIX))
        if job is None or job.state != music_pb2.JOB_STATE_SUCCEEDED:
            raise NotFound("result", name)
        return place(name, job.attempt)


def _columns(planned: Plan, request: music_pb2.GenerateRequest, digest: str, audio_seconds: float) -> dict[str, Any]:
    source = source_of(planned.task)
    return {
        "id": planned.request_id,
        "body_sha256": digest,
        "request": resolved_request(request, planned).SerializeToString(),
        "audio_seconds": audio_seconds,
        "priority": planned.priority,
        "source_id": source.split("/")[1] if is_result(source) else None,
    }


async def _repeat(step: Callable[[], Awaitable[None]], seconds: float, wake: asyncio.Event) -> None:
    """Do something again and again, whatever comes of it, and at once when it is woken."""
    while True:
        wake.clear()
        try:
            await step()
        except Exception as error:
            log("step_failed", level=logging.ERROR, exception=error, step=step.__name__)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(wake.wait(), seconds)
