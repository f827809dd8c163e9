"""Who is let in: requests whose predicted end is before their deadline, as long as there is room. Knows seconds, not what is done in them.

Work that is under way shares a stage: of every other request of its class, a newcomer waits for as much as it needs itself, or for what is
left of the other if that is less; for requests of higher classes, and those of its class whose deadline is before its own, it waits to
their end, for they were let in on that promise; for lower classes not at all. What that leaves out (stages that share a device, who comes
later) is learned as one factor, from how long requests took in the end. As many requests take longer than expected as take less, so
behind others one with a deadline is let in only if a time that few exceed would still do: songs that come too late are work for nothing.
"""

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from google.protobuf import timestamp_pb2

from acestep_rpc.admission import SHORTEST_RETRY_SECONDS
from acestep_rpc.cost import CostModel
from acestep_rpc.errors import DeadlineExceeded, Overloaded
from acestep_rpc.telemetry import BACKLOG_SECONDS, DEADLINE_MISSED, ETA_ERROR, POOL_UPCOMING_SECONDS, REFUSED
from acestep_rpc.v1 import music_pb2, stage_pb2
from orchestrator.plan import Plan
from orchestrator.predictions import Prediction, predict_plan
from orchestrator.stage_facts import StageFacts
from orchestrator.stages import STAGES, Stages

_PROGRESS_OF = {music_pb2.STAGE_ENCODE: 0, music_pb2.STAGE_SAMPLE: 1, music_pb2.STAGE_DECODE: 2}
_TRANSIT_SECONDS = 0.5
"""A caller's time is up a little before ours: it started first, and its cancellation is under way for less than this."""
LATE_SHARE = 0.05
"""Of the requests that are let in, how many may take longer than was reckoned with."""
MOST_CAUTION = 4.0
_CAUTION_STEP = 0.1
"""Of its logarithm, were every request late."""
NOTHING = (0.0,) * len(STAGES)


@dataclass(frozen=True)
class Estimate:
    """What a request would take if it came now.

    Attributes:
        prediction: By stage.
        queue_seconds: Wait for others, in all stages.
        pace: Seconds that pass for a predicted one.
        caution: Seconds to reckon with behind others, over the expected ones.
    """

    prediction: Prediction
    queue_seconds: float
    pace: float
    caution: float

    @property
    def seconds(self) -> float:
        """To its end."""
        return self.pace * (self.queue_seconds + sum(self.prediction.alone))

    @property
    def cautious_seconds(self) -> float:
        """To its end, which few exceed; of one that nobody is before, as expected."""
        return self.seconds * (self.caution if self.queue_seconds else 1.0)


@dataclass(eq=False)
class Admitted:
    """A request under way.

    Attributes:
        priority: Its class; a higher one goes first.
        left: Seconds of each stage's device that it still wants.
        ends_at: A time.monotonic(), as estimated at the start; None: unknown.
        deadline: When its caller gives up; math.inf: never.
        completed_at: When it came to its end, read or not; None: it has not.
        stage: Where it is.
        sampled_at: When its samples should be done, at the pace of its steps so far; None: unknown.
    """

    priority: int
    load: Sequence[float] = NOTHING
    ends_at: float | None = None
    deadline: float = math.inf
    completed_at: float | None = None
    left: list[float] = field(init=False)
    stage: int = 0
    sampled_at: float | None = None

    def __post_init__(self) -> None:
        self.left = list(self.load)

    def observe(self, event: music_pb2.GenerateEvent) -> None:
        """Take note of how far it got; tells an `accepted` event when it should be done."""
        match event.WhichOneof("event"):
            case "accepted" if self.ends_at is not None:
                event.accepted.estimated_finish_time.CopyFrom(_timestamp(self.ends_at))
            case "progress" if (stage := _PROGRESS_OF.get(event.progress.stage)) is not None and event.progress.total:
                self.left[:stage] = [0.0] * stage
                self.left[stage] = self.load[stage] * (1 - event.progress.step / event.progress.total)
                self.stage = stage
                if stage == 1 and event.progress.step:
                    self.sampled_at = time.monotonic() + event.progress.eta.ToTimedelta().total_seconds()
            case "completed":
                self.left = [0.0] * len(self.left)
                self.completed_at = time.monotonic()
                if self.ends_at is not None:
                    ETA_ERROR.observe(abs(time.monotonic() - self.ends_at))

    def seconds_until(self, stage: int) -> float:
        """When it should come to a stage; 0: it is there, or was."""
        if self.stage >= stage:
            return 0.0
        if self.stage == 1 and self.sampled_at is not None:
            return max(self.sampled_at - time.monotonic(), 0.0)
        return sum(self.left[self.stage : stage])


