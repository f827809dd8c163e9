"""Quotas as two orchestrators count them in one database."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from acestep_rpc.errors import PermissionDenied, QuotaExceeded, StageError, from_status, to_status
from acestep_rpc.telemetry import tenant
from acestep_rpc.v1 import music_pb2
from orchestrator.jobs.database import Database
from orchestrator.jobs.schema import slots, usage
from orchestrator.jobs.store import JobStore
from orchestrator.tenants.directory import Tenants, read_tenants
from orchestrator.tenants.quotas import Quotas
from tests.unit.orchestrator.jobs.rows import add, taken

FILE = """
alice.requests_per_minute = 5
alice.audio_seconds_per_day = 100
alice.concurrent_requests = 2
bob.requests_per_minute = 5
carol.max_priority = "batch"
dave.max_priority = "normal"
"""


def tenants() -> Tenants:
    return read_tenants(FILE, "file")


@pytest.fixture
def quotas(databases: list[Database]) -> list[Quotas]:
    return [Quotas(database, tenants) for database in databases]


@contextlib.contextmanager
def acting(name: str) -> Iterator[None]:
    token = tenant.set(name)
    try:
        yield
    finally:
        tenant.reset(token)


async def outcome(call) -> QuotaExceeded | None:
    try:
        await call
    except QuotaExceeded as error:
        return error
    return None


async def test_two_orchestrators_let_no_more_calls_through_than_one_minute_has(quotas: list[Quotas]) -> None:
    with acting("alice"):
        refused = [error for error in await asyncio.gather(*(outcome(quotas[i % 2].count_call()) for i in range(12))) if error]
    assert len(refused) == 7
    assert all(error.quota == "requests_per_minute" and 11 < (error.retry_after_seconds or 0) <= 12 for error in refused)
    with acting("bob"):
        assert await outcome(quotas[0].count_call()) is None
    with acting("nobody's limits"):
        assert not any([await outcome(quotas[0].count_call()) for _ in range(20)])


async def test_waiting_as_long_as_the_error_says_is_enough(databases: list[Database]) -> None:
    quotas = Quotas(databases[0], lambda: read_tenants("alice.requests_per_minute = 30", "file"))
    with acting("alice"):
        while (error := await outcome(quotas.count_call())) is None:
            pass
        assert error.retry_after_seconds is not None
        await asyncio.sleep(error.retry_after_seconds)
        assert await outcome(quotas.count_call()) is None


async def ask(quotas: Quotas, audio_seconds: float, held: asyncio.Event | None = None) -> None:
    async with quotas.request(audio_seconds):
        if held is not None:
            await held.wait()


async def test_a_days_songs_are_shared_by_two_orchestrators(quotas: list[Quotas]) -> None:
    with acting("alice"):
        assert [await outcome(ask(quotas[i % 2], 40)) is None for i in range(4)] == [True, True, False, False]
        error = await outcome(ask(quotas[0], 40))
        assert error is not None
        assert error.quota == "audio_seconds_per_day"
        assert 0 < (error.retry_after_seconds or 0) <= 86400
        assert await outcome(ask(quotas[1], 20)) is None
        too_long = await outcome(ask(quotas[1], 101))
        assert too_long is not None
        assert too_long.retry_after_seconds is None  # no wait helps


async def test_a_new_day_begins_with_nothing_used(quotas: list[Quotas], databases: list[Database]) -> None:
    async def yesterday(connection: AsyncConnection) -> None:
        await connection.execute(update(usage).values(day=usage.c.day - 1))

    with acting("alice"):
        await ask(quotas[0], 100)
        assert await outcome(ask(quotas[0], 1)) is not None
        await databases[0].run(yesterday)
        assert await outcome(ask(quotas[0], 100)) is None


async def test_songs_of_a_request_that_failed_do_not_count_and_those_of_a_cancelled_one_do(quotas: list[Quotas]) -> None:
    with acting("alice"):
        for _ in range(3):
            with pytest.raises(StageError):
                async with quotas[0].request(100):
                    raise StageError("it failed")
        call = asyncio.create_task(ask(quotas[0], 100, asyncio.Event()))
        await asyncio.sleep(0.2)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert await outcome(ask(quotas[0], 1)) is not None


async def test_requests_at_a_time_are_counted_over_two_orchestrators_and_end_with_their_calls(quotas: list[Quotas]) -> None:
    held = asyncio.Event()
    with acting("alice"):
        await ask(quotas[0], 1)
        calls = [asyncio.create_task(outcome(ask(quotas[i % 2], 1, held))) for i in range(6)]
        done, _ = await asyncio.wait(calls, timeout=1.0)
        assert [call.result().quota for call in done if call.result()] == ["concurrent_requests"] * 4
        held.set()
        assert sum(error is None for error in await asyncio.gather(*calls)) == 2
        assert await outcome(ask(quotas[0], 1)) is None


async def test_jobs_count_until_they_end(quotas: list[Quotas], databases: list[Database]) -> None:
    store = JobStore(databases[0], "server", 60.0)
    with acting("alice"):
        await add(store, "a")
        await add(store, "b")
        assert await outcome(ask(quotas[1], 1)) is not None
        await store.fail(await taken(store), to_status(StageError("no")))
        assert await outcome(ask(quotas[1], 1)) is None


async def test_calls_of_a_server_that_died_count_only_for_a_while(quotas: list[Quotas], databases: list[Database]) -> None:
    async def long_ago(connection: AsyncConnection) -> None:
        await connection.execute(update(slots).values(expires=1.0))

    with acting("alice"):
        calls = [asyncio.create_task(ask(quotas[0], 1, asyncio.Event())) for _ in range(2)]
        await asyncio.sleep(0.3)
        assert await outcome(ask(quotas[1], 1)) is not None
        await databases[0].run(long_ago)
        assert await outcome(ask(quotas[1], 1)) is None
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_a_call_under_way_keeps_its_place(databases: list[Database]) -> None:
    quotas = Quotas(databases[0], tenants, renewal_seconds=0.05)

    async def expire(connection: AsyncConnection) -> None:
        await connection.execute(update(slots).values(expires=1.0))

    async def latest(connection: AsyncConnection) -> float:
        return float((await connection.execute(select(slots.c.expires))).scalar_one())

    with acting("alice"):
        async with quotas.request(1):
            await databases[0].run(expire)
            await asyncio.sleep(0.5)
            assert await databases[0].run(latest) > 1e9


async def test_a_class_above_the_highest_is_refused_and_none_is_lowered(quotas: list[Quotas]) -> None:
    high, none = music_pb2.GenerateRequest(priority=music_pb2.PRIORITY_INTERACTIVE), music_pb2.GenerateRequest()
    for name, lowered in (("carol", music_pb2.PRIORITY_BATCH), ("dave", music_pb2.PRIORITY_UNSPECIFIED)):
        with acting(name):
            assert quotas[0].with_priority(none).priority == lowered
            with pytest.raises(PermissionDenied):
                quotas[0].with_priority(high)
    with acting("alice"):
        assert quotas[0].with_priority(high) is high


def test_the_error_crosses_the_wire() -> None:
    for seconds in (None, 2.5):
        back = from_status(to_status(QuotaExceeded("requests_per_minute", "too many", seconds)))
        assert isinstance(back, QuotaExceeded)
        assert (back.quota, str(back), back.retry_after_seconds) == ("requests_per_minute", "too many", seconds)
