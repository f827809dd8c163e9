"""Jobs in the database: who may write what and when. Several servers share them; what an attempt writes counts only while it is the last.

An attempt begins when a server takes a job and gets a new number. It writes on condition that its number is still the job's and the job
still runs, so a server that was away for longer than its lease, or that a cancellation has not reached yet, changes nothing: LeaseLost.

An id means a job of the running task's tenant (acestep_rpc.telemetry.tenant): those of others are not there. `take`, `release` and `select`
alone look at the jobs of all of them.
"""

import secrets
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from google.rpc import status_pb2
from sqlalchemy import ColumnElement, Row, Select, and_, case, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from acestep_rpc.errors import AlreadyExists, NotFinished, NotFound, RequestCancelled, to_status
from acestep_rpc.telemetry import tenant
from acestep_rpc.v1 import music_pb2
from orchestrator.jobs.database import Database
from orchestrator.jobs.job import PREFIX, UNFINISHED, Entry, Job, webhook_body
from orchestrator.jobs.schema import events, jobs, now, webhooks

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = (
    music_pb2.JOB_STATE_QUEUED,
    music_pb2.JOB_STATE_RUNNING,
    music_pb2.JOB_STATE_SUCCEEDED,
    music_pb2.JOB_STATE_FAILED,
    music_pb2.JOB_STATE_CANCELLED,
)

CLASS_SECONDS = 3600.0
"""Of waiting, that a job of a class has ahead of one of the next lower class."""


class LeaseLost(Exception):
    """The job is no longer this attempt's: it was cancelled, deleted, or taken up by another server."""


