"""Which songs share a forward, and when. Owns the device's worker thread and the event loop's side of it.

Each tick takes the songs whose turn it is (`scheduling.py`), of whatever lengths, up to a budget of rows x frames, runs one forward for
them and lets each go on. Requests join and leave between any two ticks.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor

from acestep_rpc.admission import Memory
from acestep_rpc.cost import CostModel
from acestep_rpc.errors import AcestepError, StageError
from acestep_rpc.telemetry import (
    BACKLOG_SECONDS,
    BATCH_FILL,
    BATCH_ROWS,
    CANCELLED_DEVICE_SECONDS,
    COST_ERROR,
    QUEUE_SECONDS,
    STEP_SECONDS,
    log,
)
from acestep_rpc.work import NOTHING
from diffusion_svc.budget import Budget, refreshed_size
from diffusion_svc.memory import request_bytes
from diffusion_svc.places import Places, Snapshot, Ticket
from diffusion_svc.sampler import Sampler, SamplingRequest, Song, SongSnapshot
from diffusion_svc.sampling.solvers import SeededNoise
from diffusion_svc.scheduling import Queue, Terms

SIZE_BUCKETS = (256, 1024, 4096, 16384, 65536)
"""Upper ends, rows x frames, of the classes of forwards whose times are counted apart."""
UNBOUNDED = 2**62  # bytes
DRAWS_AT_ONCE = 32  # of noise, [8, 16, T] each: some milliseconds each for 240 s


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
class _Ticket(Ticket):
    """A request, and what it is told.

    Attributes:
        snapshot_seconds: Device time between two snapshots; 0: it wants none.
        served: It has been in a forward since it got its place.
        ever_served: It has been in one at all.
        snapshot_at: Its device seconds at the last snapshot.
        safe_seconds: Of its device seconds those that are not lost when it goes.
        unsent: A snapshot was not taken over by its reader yet.
        told: It knows that this stage drains.
    """

    snapshot_seconds: float = 0.0
    served: bool = False
    ever_served: bool = False
    snapshot_at: float = 0.0
    safe_seconds: float = 0.0
    unsent: bool = False
    told: bool = False
    events: asyncio.Queue[Progress | Estimate | Snapshot | Result | Exception] = field(default_factory=asyncio.Queue)


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
        self._places: Places[_Ticket] = Places(max_requests, memory or Memory(UNBOUNDED, str(sampler.model.device)))
        self._queue: Queue[tuple[Song, _Ticket]] = Queue(budget.size)
        self._ticking: asyncio.Task[None] | None = None
        self._draining = False
        self.running_rows = 0
        """Of the forward that runs now."""

    @property
    def waiting_requests(self) -> int:
        """Admitted, and in no forward yet, or in none since they stepped aside."""
        return sum(not ticket.served for ticket in self._places.tickets)

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
        work = sum((ticket.work_aside for ticket in self._places.tickets), work)
        return self._cost.predict(work.shared_features(self._queue.budget))

    async def sample(
        self,
        request: SamplingRequest,
        terms: Terms | None = None,
        snapshot: Sequence[SongSnapshot] | None = None,
        snapshot_seconds: float = 0.0,
    ) -> AsyncGenerator[Progress | Estimate | Snapshot | Result]:
        """Progress after each step, with the estimates and snapshots that are wanted, then the result.

        Closing the iterator withdraws the request before the next tick.

        Args:
            request: What to sample.
            terms: Its turn; the deadline is on the clock of time.monotonic. None: those of any request.
            snapshot: Where it goes on; None: at the beginning.
            snapshot_seconds: Device time of the request between two snapshots, and one when this stage drains; 0: none.
        Raises:
            Overloaded: Too many requests are here already.
            ShapeTooLarge: The device can never hold it; what it cannot hold now waits.
            StageError: The model gave values that are not finite.
        """
        num_bytes = request_bytes(request, self._sampler.model.config, self._sampler.model.dtype)
        ticket = _Ticket(request, terms or Terms(), num_bytes, time.monotonic(), Snapshot(snapshot), snapshot_seconds=snapshot_seconds)
        ticket.safe_seconds = ticket.snapshot_at = ticket.device_seconds
        with self._places.admit(ticket, self.backlog_seconds):
            work = asyncio.create_task(self._serve(ticket))
            try:
                while True:
                    event = await ticket.events.get()
                    if isinstance(event, Exception):
                        raise event
                    ticket.unsent = ticket.unsent and not isinstance(event, Snapshot)
                    yield event
                    if isinstance(event, Result):
                        return
            except BaseException:
                CANCELLED_DEVICE_SECONDS.inc(max(ticket.device_seconds - ticket.safe_seconds, 0.0))
                raise
            finally:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)

    def drain(self) -> None:
        """Tell all requests that want snapshots where they can go on elsewhere: at once, or between two ticks. They go on here too."""
        self._draining = True
        for ticket in self._places.tickets:
            if not ticket.songs:
                self._tell(ticket, replace(ticket.kept, draining=True))

    async def _serve(self, ticket: _Ticket) -> None:
        """Keep a request under way, however often it has to step aside, until it is cancelled."""
        try:
            while True:
                noises = None if ticket.kept.songs is None else await self._noises(ticket)
                async with self._places.place(ticket):
                    await self._start(ticket, noises)
                    try:
                        await ticket.vacated.wait()
                    finally:
                        self._leave(ticket)
        except Exception as error:
            ticket.events.put_nowait(error)

    async def _noises(self, ticket: _Ticket) -> list[SeededNoise]:
        """The noise of its songs, where they go on. Drawing it anew can take seconds: in pieces, and not in the device's thread."""
        noises = await asyncio.to_thread(self._sampler.noises, ticket.request)
        for noise, song in zip(noises, ticket.kept.songs or (), strict=True):
            for drawn in range(0, song.state.draws, DRAWS_AT_ONCE):
                await asyncio.to_thread(noise.skip, min(song.state.draws - drawn, DRAWS_AT_ONCE))
        return noises

    async def _start(self, ticket: _Ticket, noises: list[SeededNoise] | None) -> None:
        start = partial(self._sampler.start, ticket.request, ticket.kept.songs, noises)
        ticket.songs = await asyncio.get_running_loop().run_in_executor(self._worker, start)
        ticket.work_aside = NOTHING
        for song in ticket.songs:
            if song.pending:
                self._queue.add((song, ticket), ticket.terms)
        self._report(ticket, 0)  # cfg_star alone can finish a song without an evaluation
        if self._ticking is None or self._ticking.done():
            self._ticking = asyncio.create_task(self._tick_until_idle())

    def _leave(self, ticket: _Ticket) -> None:
        self._queue.remove(lambda entry: entry[1] is ticket)
        BACKLOG_SECONDS.labels("diffusion").set(self.backlog_seconds)

    def _fail(self, ticket: _Ticket, error: AcestepError) -> None:
        ticket.events.put_nowait(error)
        self._leave(ticket)

    async def _tick_until_idle(self) -> None:
        while len(self._queue):
            await self._take_snapshots()
            if not (group := self._choose()):
                continue  # all stepped aside
            tickets = list(dict.fromkeys(ticket for _, ticket in group))
            try:
                await self._tick([song for song, _ in group], tickets)
            except Exception as error:  # a defect: fail what was in the forward, serve on
                log("tick_failed", level=logging.ERROR, exception=error)
                for ticket in tickets:
                    self._fail(ticket, StageError("a forward failed"))

    async def _take_snapshots(self) -> None:
        """Between two ticks: of those that are to step aside, and of those whose time it is."""
        for ticket in list(dict.fromkeys(ticket for _, ticket in self._queue)):
            due = ticket.device_seconds - ticket.snapshot_at >= ticket.snapshot_seconds or (self._draining and not ticket.told)
            due = due and ticket.snapshot_seconds > 0 and not ticket.unsent
            if not due and not ticket.aside:
                continue
            try:
                songs = await asyncio.get_running_loop().run_in_executor(self._worker, self._sampler.freeze, ticket.songs)
            except Exception as error:
                log("snapshot_failed", level=logging.ERROR, exception=error)
                self._fail(ticket, StageError("a snapshot failed"))
                continue
            snapshot = Snapshot(songs, sum(song.steps_done for song in ticket.songs), self._draining)
            if ticket.aside:
                self._step_aside(ticket, snapshot)
            if due:
                self._tell(ticket, snapshot)

    def _step_aside(self, ticket: _Ticket, snapshot: Snapshot) -> None:
        ticket.work_aside = sum((song.remaining_work for song in ticket.songs), NOTHING)
        ticket.kept, ticket.songs, ticket.served = snapshot, [], False
        self._leave(ticket)
        ticket.vacated.set()

    def _tell(self, ticket: _Ticket, snapshot: Snapshot) -> None:
        if not ticket.snapshot_seconds or ticket.unsent:
            return
        ticket.unsent, ticket.told, ticket.snapshot_at = True, snapshot.draining, snapshot.device_seconds
        if snapshot.draining:
            ticket.safe_seconds = snapshot.device_seconds
        ticket.events.put_nowait(snapshot)

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
            if not ticket.ever_served:
                QUEUE_SECONDS.labels("diffusion").observe(started - ticket.joined)
            ticket.served = ticket.ever_served = True
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
            self._fail(ticket, failed)
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
