"""The stages in simulated time: the real queue of the diffusion stage and the arithmetic of the orchestrator, on predicted seconds.

A clock with a heap of events; each stage is a pool of replicas, and a request goes to the less loaded of two that are drawn. Nothing waits.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from acestep_rpc.cost import predict
from acestep_rpc.v1 import music_pb2, stage_pb2
from acestep_rpc.work import NOTHING, Work, totals_left
from diffusion_svc.scheduling import Priority, Queue, Terms
from orchestrator.admission import Admitted, wait_seconds
from orchestrator.plan import Plan, plan
from orchestrator.predictions import Prediction, predict_plan, song_forwards

PIECE_FRAMES = 128
"""Latent frames that the vae stage decodes at once."""
TOKENS = 128
_CLASSES = {
    music_pb2.PRIORITY_BATCH: Priority.BATCH,
    music_pb2.PRIORITY_NORMAL: Priority.NORMAL,
    music_pb2.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
}


class Clock:
    """Simulated time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        """Let something happen so much later."""
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), event))

    def run(self) -> None:
        """Let everything happen, in order."""
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()


@dataclass(eq=False)
class Request:
    """A request on its way.

    Attributes:
        arrival: When it came.
        planned: What it wants.
        prediction: By stage.
        frames: Of one song.
        forwards: Of one song.
        deadline: When its caller gives up.
        outcome: "completed", "refused" or "missed"; empty: under way.
        finished: When that was.
    """

    arrival: float
    planned: Plan
    prediction: Prediction
    frames: int
    forwards: Sequence[Work]
    deadline: float
    admitted: Admitted
    outcome: str = ""
    finished: float = 0.0


@dataclass(eq=False)
class Song:
    """What the diffusion stage's queue holds."""

    request: Request
    work_left: Sequence[Work]
    done: int = 0

    @property
    def pending(self) -> Work:
        """The next forward; nothing after the last, or when its request is over."""
        return NOTHING if self.request.outcome or self.done >= len(self.request.forwards) else self.request.forwards[self.done]


class Turns:
    """A replica that does pieces of work one at a time, its requests in turn: the encoder and the vae stage."""

    def __init__(self, clock: Clock, stage: int, pieces: Callable[[Request], list[float]], then: Callable[[Request], None]) -> None:
        self._clock, self._stage, self._pieces, self._then = clock, stage, pieces, then
        self._waiting: deque[tuple[Request, list[float]]] = deque()
        self._busy = False
        self.busy_seconds = 0.0

    @property
    def backlog_seconds(self) -> float:
        """Of what waits."""
        return sum(sum(pieces) for _, pieces in self._waiting)

    def take(self, request: Request) -> None:
        """Let a request wait for its turn."""
        self._waiting.append((request, self._pieces(request)))
        if not self._busy:
            self._next()

    def _next(self) -> None:
        self._busy = bool(self._waiting)
        if not self._waiting:
            return
        request, pieces = self._waiting.popleft()
        if request.outcome:
            self._next()
            return
        seconds = pieces.pop(0)
        self.busy_seconds += seconds
        self._clock.after(seconds, lambda: self._done(request, pieces, seconds))

    def _done(self, request: Request, pieces: list[float], seconds: float) -> None:
        request.admitted.left[self._stage] = max(request.admitted.left[self._stage] - seconds, 0.0)
        if pieces:
            self._waiting.append((request, pieces))
        elif not request.outcome:
            self._then(request)
        self._next()


class Forwards:
    """A replica of the diffusion stage: its real queue decides who shares a forward."""

    def __init__(self, clock: Clock, coefficients: dict[str, float], forward_size: int, then: Callable[[Request], None]) -> None:
        self._clock, self._coefficients, self._then = clock, coefficients, then
        self._queue: Queue[Song] = Queue(forward_size)
        self._busy = False
        self.busy_seconds = 0.0

    @property
    def backlog_seconds(self) -> float:
        """Of what waits and runs."""
        work = sum((song.work_left[song.done] for song in self._queue), NOTHING)
        return predict(self._coefficients, work.shared_features(self._queue.budget))

    def take(self, request: Request) -> None:
        """Let its songs wait for their turns."""
        left = totals_left(request.forwards)
        for _ in request.planned.seeds:
            song = Song(request, left)
            if song.pending.rows:
                self._queue.add(song, Terms(_CLASSES[request.planned.priority], request.deadline))
        if not request.forwards:
            self._then(request)
        if not self._busy:
            self._next()

    def _next(self) -> None:
        self._queue.remove(lambda song: not song.pending.rows)
        self._busy = bool(len(self._queue))
        if not self._busy:
            return
        songs = self._queue.choose(
            size=lambda song: song.pending.row_frames,
            remaining_seconds=lambda song: predict(self._coefficients, song.work_left[song.done].features()),
            now=self._clock.now,
        )
        work = replace(sum((song.pending for song in songs), NOTHING), forwards=1)
        seconds = predict(self._coefficients, work.features())
        self.busy_seconds += seconds
        self._clock.after(seconds, lambda: self._done(songs))

    def _done(self, songs: Sequence[Song]) -> None:
        for song in songs:
            song.done += 1
        for request in dict.fromkeys(song.request for song in songs):
            own = [song for song in self._queue if song.request is request]
            left = sum((song.work_left[song.done] for song in own), NOTHING)
            request.admitted.left[1] = predict(self._coefficients, left.shared_features(self._queue.budget))
            if not request.outcome and all(not song.pending.rows for song in own):
                self._then(request)
        self._next()


