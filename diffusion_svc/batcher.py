"""Which songs share a forward, and when. Owns the device's worker thread and the event loop's side of it.

Each tick takes the songs that have waited longest and are of one length, up to the row budget, runs one forward for them and lets each
go on.
Requests join and leave between any two ticks.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from torch import Tensor

from acestep_rpc.errors import AcestepError, Overloaded, StageError
from acestep_rpc.telemetry import BATCH_ROWS, STEP_SECONDS, log
from diffusion_svc.sampler import Sampler, SamplingRequest, Song


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
    events: asyncio.Queue[Progress | Result | AcestepError] = field(default_factory=asyncio.Queue)


class Batcher:
    """Runs requests on one device.

    Args:
        sampler: The device's songs.
        worker: The one thread that may touch the device.
        max_rows: Rows in one forward; a song that wants more in one step runs alone.
        max_requests: Requests under way and waiting; one more is refused.
    """

    def __init__(self, sampler: Sampler, worker: ThreadPoolExecutor, max_rows: int, max_requests: int) -> None:
        self._sampler = sampler
        self._worker = worker
        self._max_rows = max_rows
        self._max_requests = max_requests
        self._admitted = 0
        self._waiting: list[tuple[Song, _Ticket]] = []  # longest wait first
        self._ticking: asyncio.Task[None] | None = None

    async def sample(self, request: SamplingRequest) -> AsyncGenerator[Progress | Result]:
        """Progress after each step, then the result. Closing the iterator withdraws the request before the next tick.

        Raises:
            Overloaded: Too many requests are here already.
            ShapeTooLarge: The device cannot hold it.
            StageError: The model gave values that are not finite.
        """
        if self._admitted >= self._max_requests:
            raise Overloaded(f"{self._admitted} requests are under way, which is the limit")
        self._admitted += 1
        try:
            songs = await asyncio.get_running_loop().run_in_executor(self._worker, self._sampler.start, request)
            ticket = _Ticket(songs)
            self._join(ticket)
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

    def _join(self, ticket: _Ticket) -> None:
        self._waiting += [(song, ticket) for song in ticket.songs if song.pending]
        self._report(ticket, 0)  # cfg_star alone can finish a song without an evaluation
        if self._ticking is None or self._ticking.done():
            self._ticking = asyncio.create_task(self._tick_until_idle())

    def _leave(self, ticket: _Ticket) -> None:
        self._waiting = [(song, owner) for song, owner in self._waiting if owner is not ticket]

    async def _tick_until_idle(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            group = self._choose()
            started = time.perf_counter()
            try:
                rows = await loop.run_in_executor(self._worker, self._sampler.tick, [song for song, _ in group])
            except Exception as error:  # a defect: fail what was in the forward, serve on
                log("tick_failed", level=logging.ERROR, exception=error)
                for ticket in {ticket for _, ticket in group}:
                    ticket.events.put_nowait(StageError("a forward failed"))
                    self._leave(ticket)
                continue
            STEP_SECONDS.observe(time.perf_counter() - started)
            BATCH_ROWS.observe(rows)
            self._rotate(group)
            for ticket in dict.fromkeys(ticket for _, ticket in group):
                self._report(ticket, rows)

    def _choose(self) -> list[tuple[Song, _Ticket]]:
        """The longest waiting song and those of its length, within the row budget; the first always goes."""
        num_frames, rows = self._waiting[0][0].num_frames, 0
        group: list[tuple[Song, _Ticket]] = []
        for song, ticket in self._waiting:
            if song.num_frames == num_frames and (not group or rows + song.pending_rows <= self._max_rows):
                group.append((song, ticket))
                rows += song.pending_rows
        return group

    def _rotate(self, group: list[tuple[Song, _Ticket]]) -> None:
        """Served songs go to the end; finished ones, and those whose request left meanwhile, go away."""
        served = {id(song) for song, _ in group}
        still_here = [entry for entry in self._waiting if id(entry[0]) in served and entry[0].pending]
        self._waiting = [entry for entry in self._waiting if id(entry[0]) not in served] + still_here

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
