"""Who of the requests that a stage let in is under way, and who waits: places are memory and a number of requests. Knows no forwards.

A request of a higher class does not wait for those of lower ones: of these as many as it takes are asked to step aside, first the lowest
class and who came last. Who stepped aside comes back in its turn, and goes on where it was.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from acestep_rpc.admission import Memory, Room, retry_seconds
from acestep_rpc.errors import Overloaded
from acestep_rpc.telemetry import PREEMPTED, REFUSED, log
from acestep_rpc.work import NOTHING, Work
from diffusion_svc.sampler import SamplingRequest, Song, SongSnapshot
from diffusion_svc.scheduling import Priority, Terms

MOST_TIMES_ASIDE = 3
"""Who stepped aside so often keeps its place: nobody starves."""


@dataclass(frozen=True)
class Snapshot:
    """Where a request can go on.

    Attributes:
        songs: As they stand; None: nothing is done yet.
        step: Steps done by all of them.
        draining: This stage shuts down: better go on elsewhere.
    """

    songs: Sequence[SongSnapshot] | None = None
    step: int = 0
    draining: bool = False

    @property
    def device_seconds(self) -> float:
        """Spent to get there."""
        return sum(song.device_seconds for song in self.songs or ())


@dataclass(eq=False)
class Ticket:
    """A request that was let in.

    Attributes:
        request: What to sample.
        terms: Its turn.
        num_bytes: Memory that it holds while it is under way.
        joined: When it came.
        kept: Where it goes on when it gets a place.
        songs: Under way; empty while it waits for a place.
        placed: It has a place.
        aside: It was asked to leave its place, or has; false again when it has one.
        times_aside: How often.
        work_aside: Left to do when it stepped aside.
        vacated: Set when it has left its place to another.
    """

    request: SamplingRequest
    terms: Terms
    num_bytes: int
    joined: float
    kept: Snapshot = Snapshot()
    songs: list[Song] = field(default_factory=list)
    placed: bool = False
    aside: bool = False
    times_aside: int = 0
    work_aside: Work = NOTHING
    vacated: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def order(self) -> tuple[float, float]:
        """Among those who wait: class, then arrival."""
        return self.terms.priority, self.joined

    @property
    def device_seconds(self) -> float:
        """Spent on it, on other replicas too."""
        return sum(song.device_seconds for song in self.songs) if self.songs else self.kept.device_seconds


T = TypeVar("T", bound=Ticket)


class Places(Generic[T]):
    """The places of one device.

    Args:
        max_requests: Requests under way and waiting; one more is refused, unless it can have the place of one of a lower class.
        memory: Of the device.
    """

    def __init__(self, max_requests: int, memory: Memory) -> None:
        self._max_requests = max_requests
        self._memory = memory
        self._slots = Room(max_requests)
        self.tickets: set[T] = set()
        """All that were let in and have not gone."""

    @contextlib.contextmanager
    def admit(self, ticket: T, backlog_seconds: float) -> Iterator[None]:
        """Count a request for as long as the block runs.

        Raises:
            Overloaded: There are too many.
        """
        count = sum(not other.aside for other in self.tickets)
        if count >= self._max_requests and (len(self.tickets) >= 2 * self._max_requests or not self._displace(ticket.terms.priority)):
            REFUSED.labels("requests").inc()
            raise Overloaded(f"{count} requests are under way, which is the limit", retry_seconds(backlog_seconds, count))
        self.tickets.add(ticket)
        try:
            yield
        finally:
            self.tickets.remove(ticket)

    @contextlib.asynccontextmanager
    async def place(self, ticket: Ticket) -> AsyncIterator[None]:
        """A place for as long as the block runs; waits until there is one.

        Raises:
            ShapeTooLarge: The device can never hold the request.
        """
        self._make_room(ticket)
        async with self._slots.hold(1, ticket.order), self._memory.hold(ticket.num_bytes, ticket.order):
            ticket.placed, ticket.aside = True, False
            ticket.vacated.clear()
            try:
                yield
            finally:
                ticket.placed = False

    def _displace(self, priority: Priority) -> bool:
        """Ask one of a lower class to step aside; whether there is one."""
        victim = max(self._movable(priority), key=lambda other: other.order, default=None)
        if victim is not None:
            self._ask(victim, "requests")
        return victim is not None

    def _make_room(self, ticket: Ticket) -> None:
        """Ask those of lower classes to step aside that have the memory which is wanted."""
        if ticket.num_bytes > self._memory.amount:
            return  # it never fits
        ahead = (other for other in self.tickets if not other.placed and other.order <= ticket.order)
        wanted = sum(other.num_bytes for other in ahead) - self._memory.free
        wanted -= sum(other.num_bytes for other in self.tickets if other.placed and other.aside)
        for other in sorted(self._movable(ticket.terms.priority), key=lambda other: other.order, reverse=True):
            if wanted <= 0:
                break
            self._ask(other, "memory")
            wanted -= other.num_bytes

    def _movable(self, priority: Priority) -> list[T]:
        return [
            other
            for other in self.tickets
            if other.placed and not other.aside and other.terms.priority > priority and other.times_aside < MOST_TIMES_ASIDE
        ]

    def _ask(self, ticket: Ticket, reason: str) -> None:
        ticket.aside = True
        ticket.times_aside += 1
        PREEMPTED.labels(reason).inc()
        log("preempted", reason=reason, times=ticket.times_aside)
