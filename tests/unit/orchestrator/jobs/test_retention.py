import asyncio

from orchestrator.jobs.job import Job
from orchestrator.jobs.retention import expire
from orchestrator.jobs.store import JobStore
from tests.unit.orchestrator.jobs.rows import add, finished, taken


async def left(store: JobStore, names: str, max_age_seconds: float = 0.0, max_bytes: int = 0) -> str:
    """The jobs that are there after an expiry."""

    async def remove(job: Job) -> None:
        await store.delete(job.id)

    await expire(store, remove, max_age_seconds, max_bytes)
    return "".join([name for name in names if await store.find(name) is not None])


async def test_what_ended_long_ago_goes_and_what_runs_or_waits_stays(store: JobStore) -> None:
    await finished(store, "a")
    await add(store, "b")
    await taken(store)
    await add(store, "c")
    await asyncio.sleep(0.3)
    await store.cancel((await add(store, "d")).id)
    assert await left(store, "abcd") == "abcd"  # no limit
    assert await left(store, "abcd", max_age_seconds=0.25) == "bcd"
    await asyncio.sleep(0.3)
    assert await left(store, "abcd", max_age_seconds=0.25) == "bc"


async def test_the_oldest_songs_go_until_the_rest_fits(store: JobStore) -> None:
    for name in "abcd":
        await finished(store, name, size_bytes=100)
    assert await left(store, "abcd", max_bytes=400) == "abcd"
    assert await left(store, "abcd", max_bytes=399) == "bcd"
    assert await left(store, "abcd", max_bytes=150) == "d"
    assert await left(store, "abcd", max_bytes=99) == ""


async def test_what_a_waiting_job_starts_from_stays(store: JobStore) -> None:
    await finished(store, "a", size_bytes=100)
    await add(store, "b", source_id="a")
    await asyncio.sleep(0.05)
    assert await left(store, "ab", max_age_seconds=0.01, max_bytes=1) == "ab"
    await store.cancel("b")
    assert await left(store, "ab", max_bytes=1) == "b"


async def test_a_heap_of_old_jobs_goes_at_once(store: JobStore) -> None:
    for number in range(101):
        await store.cancel((await add(store, f"job-{number}")).id)
    await asyncio.sleep(0.05)
    assert await left(store, "", max_age_seconds=0.01) == ""
    assert await store.find("job-100") is None
