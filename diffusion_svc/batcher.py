"""Which songs share a forward, and when. Owns the device's worker thread and the event loop's side of it.

Each tick takes the songs whose turn it is (`scheduling.py`), of whatever lengths, up to a budget of rows x frames, runs one forward for
them and lets each go on. Requests join and leave between any two ticks.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from torch import Tensor

from acestep_rpc.errors import AcestepError, Overloaded, StageError
from acestep_rpc.telemetry import BATCH_FILL, BATCH_ROWS, QUEUE_SECONDS, STEP_SECONDS, log
from diffusion_svc.budget import Budget
from diffusion_svc.sampler import Sampler, SamplingRequest, Song
from diffusion_svc.scheduling import Queue, Terms

SIZE_BUCKETS = (256, 1024, 4096, 16384, 65536)
"""Upper ends, rows x frames, of the classes of forwards whose times are counted apart."""
SPEED_MEMORY = 0.9  # share of the known speed that a new forward leaves


@dataclass(frozen=True)
class Progress:
    """Steps done and to do, over all songs of a request, and the rows of the forward that did the last one."""

    step: int
    total_steps: int
    batch_rows: int


@dataclass(frozen=True)
class Result:
    """Final latents [8, 16, T], one per seed, and what they cost."""

    latents: list[Tensor]
    device_seconds: float
    evaluated_rows: int


@dataclass(eq=False)
class _Ticket:
    songs: list[Song]
    joined: float
    started: bool = False
    events: asyncio.Queue[Progress | Result | AcestepError] = field(default_factory=asyncio.Queue)


class Batcher:
    """Runs requests on one device.

    Args:
        sampler: The device's songs.
        worker: The one thread that may touch the device.
        budget: What one forward holds; a song that wants more in one step runs alone, in its turn.
        max_requests: Requests under way and waiting; one more is refused.
    """

    def __init__(self, sampler: Sampler, worker: ThreadPoolExecutor, budget: Budget, max_requests: int) -> None:
        self._sampler = sampler
        self._worker = worker
        self._budget = budget
        self._seconds_per_size = budget.seconds / budget.size
        self._max_requests = max_requests
        self._admitted = 0
        self._queue: Queue[tuple[Song, _Ticket]] = Queue(budget.size)
        self._ticking: asyncio.Task[None] | None = None

    async def sample(self, request: SamplingRequest, terms: Terms | None = None) -> AsyncGenerator[Progress | Result]:
        """Progress after each step, then the result. Closing the iterator withdraws the request before the next tick.

        Args:
            request: What to sample.
            terms: Its turn; the deadline is on the clock of time.monotonic. None: those of any request.
        Raises:
            Overloaded: Too many requests are here already.
            ShapeTooLarge: The device cannot hold it.
            StageError: The model gave values that are not finite.
        """
        if self._admitted >= self._max_requests:
            raise Overloaded(f"{self._admitted} requests are under way, which is the limit")
        self._admitted += 1
        try:
            joined = time.monotonic()
            songs = await asyncio.get_running_loop().run_in_executor(self._worker, self._sampler.start, request)
            ticket = _Ticket(songs, joined)
            self._join(ticket, terms or Terms())
            try:
                while True:
                    event = await ticket.events.get()
                    if isinstance(event, AcestepError):
                        raise event
                    yield event
                    if isinstance(event, Result):
                        return
            finally:
                self._leave(ticket)
        finally:
            self._admitted -= 1

    def _join(self, ticket: _Ticket, terms: Terms) -> None:
        for song in ticket.songs:
            if song.pending:
                self._queue.add((song, ticket), terms)
        self._report(ticket, 0)  # cfg_star alone can finish a song without an evaluation
        if self._ticking is None or self._ticking.done():
            self._ticking = asyncio.create_task(self._tick_until_idle())

    def _leave(self, ticket: _Ticket) -> None:
        self._queue.remove(lambda entry: entry[1] is ticket)

    async def _tick_until_idle(self) -> None:
        while len(self._queue):
            group = self._choose()
            tickets = list(dict.fromkeys(ticket for _, ticket in group))
            try:
                await self._tick([song for song, _ in group], tickets)
            except Exception as error:  # a defect: fail what was in the forward, serve on
                log("tick_failed", level=logging.ERROR, exception=error)
                for ticket in tickets:
                    ticket.events.put_nowait(StageError("a forward failed"))
                    self._leave(ticket)

    def _choose(self) -> list[tuple[Song, _Ticket]]:
        return self._queue.choose(
            size=lambda entry: entry[0].step_size,
            remaining_seconds=lambda entry: entry[0].remaining_size * self._seconds_per_size,
            now=time.monotonic(),
        )

    async def _tick(self, songs: list[Song], tickets: list[_Ticket]) -> None:
        size = sum(song.step_size for song in songs)
        started = time.monotonic()
        for ticket in tickets:
            if not ticket.started:
                ticket.started = True
                QUEUE_SECONDS.labels("diffusion").observe(started - ticket.joined)
        rows = await asyncio.get_running_loop().run_in_executor(self._worker, self._sampler.tick, songs)
        seconds = time.monotonic() - started
        self._seconds_per_size = SPEED_MEMORY * self._seconds_per_size + (1 - SPEED_MEMORY) * seconds / size
        STEP_SECONDS.labels(_size_bucket(size)).observe(seconds)
        BATCH_ROWS.observe(rows)
        BATCH_FILL.observe(size / self._budget.size)
        self._queue.remove(lambda entry: not entry[0].pending)
        for ticket in tickets:
            self._report(ticket, rows)

    def _report(self, ticket: _Ticket, rows: int) -> None:
        songs = ticket.songs
        failed = next((song.result for song in songs if isinstance(song.result, AcestepError)), None)
        if failed is not None:
            ticket.events.put_nowait(failed)
            self._leave(ticket)
            return
        step = sum(song.steps_done for song in songs)
        total = sum(song.total_steps for song in songs)
        if rows:
            ticket.events.put_nowait(Progress(step, total, rows))
        latents = [song.result for song in songs if isinstance(song.result, Tensor)]
        if len(latents) == len(songs):
            seconds = sum(song.device_seconds for song in songs)
            ticket.events.put_nowait(Result(latents, seconds, sum(song.evaluated_rows for song in songs)))


def _size_bucket(size: int) -> str:
    """The class of a forward as a label: the upper end of its sizes."""
    return next((str(end) for end in SIZE_BUCKETS if size <= end), "inf")
