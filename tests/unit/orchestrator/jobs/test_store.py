import asyncio
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from acestep_rpc.errors import AlreadyExists, NotFinished, NotFound, StageError, from_status, to_status
from orchestrator.jobs.database import Database, DatabaseUnavailable, open_database
from orchestrator.jobs.job import Entry
from orchestrator.jobs.schema import versions
from orchestrator.jobs.store import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED, JobStore, LeaseLost
from tests.postgresql import PostgreSQL
from tests.unit.orchestrator.jobs.conftest import LEASE_SECONDS
from tests.unit.orchestrator.jobs.rows import accepted, add, audio, columns, completed, progress, taken


async def test_the_same_id_with_the_same_body_is_the_same_job(store: JobStore) -> None:
    first = await add(store, "a")
    assert await add(store, "a") == first
    assert (first.state, first.attempt, first.last_sequence) == (QUEUED, 0, 1)


async def test_the_same_id_with_another_body_is_refused(store: JobStore) -> None:
    await add(store, "a")
    with pytest.raises(AlreadyExists, match="operations/a is there already"):
        await store.add(columns("a", body_sha256="1" * 64), accepted())


async def test_twenty_jobs_are_taken_once_each_by_two_servers_at_once(databases: list[Database]) -> None:
    stores = [JobStore(database, f"server {index}", 60.0) for index, database in enumerate(databases)]
    for number in range(20):
        await add(stores[0], f"job-{number:02}")
    jobs = await asyncio.gather(*(stores[number % 2].take() for number in range(26)))
    taken_ids = [job.id for job in jobs if job is not None]
    rest = [job.id for job in [await stores[0].take() for _ in range(20)] if job is not None]  # those whose takers met the same row
    assert sorted(taken_ids + rest) == [f"job-{number:02}" for number in range(20)]
    assert len(taken_ids) >= 10


async def test_the_oldest_job_is_taken_first(store: JobStore) -> None:
    for name in "bca":
        await add(store, name)
    assert [(await taken(store)).id for _ in range(3)] == ["b", "c", "a"]
    assert await store.take() is None


async def test_a_silent_servers_job_is_taken_up_and_its_late_writes_change_nothing(stores: list[JobStore]) -> None:
    await add(stores[0], "a")
    first = await taken(stores[0])
    await stores[0].append(first, progress(1))
    assert await stores[1].take() is None
    await asyncio.sleep(LEASE_SECONDS * 1.5)
    second = await taken(stores[1])
    assert (second.attempt, second.failed_attempts, second.lease_owner) == (2, 1, "server 1")
    before = await stores[0].get("a")
    with pytest.raises(LeaseLost):
        await stores[0].append(first, progress(2))
    with pytest.raises(LeaseLost):
        await stores[0].succeed(first, [completed()])
    with pytest.raises(LeaseLost):
        await stores[0].fail(first, to_status(StageError("late")))
    with pytest.raises(LeaseLost):
        await stores[0].postpone(first, 0, failed=True)
    with pytest.raises(LeaseLost):
        await stores[0].renew(first)
    assert await stores[0].get("a") == before
    await stores[1].succeed(second, [completed(7)])
    assert (await stores[0].get("a")).state == SUCCEEDED
    with pytest.raises(LeaseLost):
        await stores[0].succeed(first, [completed(8)])
    assert (await stores[0].get("a")).size_bytes == 7


async def test_a_renewed_lease_holds(stores: list[JobStore]) -> None:
    await add(stores[0], "a")
    job = await taken(stores[0])
    for _ in range(4):
        await asyncio.sleep(LEASE_SECONDS / 2)
        await stores[0].renew(job)
        assert await stores[1].take() is None


async def test_a_released_job_is_taken_up_at_once_and_the_attempt_does_not_count_against_it(stores: list[JobStore]) -> None:
    await add(stores[0], "a")
    await add(stores[0], "b")
    first, other = await taken(stores[0]), await taken(stores[1])
    await stores[0].release()
    second = await taken(stores[1])
    assert (second.id, second.attempt, second.failed_attempts) == ("a", 2, 0)
    assert (await stores[0].get("b")).attempt == other.attempt
    with pytest.raises(LeaseLost):
        await stores[0].append(first, progress(1))


async def test_a_postponed_job_waits(store: JobStore) -> None:
    await add(store, "a")
    await store.postpone(await taken(store), 0.3, failed=True)
    assert await store.take() is None
    await asyncio.sleep(0.4)
    assert (await taken(store)).failed_attempts == 1


async def test_events_are_numbered_through_all_attempts_and_read_from_any_number(store: JobStore) -> None:
    await add(store, "a")
    first = await taken(store)
    await store.append(first, progress(1))
    await store.release()
    second = await taken(store)
    await store.append(second, progress(2))
    await store.succeed(second, [audio(b"sound"), completed()])
    history = await store.events("a", 1, 100)
    assert [event.sequence for event, _ in history] == [1, 2, 3, 4, 5]
    assert [event.WhichOneof("event") for event, _ in history] == ["accepted", "progress", "progress", "audio_chunk", "completed"]
    assert [size for _, size in history] == [0, 0, 0, 5, 0]
    assert not any(event.audio_chunk.data for event, _ in history)
    assert await store.events("a", 3, 2) == history[2:4]
    assert (await store.get("a")).last_sequence == 5