class JobStore:
    """The table of jobs and that of their events.

    Args:
        database: Has them.
        owner: Name of this server, its own.
        lease_seconds: How long a job stays with a server that says nothing.
    """

    def __init__(self, database: Database, owner: str, lease_seconds: float) -> None:
        self._database = database
        self._owner = owner
        self._lease_seconds = lease_seconds

    async def add(self, job: dict[str, Any], accepted: Entry) -> Job:
        """Add a job that waits for its turn; one that is there already with the same body is returned as it is.

        Args:
            job: id, body_sha256, request, source_id, audio_seconds, priority, cost_seconds, webhook_url and webhook_secret.
            accepted: Its first event.
        Raises:
            AlreadyExists: Its id was used with another body.
        """
        return await self._insert(job | {"state": QUEUED, "not_before": now()}, [accepted])

    async def add_finished(self, job: dict[str, Any], history: Sequence[Entry]) -> Job:
        """Add what was made and kept outside of a job, so that it is listed, found and deleted like one.

        Args:
            job: id, body_sha256, request, source_id, audio_seconds and priority.
            history: Its events, the last one completed.
        Raises:
            AlreadyExists: Its id was used.
        """
        completed = history[-1].event.completed
        columns = {"state": SUCCEEDED, "not_before": 0.0, "started": now(), "finished": now(), "result": completed.SerializeToString()}
        added = await self._insert(job | columns | {"size_bytes": sum(song.size_bytes for song in completed.songs)}, history)
        if added.result != columns["result"]:
            raise _reused(added.id)
        return added

    async def _insert(self, job: dict[str, Any], history: Sequence[Entry]) -> Job:
        values = {
            "tenant": tenant.get(),
            "priority": music_pb2.PRIORITY_NORMAL,
            "cost_seconds": 0.0,
            "attempt": 0,
            "failed_attempts": 0,
            "size_bytes": 0,
            "created": now(),
            "last_sequence": len(history),
        } | job

        async def transaction(connection: AsyncConnection) -> Job:
            row = (await connection.execute(insert(jobs).values(**values).returning(jobs))).one()
            await _add_events(connection, job["id"], history, 1)
            return _job(row)

        try:
            return await self._database.run(transaction)
        except IntegrityError:
            known = await self.get(job["id"])
            if known.body_sha256 != job["body_sha256"]:
                raise _reused(known.id) from None
            return known

    async def find(self, job_id: str) -> Job | None:
        """A job, or None."""

        async def transaction(connection: AsyncConnection) -> Job | None:
            row = (await connection.execute(select(jobs).where(_is(job_id)))).one_or_none()
            return None if row is None else _job(row)

        return await self._database.run(transaction)

    async def get(self, job_id: str) -> Job:
        """A job.

        Raises:
            NotFound: There is none of that id.
        """
        job = await self.find(job_id)
        if job is None:
            raise NotFound("operation", PREFIX + job_id)
        return job

    async def select(self, query: Select[Any]) -> list[Job]:
        """The jobs that a query on their table finds."""

        async def transaction(connection: AsyncConnection) -> list[Job]:
            return [_job(row) for row in await connection.execute(query)]

        return await self._database.run(transaction)

    async def events(self, job_id: str, from_sequence: int, limit: int) -> list[Entry]:
        """Events of a job in order."""
        of_job = and_(events.c.tenant == tenant.get(), events.c.job_id == job_id)
        query = select(events).where(of_job, events.c.sequence >= from_sequence).order_by(events.c.sequence).limit(limit)

        async def transaction(connection: AsyncConnection) -> list[Entry]:
            return [Entry(music_pb2.GenerateEvent.FromString(row.event), row.audio_bytes) for row in await connection.execute(query)]

        return await self._database.run(transaction)

    async def load(self) -> tuple[int, float, float]:
        """Jobs that have not ended; predicted seconds of those of them that wait, and of all of them."""
        waits = case((jobs.c.state == QUEUED, jobs.c.cost_seconds), else_=0.0)
        query = select(func.count(), func.coalesce(func.sum(waits), 0.0), func.coalesce(func.sum(jobs.c.cost_seconds), 0.0))

        async def transaction(connection: AsyncConnection) -> tuple[int, float, float]:
            count, waiting, total = (await connection.execute(query.where(jobs.c.state.in_(UNFINISHED)))).one()
            return int(count), float(waiting), float(total)

        return await self._database.run(transaction)

    async def take(self) -> Job | None:
        """Begin an attempt at the first job that waits, or whose server was not heard of for the length of its lease.

        A class counts as much as an hour of waiting: higher ones go first, and lower ones have their turn.
        """
        waits = and_(jobs.c.state == QUEUED, jobs.c.not_before <= now())
        abandoned = and_(jobs.c.state == RUNNING, jobs.c.lease_expires < now())
        oldest = (
            select(jobs.c.tenant, jobs.c.id)
            .where(or_(waits, abandoned))
            .order_by(jobs.c.created - CLASS_SECONDS * jobs.c.priority, jobs.c.id)
            .limit(1)
        )
        first = oldest.with_for_update(skip_locked=True).cte("first")
        statement = (
            update(jobs)
            .where(jobs.c.tenant == first.c.tenant, jobs.c.id == first.c.id)
            .values(
                state=RUNNING,
                attempt=jobs.c.attempt + 1,
                failed_attempts=jobs.c.failed_attempts + case((jobs.c.state == RUNNING, 1), else_=0),
                lease_owner=self._owner,
                lease_expires=now() + self._lease_seconds,
                started=func.coalesce(jobs.c.started, now()),
            )
            .returning(jobs)
        )

        async def transaction(connection: AsyncConnection) -> Job | None:
            row = (await connection.execute(statement)).one_or_none()
            return None if row is None else _job(row)

        return await self._database.run(transaction)

    async def renew(self, job: Job) -> None:
        """Prolong the lease.

        Raises:
            LeaseLost: It is lost.
        """
        await self._write(job, {"lease_expires": now() + self._lease_seconds})

    async def append(self, job: Job, entry: Entry) -> None:
        """Add an event to a running job; it gets its number here.

        Raises:
            LeaseLost: The attempt is not the last one.
        """
        await self._write(job, {"lease_expires": now() + self._lease_seconds}, [entry])

    async def postpone(self, job: Job, seconds: float, failed: bool) -> None:
        """End an attempt and let the job wait for another one.

        Args:
            job: Of this attempt.
            seconds: How long it waits.
            failed: Whether the attempt counts against the job.
        Raises:
            LeaseLost: The attempt is not the last one.
        """
        waiting = {"state": QUEUED, "lease_owner": None, "lease_expires": None, "not_before": now() + seconds}
        await self._write(job, waiting | {"failed_attempts": jobs.c.failed_attempts + int(failed)})

    async def succeed(self, job: Job, history: Sequence[Entry]) -> None:
        """End a job with its result.

        Args:
            job: Of this attempt.
            history: Its last events: audio chunks, completed.
        Raises:
            LeaseLost: The attempt is not the last one.
        """
        completed = history[-1].event.completed
        size = sum(song.size_bytes for song in completed.songs)
        await self._end(job, {"state": SUCCEEDED, "result": completed.SerializeToString(), "size_bytes": size}, history)

    async def fail(self, job: Job, status: status_pb2.Status) -> None:
        """End a job with an error.

        Raises:
            LeaseLost: The attempt is not the last one.
        """
        await self._end(job, {"state": FAILED, "error": status.SerializeToString()})

    async def _end(self, job: Job, values: dict[str, Any], history: Sequence[Entry] = ()) -> None:
        try:
            await self._write(job, values | _ENDED, history)
        except LeaseLost:
            known = await self.find(job.id)  # a commit that was tried again may have been done the first time
            if known is None or (known.attempt, known.state) != (job.attempt, values["state"]):
                raise

    async def _write(self, job: Job, values: dict[str, Any], history: Sequence[Entry] = ()) -> None:
        statement = (
            update(jobs)
            .where(_is(job.id), jobs.c.attempt == job.attempt, jobs.c.state == RUNNING)
            .values(last_sequence=jobs.c.last_sequence + len(history), **values)
            .returning(jobs)
        )

        async def transaction(connection: AsyncConnection) -> None:
            row = (await connection.execute(statement)).one_or_none()
            if row is None:
                raise LeaseLost(job.id)
            written = _job(row)
            await _add_events(connection, job.id, history, written.last_sequence - len(history) + 1)
            await _add_webhook(connection, written)

        await self._database.run(transaction)

    async def cancel(self, job_id: str) -> Job:
        """End a job that has not ended; its attempt, if one runs, can write no more.

        Raises:
            NotFound: There is none of that id.
        """
        error = to_status(RequestCancelled("the operation was cancelled")).SerializeToString()
        statement = (
            update(jobs).where(_is(job_id), jobs.c.state.in_(UNFINISHED)).values(state=CANCELLED, error=error, **_ENDED).returning(jobs)
        )

        async def transaction(connection: AsyncConnection) -> None:
            row = (await connection.execute(statement)).one_or_none()
            if row is not None:
                await _add_webhook(connection, _job(row))

        await self._database.run(transaction)
        return await self.get(job_id)

    async def release(self) -> None:
        """Give back every job of this server, to be taken up by another one at once."""
        values = {"state": QUEUED, "lease_owner": None, "lease_expires": None, "not_before": now()}
        await self._execute(update(jobs).where(jobs.c.lease_owner == self._owner, jobs.c.state == RUNNING).values(**values))

    async def delete(self, job_id: str) -> None:
        """Forget a job that ended; nothing to do where there is none.

        Raises:
            NotFinished: It has not.
        """
        await self._execute(delete(jobs).where(_is(job_id), jobs.c.state.not_in(UNFINISHED)))
        if await self.find(job_id) is not None:
            raise NotFinished(f"{PREFIX}{job_id} has not ended: cancel it first", name=PREFIX + job_id)

    async def _execute(self, statement: Any) -> None:
        async def transaction(connection: AsyncConnection) -> None:
            await connection.execute(statement)

        await self._database.run(transaction)


