"""What a stage lets in: so many requests, whose predicted seconds are its backlog, and so many bytes. It knows no work by name."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from acestep_rpc.errors import Overloaded, ShapeTooLarge
from acestep_rpc.telemetry import BACKLOG_SECONDS, HELD_MEMORY, REFUSED
from acestep_rpc.v1 import stage_pb2

SHORTEST_RETRY_SECONDS = 1.0
PATIENCE = 8
"""How often one who waits is overtaken by higher classes at most."""


def retry_seconds(backlog_seconds: float, requests: int) -> float:
    """When room for one request may be expected: the mean time between two that end, but no less than a second."""
    return max(backlog_seconds / max(requests, 1), SHORTEST_RETRY_SECONDS)


@dataclass(eq=False)
class Pending:
    """A request that was let in.

    Attributes:
        seconds: Predicted time that it still takes; whoever works on it keeps it up to date.
    """

    seconds: float


class Backlog:
    """Requests under way and waiting.

    Args:
        stage: Label of the metric.
        max_requests: One more is refused.
    """

    def __init__(self, stage: str, max_requests: int) -> None:
        self._stage = stage
        self._max_requests = max_requests
        self._pending: set[Pending] = set()

    @property
    def seconds(self) -> float:
        """Predicted time of the work that was let in and is not done."""
        return sum(pending.seconds for pending in self._pending)

    def status(self) -> stage_pb2.WatchStatusResponse:
        """The load of a stage that does one request at a time."""
        count = len(self._pending)
        return stage_pb2.WatchStatusResponse(backlog_seconds=self.seconds, running_rows=min(count, 1), waiting_requests=max(count - 1, 0))

    @contextlib.contextmanager
    def admit(self, seconds: float) -> Iterator[Pending]:
        """Count a request for as long as the block runs.

        Raises:
            Overloaded: There are too many.
        """
        count = len(self._pending)
        if count >= self._max_requests:
            REFUSED.labels("requests").inc()
            raise Overloaded(f"{count} requests are under way, which is the limit", retry_seconds(self.seconds, count))
        pending = Pending(seconds)
        self._pending.add(pending)
        BACKLOG_SECONDS.labels(self._stage).set(self.seconds)
        try:
            yield pending
        finally:
            self._pending.remove(pending)
            BACKLOG_SECONDS.labels(self._stage).set(self.seconds)


@dataclass(eq=False)
class _Waiting:
    amount: int
    order: tuple[float, float]
    turn: asyncio.Future[None]
    overtaken: int = 0


class Room:
    """So much of something that requests hold. Who does not fit yet waits, and who comes later waits behind.

    Args:
        amount: What there is.
    """

    def __init__(self, amount: int) -> None:
        self.amount = self.free = amount
        self._waiting: list[_Waiting] = []

    @contextlib.asynccontextmanager
    async def hold(self, amount: int, order: tuple[float, float] = (0.0, math.inf)) -> AsyncIterator[None]:
        """Have so much for as long as the block runs; waits until it is free.

        Args:
            amount: At most all that there is.
            order: Who waits with a higher one is overtaken, though not more often than PATIENCE times.
        """
        if self._waiting or amount > self.free:
            await self._wait(amount, order)
        else:
            self.free -= amount
        try:
            yield
        finally:
            self.free += amount
            self._wake()

    async def _wait(self, amount: int, order: tuple[float, float]) -> None:
        mine = _Waiting(amount, order, asyncio.get_running_loop().create_future())
        place = len(self._waiting)
        while place and order < self._waiting[place - 1].order and self._waiting[place - 1].overtaken < PATIENCE:
            place -= 1
            self._waiting[place].overtaken += 1
        self._waiting.insert(place, mine)
        self._wake()
        try:
            await mine.turn
        except asyncio.CancelledError:
            if mine.turn.done() and not mine.turn.cancelled():
                self.free += amount  # it had just been given
            else:
                self._waiting.remove(mine)
            self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting and self._waiting[0].amount <= self.free:
            first = self._waiting.pop(0)
            self.free -= first.amount
            first.turn.set_result(None)


class Memory(Room):
    """Bytes of a device.

    Args:
        num_bytes: What there is.
        device: For messages.
    """

    def __init__(self, num_bytes: int, device: str) -> None:
        super().__init__(num_bytes)
        self._device = device

    @property
    def free_bytes(self) -> int:
        """What nobody holds."""
        return self.free

    @contextlib.asynccontextmanager
    async def hold(self, amount: int, order: tuple[float, float] = (0.0, math.inf)) -> AsyncIterator[None]:
        """As `Room.hold`, in bytes.

        Raises:
            ShapeTooLarge: There never are so many.
        """
        if amount > self.amount:
            REFUSED.labels("memory").inc()
            message = f"the request needs {amount} bytes; {self.amount} are for requests"
            raise ShapeTooLarge(message, device=self._device, limit_bytes=str(self.amount))
        async with super().hold(amount, order):
            HELD_MEMORY.labels(self._device).inc(amount)
            try:
                yield
            finally:
                HELD_MEMORY.labels(self._device).dec(amount)