def upcoming_seconds(stage: int, requests: Iterable[Admitted], ahead_seconds: float) -> float:
    """Work that requests will bring to a stage within so many seconds."""
    return sum(one.left[stage] for one in requests if one.stage < stage and one.seconds_until(stage) <= ahead_seconds)


def wait_seconds(
    priority: int, load: Sequence[float], others: Iterable[Admitted], replicas: Sequence[int], deadline: float = math.inf
) -> float:
    """How long a request waits for others, in all stages.

    Args:
        priority: Its class.
        load: Of the request, by stage.
        others: Those under way.
        replicas: Of each stage.
        deadline: Of the request, on the clock of the others'.
    """
    total = 0.0
    for other in others:
        if other.priority > priority or (other.priority == priority and other.deadline < deadline):
            total += sum(left / count for left, count in zip(other.left, replicas, strict=True))
        elif other.priority == priority:
            total += sum(min(left, own) / count for left, own, count in zip(other.left, load, replicas, strict=True))
    return total


class Caution:
    """What to reckon with over what is expected, so that only LATE_SHARE of the requests take longer.

    A step up for each that did, a small one down for each that did not: they balance where the shares are right (Robbins and Monro).

    Attributes:
        factor: From 1 to MOST_CAUTION.
    """

    def __init__(self) -> None:
        self.factor = 1.0

    def observe(self, late: bool) -> None:
        """Learn from a request."""
        step = _CAUTION_STEP * (1 - LATE_SHARE if late else -LATE_SHARE)
        self.factor = min(max(self.factor * math.exp(step), 1.0), MOST_CAUTION)


