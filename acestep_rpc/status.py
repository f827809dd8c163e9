"""What a replica of a stage says of its load, again and again: WatchStatus, written once for all stages."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from acestep_rpc.v1 import stage_pb2

INTERVAL_SECONDS = 0.25


class LoadStatus:
    """The load of this replica, for whoever watches.

    Args:
        read: The load at this moment.
    """

    def __init__(self, read: Callable[[], stage_pb2.WatchStatusResponse]) -> None:
        self._read = read
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Tell all watchers that this replica takes no more, as the last that they hear."""
        self._draining.set()

    async def watch(self) -> AsyncGenerator[stage_pb2.WatchStatusResponse]:
        """The load at once, then each one that differs from the last, at most four a second; ends with one that drains."""
        last: stage_pb2.WatchStatusResponse | None = None
        while last is None or not last.draining:
            status = self._read()
            status.draining = self._draining.is_set()
            if status != last:
                yield status
                last = status
            with contextlib.suppress(TimeoutError):  # wait_for of Python 3.11 can swallow a cancellation
                async with asyncio.timeout(0 if status.draining else INTERVAL_SECONDS):
                    await self._draining.wait()
