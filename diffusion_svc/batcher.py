"""Which songs share a forward, and when. Owns the device's worker thread and the event loop's side of it.

Each tick takes the songs whose turn it is (`scheduling.py`), of whatever lengths, up to a budget of rows x frames, runs one forward for
them and lets each go on. Requests join and leave between any two ticks.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from torch import Tensor

from acestep_rpc.admission import Memory, retry_seconds
from acestep_rpc.cost import CostModel
from acestep_rpc.errors import AcestepError, Overloaded, StageError
from acestep_rpc.telemetry import (
    BACKLOG_SECONDS,
    BATCH_FILL,
    BATCH_ROWS,
    CANCELLED_DEVICE_SECONDS,
    COST_ERROR,
    QUEUE_SECONDS,
    REFUSED,
    STEP_SECONDS,
    log,
)
from acestep_rpc.work import NOTHING
from diffusion_svc.budget import Budget, refreshed_size
from diffusion_svc.memory import request_bytes
from diffusion_svc.sampler import Sampler, SamplingRequest, Song
from diffusion_svc.scheduling import Queue, Terms

SIZE_BUCKETS = (256, 1024, 4096, 16384, 65536)
"""Upper ends, rows x frames, of the classes of forwards whose times are counted apart."""
UNBOUNDED = 2**62  # bytes


@dataclass(frozen=True)
class Progress:
    """Steps done and to do, over all songs of a request, and the rows of the forward that did the last one."""

    step: int
    total_steps: int
    batch_rows: int


@dataclass(frozen=True)
class Estimate:
    """Clean estimate [8, 16, T] of the stretch of a song that its request wants to hear of, after one of its steps."""

    variant: int
    step: int
    latents: Tensor


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
    events: asyncio.Queue[Progress | Estimate | Result | AcestepError] = field(default_factory=asyncio.Queue)


class Batcher:
    """Runs requests on one device.

    Args:
        sampler: The device's songs.
        worker: The one thread that may touch the device.
        budget: What one forward holds; a song that wants more in one step runs alone, in its turn.
        max_requests: Requests under way and waiting; one more is refused.
        cost: Predicts forwards, and learns from them; None: it starts with the budget alone.
        memory: Of the device, for the requests; None: they are not counted.
    """

    def __init__(
        self,
        sampler: Sampler,
        worker: ThreadPoolExecutor,
        budget: Budget,
        max_requests: int,
        cost: CostModel | None = None,
        memory: Memory | None = None,
    ) -> None:
        self._sampler = sampler
        self._worker = worker
        self._budget = budget
        self._cost = cost or CostModel([({"row_frames": budget.size}, budget.seconds)])
        self._memory = memory or Memory(UNBOUNDED, str(sampler.model.device))
        self._max_requests = max_requests
        self._admitted = 0
        self._queue: Queue[tuple[Song, _Ticket]] = Queue(budget.size)
        self._ticking: asyncio.Task[None] | None = None
        self.running_rows = 0
        """Of the forward that runs now."""
        self.waiting_requests = 0
        """Admitted, and in no forward yet."""

    @property
    def coefficients(self) -> dict[str, float]:
        """Seconds of a forward, by feature."""
        return self._cost.coefficients

    @property
    def forward_size(self) -> int:
        """Rows x frames of a full forward, as of now."""
        return self._queue.budget

    @property
    def backlog_seconds(self) -> float:
        """Predicted time of all work that songs wait for, in full forwards."""
        work = sum((song.remaining_work for song, _ in self._queue), NOTHING)
        return self._cost.predict(work.shared_features(self._queue.budget))

    async def sample(self, request: SamplingRequest, terms: Terms | None = None) -> AsyncGenerator[Progress | Estimate | Result]:
        """Progress after each step, with the estimates that are wanted, then the result.

        Closing the iterator withdraws the request before the next tick.

        Args:
            request: What to sample.
            terms: Its turn; the deadline is on the clock of time.monotonic. None: those of any request.
        Raises:
            Overloaded: Too many requests are here already.
            ShapeTooLarge: The device can never hold it; what it cannot hold now waits.
            StageError: The model gave values that are not finite.
        """
        if self._admitted >= self._max_requests:
            REFUSED.labels("requests").inc()
            retry = retry_seconds(self.backlog_seconds, self._admitted)
            raise Overloaded(f"{self._admitted} requests are under way, which is the limit", retry)
        self._admitted += 1
        self.waiting_requests += 1
        ticket: _Ticket | None = None
        try:
            joined, model = time.monotonic(), self._sampler.model
            async with self._memory.hold(request_bytes(request, model.config, model.dtype)):
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
                except BaseException:
                    CANCELLED_DEVICE_SECONDS.inc(sum(song.device_seconds for song in songs))
                    raise
                finally:
                    self._leave(ticket)
        finally:
            self._admitted -= 1
            if ticket is None or not ticket.started:
                self.waiting_requests -= 1

    def _join(self, ticket: _Ticket, terms: Terms) -> None:
        for song in ticket.songs:
            if song.pending:
                self._queue.add((song, ticket), terms)
        self._report(ticket, 0)  # cfg_star alone can finish a song without an evaluation
        if self._ticking is None or self._ticking.done():
            self._ticking = asyncio.create_task(self._tick_until_idle())

    def _leave(self, ticket: _Ticket) -> None:
        self._queue.remove(lambda entry: entry[1] is ticket)
        BACKLOG_SECONDS.labels("diffusion").set(self.backlog_seconds)

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
            remaining_seconds=lambda entry: self._cost.predict(entry[0].remaining_work.features()),
            now=time.monotonic(),
        )

    async def _tick(self, songs: list[Song], tickets: list[_Ticket]) -> None:
        work = replace(sum((song.step_work for song in songs), NOTHING), forwards=1)
        size = work.row_frames
        started = time.monotonic()
        for ticket in tickets:
            if not ticket.started:
                ticket.started = True
                self.waiting_requests -= 1
                QUEUE_SECONDS.labels("diffusion").observe(started - ticket.joined)
        self.running_rows = work.rows
        try:
            rows = await asyncio.get_running_loop().run_in_executor(self._worker, self._sampler.tick, songs)
        finally:
            self.running_rows = 0
        seconds = time.monotonic() - started
        COST_ERROR.labels("diffusion").observe(self._cost.observe(work.features(), seconds))
        STEP_SECONDS.labels(_size_bucket(size)).observe(seconds)
        BATCH_ROWS.observe(rows)
        BATCH_FILL.observe(size / self._queue.budget)
        self._queue.budget = refreshed_size(self._budget, self._cost.predict)
        self._queue.remove(lambda entry: not entry[0].pending)
        BACKLOG_SECONDS.labels("diffusion").set(self.backlog_seconds)
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
        for variant, song in enumerate(songs):
            while song.estimates.taken:
                ticket.events.put_nowait(Estimate(variant, *song.estimates.taken.pop(0)))
        latents = [song.result for song in songs if isinstance(song.result, Tensor)]
        if len(latents) == len(songs):
            seconds = sum(song.device_seconds for song in songs)
            ticket.events.put_nowait(Result(latents, seconds, sum(song.evaluated_rows for song in songs)))


def _size_bucket(size: int) -> str:
    """The class of a forward as a label: the upper end of its sizes."""
    return next((str(end) for end in SIZE_BUCKETS if size <= end), "inf")
