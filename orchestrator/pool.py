"""The replicas of one stage: which of them gets a call, which none for a while, and what all of them are."""

import asyncio
import contextlib
import functools
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from acestep_rpc.channels import RemoteStub, connect
from acestep_rpc.client_security import ClientSecurity
from acestep_rpc.errors import AcestepError, DeadlineExceeded, StageUnavailable
from acestep_rpc.telemetry import POOL_BACKLOG_SECONDS, POOL_REPLICAS, log
from acestep_rpc.v1 import stage_pb2, stage_pb2_grpc
from orchestrator.discovery import Endpoints

FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.1, 10.0
"""Before an ejected replica is asked again; doubled each time."""
DESCRIBE_SECONDS = 10.0
UNPRICED_SECONDS = 1.0
"""A call that waits where no replica is counts for no less: whoever scales the stage must see it, though nobody can say what it takes."""
STATES = ("ready", "draining", "ejected")

StubClass = Callable[[grpc.aio.Channel], Any]


@dataclass(eq=False)
class Call:
    """A call under way.

    Attributes:
        seconds: What its work is predicted to take.
        begun: A time.monotonic().
    """

    seconds: float
    begun: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class Replica:
    """One server of a stage.

    Attributes:
        target: Where it listens.
        state: One of STATES: ready, draining (it gets nothing new), ejected (it does not answer, or is not yet known to).
        on_trial: It was ejected: one call has to end well before it gets several.
        backlog_seconds: What it last said.
        reported: When; a time.monotonic().
        digest: Of its weights.
        fits: Its weights are those that the pool works with, and it neither failed since nor drains.
        complaint: Why it was ejected, as last logged.
        calls: Of this orchestrator, under way.
    """

    target: str
    channel: grpc.aio.Channel
    state: str = "ejected"
    on_trial: bool = False
    backlog_seconds: float = 0.0
    reported: float = 0.0
    digest: str = ""
    fits: bool = False
    complaint: str = ""
    failures: int = 0
    calls: set[Call] = field(default_factory=set)
    suspected: asyncio.Event = field(default_factory=asyncio.Event)
    stubs: dict[StubClass, RemoteStub] = field(default_factory=dict)

    @property
    def load_seconds(self) -> float:
        """Backlog as reported, and the calls that came after the report."""
        return self.backlog_seconds + sum(call.seconds for call in list(self.calls) if call.begun > self.reported)

    def stub(self, stub_class: StubClass) -> RemoteStub:
        """A stub on its channel, which fails at once where nobody answers."""
        if stub_class not in self.stubs:
            self.stubs[stub_class] = RemoteStub(stub_class, self.channel, self.target, DESCRIBE_SECONDS)
        return self.stubs[stub_class]


