"""What stages let in."""

import asyncio

import pytest
from prometheus_client import REGISTRY

from acestep_rpc.admission import Backlog, Memory, retry_seconds
from acestep_rpc.errors import Overloaded, ShapeTooLarge


def test_one_request_too_many_is_told_when_room_may_be():
    backlog = Backlog("a stage", 2)
    with backlog.admit(10.0) as first, backlog.admit(20.0):
        first.seconds = 4.0
        assert backlog.seconds == 24.0
        with pytest.raises(Overloaded) as caught, backlog.admit(1.0):
            pass
        assert caught.value.retry_after_seconds == retry_seconds(24.0, 2) == 12.0
        assert caught.value.pushback_milliseconds == 12_000
    assert backlog.seconds == 0
    assert REGISTRY.get_sample_value("acestep_backlog_seconds", {"stage": "a stage"}) == 0


async def holding(memory: Memory, num_bytes: int, until: asyncio.Event, order: list[int]) -> None:
    async with memory.hold(num_bytes):
        order.append(num_bytes)
        await until.wait()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_does_not_fit_waits_in_order():
    memory, order, events = Memory(100, "cpu"), [], [asyncio.Event() for _ in range(4)]
    tasks = []
    for num_bytes, event in zip((70, 60, 20, 10), events, strict=True):
        tasks.append(asyncio.create_task(holding(memory, num_bytes, event, order)))
        await settle()
    assert order == [70]  # 20 would fit, but 60 came first
    events[0].set()
    await settle()
    assert order == [70, 60, 20, 10]
    for event in events:
        event.set()
    await asyncio.gather(*tasks)
    assert memory.free_bytes == 100


async def test_what_never_fits_is_too_large():
    with pytest.raises(ShapeTooLarge) as caught:
        async with Memory(100, "cuda:0").hold(101):
            pass
    assert caught.value.metadata == {"device": "cuda:0", "limit_bytes": "100"}


async def test_who_gives_up_waiting_holds_up_nobody():
    memory, order, event = Memory(100, "cpu"), [], asyncio.Event()
    first = asyncio.create_task(holding(memory, 70, event, order))
    await settle()
    second = asyncio.create_task(holding(memory, 60, event, order))
    await settle()
    third = asyncio.create_task(holding(memory, 30, event, order))
    await settle()
    second.cancel()
    await settle()
    assert order == [70, 30]
    event.set()
    await asyncio.gather(first, third)
    assert memory.free_bytes == 100


async def test_memory_given_to_one_who_gives_up_at_that_moment_comes_back():
    memory, order, event = Memory(100, "cpu"), [], asyncio.Event()
    first = asyncio.create_task(holding(memory, 70, event, order))
    await settle()
    second = asyncio.create_task(holding(memory, 60, asyncio.Event(), order))
    await settle()
    event.set()
    await first
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert memory.free_bytes == 100