async def test_ending_again_in_the_same_way_is_no_loss(store: JobStore) -> None:
    """As when the answer to the first commit got lost."""
    await add(store, "a")
    job = await taken(store)
    await store.succeed(job, [completed(5)])
    await store.succeed(job, [completed(5)])
    assert (await store.get("a")).last_sequence == 2


@pytest.mark.parametrize("runs", [False, True])
async def test_cancelling_ends_a_job_for_its_attempt_too(store: JobStore, runs: bool) -> None:
    await add(store, "a")
    job = await taken(store) if runs else await store.get("a")
    cancelled = await store.cancel("a")
    assert (cancelled.state, cancelled.lease_owner) == (CANCELLED, None)
    assert cancelled.error is not None
    assert cancelled.finished is not None
    with pytest.raises(LeaseLost):
        await store.succeed(job, [completed()])
    assert await store.take() is None
    assert await store.cancel("a") == cancelled
    with pytest.raises(NotFound):
        await store.cancel("b")


async def test_an_error_comes_back_as_it_went(store: JobStore) -> None:
    await add(store, "a")
    await store.fail(await taken(store), to_status(AlreadyExists("taken", name="x")))
    job = await store.get("a")
    assert job.state == FAILED
    status = to_status(AlreadyExists("taken", name="x"))
    assert job.error == status.SerializeToString()
    restored = from_status(status)
    assert isinstance(restored, AlreadyExists)
    assert restored.metadata == {"name": "x"}


async def test_only_what_has_ended_is_deleted_and_its_events_with_it(store: JobStore) -> None:
    await add(store, "a")
    with pytest.raises(NotFinished, match="cancel it first"):
        await store.delete("a")
    await taken(store)
    with pytest.raises(NotFinished):
        await store.delete("a")
    await store.cancel("a")
    await store.delete("a")
    await store.delete("a")
    assert await store.find("a") is None
    assert await store.events("a", 1, 9) == []


async def test_what_was_kept_outside_of_a_job_is_found_like_one(store: JobStore) -> None:
    history: list[Entry] = [accepted(), audio(b"123"), completed(3)]
    job = await store.add_finished(columns("a"), history)
    assert (job.state, job.attempt, job.size_bytes, job.last_sequence, job.done) == (SUCCEEDED, 0, 3, 3, True)
    assert await store.take() is None
    with pytest.raises(AlreadyExists):
        await store.add_finished(columns("a"), [completed(4)])
    assert await store.add_finished(columns("a"), history) == job  # a commit that was tried again


async def test_a_job_that_runs_says_so(store: JobStore) -> None:
    await add(store, "a")
    job = await taken(store)
    assert (job.state, job.attempt, job.lease_owner) == (RUNNING, 1, "server 0")
    assert job.started is not None
    assert job.started >= job.created


async def test_tables_of_another_version_stop_the_start(database: Database, database_address: str) -> None:
    async def age(connection: AsyncConnection) -> None:
        await connection.execute(update(versions).values(version=0))

    await database.run(age)
    with pytest.raises(ValueError, match="tables of version 0"):
        await open_database(database_address)


async def test_ten_servers_may_create_the_tables_at_once(postgresql: PostgreSQL, tmp_path: Path) -> None:
    for address in (postgresql.database(), f"sqlite:///{tmp_path}/new.sqlite"):
        for database in await asyncio.gather(*(open_database(address) for _ in range(10))):
            assert await JobStore(database, "x", 1.0).take() is None
            await database.close()


@pytest.mark.parametrize("address", ["mysql://a/b", "nothing", "postgresql+psycopg2://a/b"])
async def test_other_databases_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="database"):
        await open_database(address)


async def test_a_database_that_restarts_is_waited_for_and_one_that_stays_away_is_an_error(postgresql: PostgreSQL) -> None:
    database = await open_database(postgresql.database(), patience_seconds=1.0)
    patient = await open_database(postgresql.database(), patience_seconds=20.0)
    store = JobStore(patient, "server", 30.0)
    await add(store, "a")
    job = await taken(store)
    postgresql.stop()
    try:
        with pytest.raises(DatabaseUnavailable, match="does not answer"):
            await JobStore(database, "server", 30.0).take()
        append = asyncio.create_task(store.append(job, progress(1)))
        await asyncio.sleep(0.5)
    finally:
        await asyncio.to_thread(postgresql.start)
    await append
    assert [event.WhichOneof("event") for event, _ in await store.events("a", 1, 9)] == ["accepted", "progress"]
    assert isinstance(await store.get("a"), type(job))
    for opened in (database, patient):
        await opened.close()


async def test_a_transaction_that_is_cancelled_holds_up_nobody(stores: list[JobStore]) -> None:
    """As calls are whose callers go away."""
    await add(stores[0], "a")
    job = await taken(stores[0])
    for tries in range(30):
        appends = [asyncio.create_task(stores[number % 2].append(job, progress(1))) for number in range(4)]
        await asyncio.sleep(0.0005 * tries)
        for append in appends:
            append.cancel()
        await asyncio.gather(*appends, return_exceptions=True)
        async with asyncio.timeout(2):
            await stores[1].renew(job)
    history = await stores[0].events("a", 1, 99)
    assert [event.sequence for event, _ in history] == list(range(1, len(history) + 1))