class Pool:
    """Replicas of one stage. It watches them from `start`, or its first use, until `close`.

    Of two replicas drawn at random, the one with less work gets a call: their reported backlog and what this orchestrator sent since.
    One that fails, or whose status stream breaks, is ejected; it is asked again after a while that grows, and is then on trial. All
    replicas that get calls have the same weights: those of the first one, until none with them is left.

    Args:
        stage: Its name.
        discovered: Where the replicas are, as from `discover`.
        address: For messages.
        ready_seconds: How long a call waits for a replica where there is none.
        again: Set when a replica fails: its address may be out of date.
        security: How to check replicas and what to show them; None: neither.
    """

    def __init__(
        self,
        stage: str,
        discovered: AsyncGenerator[Endpoints],
        address: str,
        ready_seconds: float,
        again: asyncio.Event | None = None,
        security: ClientSecurity | None = None,
    ) -> None:
        self._stage = stage
        self._discovered = discovered
        self._address = address
        self._ready_seconds = ready_seconds
        self._again = asyncio.Event() if again is None else again
        self._security = security
        self._replicas: dict[str, Replica] = {}
        self._admitted: dict[str, bool] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._discovering: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._digest = ""
        self._waiting: set[Call] = set()
        self._tell_metrics()

    def start(self) -> None:
        """Begin to watch the replicas."""
        if self._discovering is None:
            self._discovering = asyncio.create_task(self._discover(), context=Context())  # for nobody in particular

    def count(self) -> int:
        """Replicas that take work."""
        return sum(replica.state == "ready" for replica in self._replicas.values())

    def replicas(self) -> Sequence[Replica]:
        """Those that answer, draining ones too."""
        return [replica for replica in self._replicas.values() if replica.state != "ejected"]

    def loads(self) -> dict[str, float]:
        """Predicted seconds of work of each replica that answers, by target."""
        return {replica.target: replica.load_seconds for replica in self.replicas()}

    async def wait(self, deadline: float | None, work_seconds: float = 0.0) -> None:
        """Wait until a replica takes work.

        Args:
            deadline: A time.monotonic(), or None.
            work_seconds: What the work is predicted to take.
        Raises:
            StageUnavailable: None came up in time.
            DeadlineExceeded: The time was up before that.
        """
        self.start()
        if self._eligible():
            return
        call = Call(max(work_seconds, UNPRICED_SECONDS))
        self._waiting.add(call)
        try:
            await self._wait(deadline)
        finally:
            self._waiting.discard(call)

    async def _wait(self, deadline: float | None) -> None:
        seconds = self._ready_seconds if deadline is None else min(self._ready_seconds, deadline - time.monotonic())
        try:
            async with asyncio.timeout(seconds):
                while not self._eligible():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            if deadline is not None and time.monotonic() >= deadline:
                raise DeadlineExceeded(f"no replica of the {self._stage} stage took work in time") from None
            raise StageUnavailable(f"nobody answers at {self._address}: no replica of the {self._stage} stage takes work") from None

    @contextlib.asynccontextmanager
    async def pick(self, seconds: float, deadline: float | None) -> AsyncIterator[Replica]:
        """A replica for one call, which runs in the block.

        Args:
            seconds: What the work is predicted to take.
            deadline: A time.monotonic(), or None.
        Raises:
            StageUnavailable: None takes work, or the block raised it: then the replica is ejected.
        """
        await self.wait(deadline, seconds)
        eligible = self._eligible()
        drawn = random.sample(eligible, min(2, len(eligible)))
        replica = min(drawn, key=lambda one: one.load_seconds)
        call = Call(seconds)
        replica.calls.add(call)
        try:
            yield replica
            replica.on_trial, replica.failures = False, 0
        except StageUnavailable as error:
            self._suspect(replica, str(error))
            raise
        finally:
            replica.calls.discard(call)
            self._changed.set()

    async def close(self) -> None:
        """Let go of all replicas."""
        tasks = [task for task in (self._discovering, *self._tasks.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for replica in self._replicas.values():
            await replica.channel.close()

    def _eligible(self) -> list[Replica]:
        ready = [one for one in self._replicas.values() if one.state == "ready" and self._admitted[one.target]]
        tried = [one for one in ready if not (one.on_trial and one.calls)]
        return tried or ready

    async def _discover(self) -> None:
        try:
            await self._follow_endpoints()
        except Exception as error:
            log("discovery_ended", level=logging.ERROR, stage=self._stage, address=self._address, reason=f"{type(error).__name__}: {error}")
            raise

    async def _follow_endpoints(self) -> None:
        async with contextlib.aclosing(self._discovered) as found:
            async for endpoints in found:
                self._admitted |= endpoints
                for target in endpoints.keys() - self._replicas.keys():
                    self._replicas[target] = Replica(target, connect(target, self._security))
                    self._tasks[target] = asyncio.create_task(self._follow(self._replicas[target]))
                for target in self._replicas.keys() - endpoints.keys():
                    self._admitted[target] = False  # it finishes what it has; `_follow` ends when it is gone
                self._changed.set()

    async def _follow(self, replica: Replica) -> None:
        """Keep in touch with a replica until it is gone for good."""
        stage = replica.stub(stage_pb2_grpc.StageServiceStub)
        while True:
            replica.suspected.clear()
            try:
                description: stage_pb2.DescribeResponse = await stage.Describe(stage_pb2.DescribeRequest(), timeout=DESCRIBE_SECONDS)
                if self._fits(replica, description):
                    await self._watch(replica, stage)
            except AcestepError as error:
                self._eject(replica, str(error))
            if not self._admitted[replica.target] and not replica.calls:
                break
            backoff = min(FIRST_BACKOFF_SECONDS * 2.0 ** min(replica.failures, 10), MAX_BACKOFF_SECONDS)
            replica.failures += 1
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))  # noqa: S311
        del self._replicas[replica.target], self._admitted[replica.target], self._tasks[replica.target]
        await replica.channel.close()

    def _fits(self, replica: Replica, description: stage_pb2.DescribeResponse) -> bool:
        """Whether a replica may work beside the others."""
        replica.digest = description.model_digest
        others = [one for one in self._replicas.values() if one is not replica and one.fits]
        if description.stage != self._stage:
            self._eject(replica, f"it is a {description.stage} stage, not a {self._stage} stage")
        elif others and replica.digest != self._digest:
            self._eject(replica, f"its weights are {replica.digest}, those of the others {self._digest}")
        else:
            self._digest = replica.digest
            replica.fits = True  # already now: another one may describe itself before this one reports its load
        return replica.fits

    async def _watch(self, replica: Replica, stage: Any) -> None:
        """Follow its load until it drains, the stream breaks or a call fails."""
        statuses = stage.WatchStatus(stage_pb2.WatchStatusRequest())
        suspicion = asyncio.create_task(replica.suspected.wait())
        try:
            async with contextlib.aclosing(statuses):
                while True:
                    news = asyncio.ensure_future(anext(statuses))
                    await asyncio.wait({news, suspicion}, return_when=asyncio.FIRST_COMPLETED)
                    if suspicion.done():
                        news.cancel()
                        await asyncio.gather(news, return_exceptions=True)
                        return
                    self._note(replica, await news)
        except StopAsyncIteration:
            if replica.state != "draining":
                self._eject(replica, "it ended its status")
        finally:
            suspicion.cancel()

    def _note(self, replica: Replica, status: stage_pb2.WatchStatusResponse) -> None:
        if replica.state == "ejected":
            log("replica_ready", stage=self._stage, target=replica.target, on_trial=replica.on_trial)
        if status.draining:
            self.note_draining(replica)
        else:
            replica.state, replica.fits = "ready", True
        replica.backlog_seconds, replica.reported = status.backlog_seconds, time.monotonic()
        self._changed.set()

    def note_draining(self, replica: Replica) -> None:
        """It gets nothing new."""
        if replica.state != "draining":
            log("replica_drains", stage=self._stage, target=replica.target)
        replica.state, replica.fits = "draining", False
        self._changed.set()

    def _suspect(self, replica: Replica, reason: str) -> None:
        """A call failed: whoever drains said so, all others are ejected."""
        if replica.state == "ready":
            self._eject(replica, reason)
        replica.suspected.set()

    def _eject(self, replica: Replica, reason: str) -> None:
        if replica.state != "ejected" or replica.complaint != reason:
            log("replica_ejected", stage=self._stage, target=replica.target, reason=reason)
        replica.state, replica.on_trial, replica.fits, replica.complaint = "ejected", True, False, reason
        self._again.set()
        replica.backlog_seconds = 0.0

    def _tell_metrics(self) -> None:
        """Counted when somebody asks, in the thread of the metrics: replicas report too often for a sum each. Copies take one step."""

        def count(state: str) -> float:
            return sum(one.state == state for one in list(self._replicas.values()))

        def backlog() -> float:
            waiting = sum(call.seconds for call in list(self._waiting))
            return waiting + sum(one.load_seconds for one in list(self._replicas.values()))

        for state in STATES:
            POOL_REPLICAS.labels(self._stage, state).set_function(functools.partial(count, state))
        POOL_BACKLOG_SECONDS.labels(self._stage).set_function(backlog)