_ENDED = {"lease_owner": None, "lease_expires": None, "finished": now()}
_COLUMNS = [field.name for field in fields(Job)]


def _is(job_id: str) -> ColumnElement[bool]:
    return and_(jobs.c.tenant == tenant.get(), jobs.c.id == job_id)


def _job(row: Row[Any]) -> Job:
    return Job(**{name: row._mapping[name] for name in _COLUMNS})


def _reused(job_id: str) -> AlreadyExists:
    return AlreadyExists(f"{PREFIX}{job_id} is there already, with another body", name=PREFIX + job_id)


async def _add_events(connection: AsyncConnection, job_id: str, history: Sequence[Entry], first: int) -> None:
    rows = []
    for sequence, entry in enumerate(history, first):
        event = music_pb2.GenerateEvent()
        event.MergeFrom(entry.event)
        event.sequence = sequence
        key = {"tenant": tenant.get(), "job_id": job_id, "sequence": sequence}
        rows.append(key | {"event": event.SerializeToString(), "audio_bytes": entry.audio_bytes})
    if rows:
        await connection.execute(insert(events), rows)


async def _add_webhook(connection: AsyncConnection, job: Job) -> None:
    if not job.done or not job.webhook_url:
        return
    call = {
        "id": f"msg_{secrets.token_hex(16)}",
        "tenant": job.tenant,
        "job_id": job.id,
        "url": job.webhook_url,
        "secret": job.webhook_secret,
    }
    await connection.execute(insert(webhooks).values(**call, body=webhook_body(job), attempt=0, next_attempt=now()))
