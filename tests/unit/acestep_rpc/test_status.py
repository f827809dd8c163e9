import asyncio
import contextlib
import time

from acestep_rpc.admission import Backlog
from acestep_rpc.status import INTERVAL_SECONDS, LoadStatus
from acestep_rpc.v1 import stage_pb2


async def test_the_load_comes_at_once_then_as_it_changes_and_ends_with_draining() -> None:
    backlog = Backlog("test", 4)
    load = LoadStatus(backlog.status)
    statuses = load.watch()
    assert await anext(statuses) == stage_pb2.WatchStatusResponse()
    with backlog.admit(2.5), backlog.admit(1.0) as second:
        status = await anext(statuses)
        assert (status.backlog_seconds, status.running_rows, status.waiting_requests) == (3.5, 1, 1)
        second.seconds = 0.5
        assert (await anext(statuses)).backlog_seconds == 3.0
    asyncio.get_running_loop().call_later(0.01, load.drain)
    rest = [status async for status in statuses]
    assert rest[-1] == stage_pb2.WatchStatusResponse(draining=True)
    assert [status.draining for status in rest].count(True) == 1
    assert [status async for status in load.watch()] == [stage_pb2.WatchStatusResponse(draining=True)]


async def test_changes_are_told_at_most_four_times_a_second() -> None:
    count = 0

    def busier() -> stage_pb2.WatchStatusResponse:
        nonlocal count
        count += 1
        return stage_pb2.WatchStatusResponse(waiting_requests=count)

    times: list[float] = []
    async with contextlib.aclosing(LoadStatus(busier).watch()) as statuses:
        async for _ in statuses:
            times.append(time.monotonic())
            if len(times) == 4:
                break
    assert times[-1] - times[0] >= 3 * INTERVAL_SECONDS - 0.01