class Admission:
    """The orchestrator's door.

    Args:
        stages: Who will do the work.
        max_requests: Requests under way; one more is refused.
        max_backlog_seconds: A request that would wait longer is refused.
        scale_ahead_seconds: How far ahead the metric of upcoming work looks.
    """

    def __init__(self, stages: Stages, max_requests: int, max_backlog_seconds: float, scale_ahead_seconds: float = 60.0) -> None:
        self.facts = StageFacts(stages, self._note)
        """What the stages last said of themselves."""
        self._foreign_seconds, self._noted_at = 0.0, -math.inf
        self._max_requests = max_requests
        self._max_backlog_seconds = max_backlog_seconds
        self._replicas = stages.replicas
        self._under_way: set[Admitted] = set()
        self._pace = CostModel([({"seconds": 1.0}, 1.0)])
        self._caution = Caution()
        for index, stage in enumerate(STAGES):
            # asked in the thread of the metrics: the copy is made in one step
            ahead = functools.partial(lambda index: upcoming_seconds(index, list(self._under_way), scale_ahead_seconds), index)
            POOL_UPCOMING_SECONDS.labels(stage).set_function(ahead)

    def estimate(
        self, plan: Plan, source_frames: int, descriptions: Sequence[stage_pb2.DescribeResponse], deadline: float | None = None
    ) -> Estimate | None:
        """What a plan would take if it came now; None: a stage does not say what its work costs.

        Args:
            plan: What is made.
            source_frames: Latent frames of its source; 0: it has none.
            descriptions: From `facts`.
            deadline: A time.monotonic(), or None.
        """
        ends = math.inf if deadline is None else deadline
        prediction = predict_plan(plan, source_frames, descriptions)
        if prediction is None:
            return None
        replicas = [max(self._replicas(stage), 1) for stage in STAGES]
        mine = wait_seconds(plan.priority, prediction.load, self._under_way, replicas, ends)
        foreign = max(self._foreign_seconds - (time.monotonic() - self._noted_at), 0.0)
        return Estimate(prediction, mine + foreign, self._pace.coefficients["seconds"], self._caution.factor)

    def _note(self, descriptions: Sequence[stage_pb2.DescribeResponse]) -> None:
        """How much work the stages have that this server did not send."""
        seconds = 0.0
        for index, (stage, description) in enumerate(zip(STAGES, descriptions, strict=True)):
            sent = sum(admitted.left[index] for admitted in self._under_way) / max(self._replicas(stage), 1)
            seconds += max(description.backlog_seconds - sent, 0.0)
        self._foreign_seconds, self._noted_at = seconds, time.monotonic()

    @contextlib.contextmanager
    def admit(
        self, plan: Plan, source_frames: int, descriptions: Sequence[stage_pb2.DescribeResponse], deadline: float | None
    ) -> Iterator[Admitted]:
        """Let a request in for as long as the block runs.

        Args:
            plan: What is made.
            source_frames: Latent frames of its source; 0: it has none.
            descriptions: From `facts`.
            deadline: A time.monotonic(), or None.
        Raises:
            Overloaded: There are too many, they take too long, or it cannot be done before its deadline.
        """
        estimate = self.estimate(plan, source_frames, descriptions, deadline)
        unfinished = [admitted for admitted in self._under_way if admitted.completed_at is None]  # the others are only read
        if len(unfinished) >= self._max_requests:
            least = min(sum(admitted.left) for admitted in unfinished)
            raise _refused("requests", f"{len(unfinished)} requests are under way, which is the limit", least)
        if estimate is not None and estimate.queue_seconds > self._max_backlog_seconds:
            wait = f"the wait is {estimate.queue_seconds:.3g} s, the limit {self._max_backlog_seconds:g} s"
            raise _refused("backlog", wait, estimate.queue_seconds - self._max_backlog_seconds)
        left = math.inf if deadline is None else deadline - time.monotonic()
        if estimate is not None and (needed := estimate.cautious_seconds) > left:
            needs = f"{needed:.3g} s, of them {estimate.queue_seconds:.3g} s of waiting; the deadline is in {left:.3g} s"
            raise _refused("deadline", f"the deadline cannot be met: the request needs {needs}", needed - left)
        with self.enter(plan, estimate, deadline) as admitted:
            yield admitted

    @contextlib.contextmanager
    def enter(self, plan: Plan, estimate: Estimate | None, deadline: float | None = None) -> Iterator[Admitted]:
        """Count a request for as long as the block runs, whatever the limits say: for those that were promised."""
        load, ends_at = (NOTHING, None) if estimate is None else (estimate.prediction.load, time.monotonic() + estimate.seconds)
        admitted = Admitted(plan.priority, load, ends_at, math.inf if deadline is None else deadline)
        self._under_way.add(admitted)
        self._report()
        started = time.monotonic()
        try:
            yield admitted
        finally:
            self._under_way.remove(admitted)
            if estimate is not None:
                self._learn(admitted, estimate, started)
            self._report()

    def _learn(self, admitted: Admitted, estimate: Estimate, started: float) -> None:
        """From a request that has ended. One that was given up says something only if it was late by then; it would have taken longer."""
        now, completed = time.monotonic(), admitted.completed_at is not None
        seconds = (admitted.completed_at or now) - started
        missed = not completed and now >= admitted.deadline - _TRANSIT_SECONDS
        late = missed or seconds > estimate.cautious_seconds
        if estimate.queue_seconds if late else completed:
            self._caution.observe(late)
        if completed or seconds > estimate.seconds:
            rest = 0.0 if completed else estimate.pace * sum(admitted.left)
            self._pace.observe({"seconds": estimate.seconds / estimate.pace}, seconds + rest)

    def _report(self) -> None:
        BACKLOG_SECONDS.labels("orchestrator").set(sum(sum(admitted.left) for admitted in self._under_way))


async def accompany(
    events: AsyncGenerator[music_pb2.GenerateEvent, None], admitted: Admitted, deadline: float | None = None
) -> AsyncGenerator[music_pb2.GenerateEvent, None]:
    """The events, each noted; a deadline that passes before the last is counted."""
    try:
        async with contextlib.aclosing(events):
            async for event in events:
                admitted.observe(event)
                yield event
    except (DeadlineExceeded, GeneratorExit, asyncio.CancelledError):
        if deadline is not None and time.monotonic() >= deadline - _TRANSIT_SECONDS:
            DEADLINE_MISSED.inc()
        raise


def finish_time(seconds: float) -> timestamp_pb2.Timestamp:
    """The moment so many seconds from now."""
    return _timestamp(time.monotonic() + seconds)


def _refused(reason: str, message: str, retry_seconds: float) -> Overloaded:
    REFUSED.labels(reason).inc()
    return Overloaded(message, max(retry_seconds, SHORTEST_RETRY_SECONDS))


def _timestamp(at: float) -> timestamp_pb2.Timestamp:
    """Of a time.monotonic()."""
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromMilliseconds(round((time.time() + at - time.monotonic()) * 1000))
    return timestamp
