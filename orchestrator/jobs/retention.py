"""What ended long ago, or is too much, goes: by age and by total size. Never what has not ended, nor what such a job starts from."""

from collections.abc import Awaitable, Callable

from sqlalchemy import ColumnElement, func, select

from acestep_rpc.telemetry import log
from orchestrator.jobs.job import UNFINISHED, Job
from orchestrator.jobs.schema import jobs, now
from orchestrator.jobs.store import JobStore

_AT_A_TIME = 100


async def expire(store: JobStore, remove: Callable[[Job], Awaitable[None]], max_age_seconds: float, max_bytes: int) -> None:
    """Remove jobs that ended.

    Args:
        store: Has them.
        remove: Removes one with its songs.
        max_age_seconds: Those that ended longer ago; 0: none for their age.
        max_bytes: The oldest of each tenant, until the songs of its rest are no larger; 0: none for their size.
    """
    if max_age_seconds:
        while expired := await _oldest(store, jobs.c.finished < now() - max_age_seconds):
            for job in expired:
                await remove(job)
                log("job_expired", job=job.id, reason="age")
    if not max_bytes:
        return
    younger = jobs.alias()
    bytes_from_here = (
        select(func.coalesce(func.sum(younger.c.size_bytes), 0))
        .where(younger.c.tenant == jobs.c.tenant)
        .where((younger.c.created > jobs.c.created) | ((younger.c.created == jobs.c.created) & (younger.c.id >= jobs.c.id)))
        .scalar_subquery()
    )
    for job in await _oldest(store, (jobs.c.size_bytes > 0) & (bytes_from_here > max_bytes)):
        await remove(job)
        log("job_expired", job=job.id, reason="size")


async def _oldest(store: JobStore, condition: ColumnElement[bool]) -> list[Job]:
    unfinished = jobs.alias()
    starts_from_it = (unfinished.c.tenant == jobs.c.tenant) & (unfinished.c.source_id == jobs.c.id)
    in_use = select(unfinished.c.id).where(starts_from_it, unfinished.c.state.in_(UNFINISHED)).exists()
    ended = jobs.c.state.not_in(UNFINISHED)
    return await store.select(select(jobs).where(ended, ~in_use, condition).order_by(jobs.c.created, jobs.c.id).limit(_AT_A_TIME))