@dataclass
class Simulation:
    """A system under traffic.

    Args:
        descriptions: Of the encoder, the diffusion and the vae stage, with their costs.
        replicas: Of each.
        refuse: Refuse what cannot be done before its deadline, as the orchestrator does.
        seed: Of the draws of replicas.
    """

    descriptions: Sequence[stage_pb2.DescribeResponse]
    replicas: Sequence[int] = (1, 1, 1)
    refuse: bool = True
    seed: int = 0
    requests: list[Request] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        costs = [{cost.name: dict(cost.coefficients) for cost in description.costs} for description in self.descriptions]
        forward, decode = costs[1]["forward"], costs[2]["decode"]
        size = int(self.descriptions[1].limits["forward_row_frames"])
        self._randoms = random.Random(self.seed)

        def decode_pieces(request: Request) -> list[float]:
            song = predict(decode, {"songs": 1, "frames": request.frames})
            count = max(-(-request.frames // PIECE_FRAMES), 1)
            return [song / count] * (count * len(request.planned.seeds))

        self.new_sampler: Callable[[], Forwards] = lambda: Forwards(self.clock, forward, size, self._decode)
        encoders, samplers, decoders = self.replicas
        self.pools: list[list[Turns] | list[Forwards]] = [
            [Turns(self.clock, 0, lambda request: [request.prediction.alone[0]], self._sample) for _ in range(encoders)],
            [self.new_sampler() for _ in range(samplers)],
            [Turns(self.clock, 2, decode_pieces, self._complete) for _ in range(decoders)],
        ]

    def add(self, arrival: float, request: music_pb2.GenerateRequest, timeout: float | None = None, source_frames: int = 0) -> None:
        """Let a request arrive.

        Args:
            arrival: When.
            request: As it would be sent.
            timeout: Its deadline, in seconds after its arrival.
            source_frames: Latent frames of its source.
        """
        planned = plan(request, self._randoms, "simulated", self.descriptions[1].sampling_defaults)
        prediction = predict_plan(planned, source_frames, self.descriptions)
        assert prediction is not None, "the stages name their costs"
        frames, forwards = song_forwards(planned, source_frames, TOKENS)
        deadline = arrival + timeout if timeout is not None else float("inf")
        admitted = Admitted(planned.priority, prediction.load, deadline=deadline)
        coming = Request(arrival, planned, prediction, frames, forwards, deadline, admitted)
        self.requests.append(coming)
        self.clock.after(arrival, lambda: self._arrive(coming))

    def run(self) -> None:
        """Let all requests come to their ends."""
        self.clock.run()

    def utilisation(self, stage: int) -> float:
        """Share of the time that the replicas of a stage worked."""
        pool = self.pools[stage]
        return sum(replica.busy_seconds for replica in pool) / (len(pool) * self.clock.now) if self.clock.now else 0.0

    def _arrive(self, request: Request) -> None:
        if self.refuse and self._is_too_late(request):
            self._end(request, "refused")
            return
        if request.deadline < float("inf"):
            self.clock.after(request.deadline - self.clock.now, lambda: self._end(request, "missed"))
        self._less_loaded(0).take(request)

    def _is_too_late(self, request: Request) -> bool:
        others = [
            other.admitted for other in self.requests if not other.outcome and other.arrival <= self.clock.now and other is not request
        ]
        wait = wait_seconds(request.planned.priority, request.prediction.load, others, self.replicas, request.deadline)
        return self.clock.now + wait + sum(request.prediction.alone) > request.deadline

    def _sample(self, request: Request) -> None:
        self._less_loaded(1).take(request)

    def _decode(self, request: Request) -> None:
        self._less_loaded(2).take(request)

    def _complete(self, request: Request) -> None:
        self._end(request, "completed")

    def _end(self, request: Request, outcome: str) -> None:
        if not request.outcome:
            request.outcome, request.finished = outcome, self.clock.now

    def _less_loaded(self, stage: int) -> Turns | Forwards:
        pool: Sequence[Turns | Forwards] = self.pools[stage]
        drawn = self._randoms.sample(range(len(pool)), min(2, len(pool)))
        return pool[min(drawn, key=lambda index: pool[index].backlog_seconds)]