class PooledStub:
    """A generated stub whose calls go to replicas of a pool; they are those of `RemoteStub`.

    Args:
        pool: Of the stage.
        stub_class: As EncoderServiceStub.
        streams: Its methods that answer with a stream.
        drains: Whether a response of a stream says that its replica drains.
    """

    def __init__(
        self, pool: Pool, stub_class: StubClass, streams: Sequence[str] = (), drains: Callable[[Any], bool] = lambda response: False
    ) -> None:
        self._pool = pool
        self._drains = drains
        self._stub_class = stub_class
        self._streams = streams

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return functools.partial(self._stream if name in self._streams else self._single, name, _expected.get())

    def _single(self, name: str, seconds: float, request: Any, *, timeout: float | None = None) -> asyncio.Task[Any]:
        async def finish() -> Any:
            deadline = None if timeout is None else time.monotonic() + timeout
            async with self._pool.pick(seconds, deadline) as replica:
                return await getattr(replica.stub(self._stub_class), name)(request, timeout=_remaining(deadline))

        return asyncio.create_task(finish())

    async def _stream(self, name: str, seconds: float, request: Any, *, timeout: float | None = None) -> AsyncGenerator[Any]:
        deadline = None if timeout is None else time.monotonic() + timeout
        async with self._pool.pick(seconds, deadline) as replica:
            responses = getattr(replica.stub(self._stub_class), name)(request, timeout=_remaining(deadline))
            async with contextlib.aclosing(responses):
                async for response in responses:
                    if self._drains(response):
                        self._pool.note_draining(replica)
                    yield response


_expected: ContextVar[float] = ContextVar("expected_seconds", default=0.0)


@contextlib.contextmanager
def expecting(seconds: float) -> Iterator[None]:
    """Calls that are begun in the block are predicted to take so many seconds of the stage."""
    token = _expected.set(seconds)
    try:
        yield
    finally:
        _expected.reset(token)


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else deadline - time.monotonic()
