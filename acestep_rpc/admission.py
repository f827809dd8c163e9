"""What a stage lets in: so many requests, whose predicted seconds are its backlog, and so many bytes. It knows no work by name."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from acestep_rpc.errors import Overloaded, ShapeTooLarge
from acestep_rpc.telemetry import BACKLOG_SECONDS, HELD_MEMORY, REFUSED
from acestep_rpc.v1 import stage_pb2

SHORTEST_RETRY_SECONDS = 1.0


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


class Memory:
    """Bytes of a device that requests hold. Who does not fit yet waits, and who comes later waits behind.

    Args:
        num_bytes: What there is.
        device: For messages.
    """

    def __init__(self, num_bytes: int, device: str) -> None:
        self._num_bytes = self.free_bytes = num_bytes
        self._device = device
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def hold(self, num_bytes: int) -> AsyncIterator[None]:
        """Have so many bytes for as long as the block runs; waits until they are free.

        Raises:
            ShapeTooLarge: There never are so many.
        """
        if num_bytes > self._num_bytes:
            REFUSED.labels("memory").inc()
            message = f"the request needs {num_bytes} bytes; {self._num_bytes} are for requests"
            raise ShapeTooLarge(message, device=self._device, limit_bytes=str(self._num_bytes))
        if self._waiting or num_bytes > self.free_bytes:
            await self._wait(num_bytes)
        else:
            self.free_bytes -= num_bytes
        HELD_MEMORY.labels(self._device).inc(num_bytes)
        try:
            yield
        finally:
            HELD_MEMORY.labels(self._device).dec(num_bytes)
            self.free_bytes += num_bytes
            self._wake()

    async def _wait(self, num_bytes: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((num_bytes, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.free_bytes += num_bytes  # it had just been given
            else:
                self._waiting.remove((num_bytes, turn))
            self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.free_bytes:
            num_bytes, turn = self._waiting.popleft()
            self.free_bytes -= num_bytes
            turn.set_result(None)
