"""Pools over real servers of a small stage."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from prometheus_client import REGISTRY

from acestep_rpc.errors import DeadlineExceeded, InvalidRequest, StageUnavailable
from acestep_rpc.server import Registration, RunningServer, serve
from acestep_rpc.settings import ServerSettings
from acestep_rpc.status import LoadStatus
from acestep_rpc.v1 import (
    diffusion_pb2,
    diffusion_pb2_grpc,
    encoder_pb2,
    encoder_pb2_grpc,
    stage_pb2,
    stage_pb2_grpc,
)
from orchestrator import pool as pool_module
from orchestrator.discovery import Endpoints
from orchestrator.pool import Pool, PooledStub, expecting
from orchestrator.stages import STAGES, Stages, connect_stages

SNAPSHOT = diffusion_pb2.SamplingSnapshot(format_version=1, request_digest=b"of the request", songs=[diffusion_pb2.SongSnapshot(window=1)])


class Replica(stage_pb2_grpc.StageServiceServicer, encoder_pb2_grpc.EncoderServiceServicer, diffusion_pb2_grpc.DiffusionServiceServicer):
    """A stage that says what load it has and counts its calls."""

    def __init__(self, stage: str = "encoder", backlog_seconds: float = 0.0, digest: str = "a", failures: Sequence[Exception] = ()) -> None:
        self.description = stage_pb2.DescribeResponse(stage=stage, model_digest=digest)
        self.status = stage_pb2.WatchStatusResponse(backlog_seconds=backlog_seconds)
        self.load = LoadStatus(lambda: stage_pb2.WatchStatusResponse(backlog_seconds=self.status.backlog_seconds))
        self.failures = list(failures)
        self.later: list[Exception] = []
        self.draining = self.cancelled = False
        self.samplings: list[diffusion_pb2.SampleRequest] = []
        self.calls = 0
        self.go = asyncio.Event()
        self.go.set()
        self.server: RunningServer | None = None

    @property
    def target(self) -> str:
        assert self.server is not None
        return f"127.0.0.1:{self.server.port}"

    async def Describe(self, request: Any, context: Any) -> stage_pb2.DescribeResponse:
        return self.description

    async def WatchStatus(self, request: Any, context: Any) -> AsyncIterator[stage_pb2.WatchStatusResponse]:
        async with contextlib.aclosing(self.load.watch()) as statuses:
            async for status in statuses:
                yield status

    async def EncodePrompt(self, request: Any, context: Any) -> encoder_pb2.EncodePromptResponse:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        await self.go.wait()
        return encoder_pb2.EncodePromptResponse()

    async def Sample(self, request: Any, context: Any) -> AsyncIterator[diffusion_pb2.SampleResponse]:
        self.calls += 1
        self.samplings.append(request)
        if self.failures:
            raise self.failures.pop(0)
        yield diffusion_pb2.SampleResponse(progress=diffusion_pb2.SampleProgress(step=1, total_steps=2))
        snapshot = diffusion_pb2.SampleSnapshot(snapshot=SNAPSHOT, step=1, draining=self.draining)
        try:
            yield diffusion_pb2.SampleResponse(snapshot=snapshot)
            if self.draining:
                await asyncio.sleep(0.5)  # the next step
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled = True
            raise
        if self.later:
            raise self.later.pop(0)
        yield diffusion_pb2.SampleResponse(result=diffusion_pb2.SampleResult())


Start = Callable[..., Awaitable[list[Replica]]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    running: list[RunningServer] = []

    async def run(*replicas: Replica, port: int = 0) -> list[Replica]:
        for replica in replicas:

            async def build(replica: Replica = replica) -> Sequence[Registration]:
                v1 = "acestep_rpc.v1."
                return [
                    Registration(v1 + "StageService", replica, stage_pb2_grpc.add_StageServiceServicer_to_server, replica.load.drain),
                    Registration(v1 + "EncoderService", replica, encoder_pb2_grpc.add_EncoderServiceServicer_to_server),
                    Registration(v1 + "DiffusionService", replica, diffusion_pb2_grpc.add_DiffusionServiceServicer_to_server),
                ]

            replica.server = await serve(ServerSettings(port=port), build)
            running.append(replica.server)
        return list(replicas)

    yield run
    for server in running:
        await server.stop()


class Found:
    """Endpoints that a test changes."""

    def __init__(self) -> None:
        self._news: asyncio.Queue[Endpoints] = asyncio.Queue()

    def put(self, endpoints: Endpoints) -> None:
        self._news.put_nowait(endpoints)

    async def all(self) -> AsyncGenerator[Endpoints]:
        while True:
            yield await self._news.get()


@contextlib.asynccontextmanager
async def pool_of(*replicas: Replica, ready_seconds: float = 5.0) -> AsyncIterator[tuple[Pool, Found, Any]]:
    found = Found()
    found.put({replica.target: True for replica in replicas})
    pool = Pool(replicas[0].description.stage, found.all(), "here", ready_seconds)
    try:
        yield pool, found, PooledStub(pool, encoder_pb2_grpc.EncoderServiceStub)
    finally:
        await pool.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


REQUEST = encoder_pb2.EncodePromptRequest()


async def test_of_two_replicas_the_one_with_less_work_gets_the_call(start: Start) -> None:
    idle, busy = await start(Replica(), Replica(backlog_seconds=60))
    async with pool_of(idle, busy) as (pool, _, stub):
        await pool.wait(None)
        await until(lambda: pool.count() == 2)
        for _ in range(8):
            await stub.EncodePrompt(REQUEST)
    assert (idle.calls, busy.calls) == (8, 0)


async def test_what_was_just_sent_counts_before_it_is_reported(start: Start) -> None:
    replicas = await start(Replica(), Replica())
    for replica in replicas:
        replica.go.clear()
    async with pool_of(*replicas) as (pool, _, stub):
        await pool.wait(None)
        await until(lambda: pool.count() == 2)
        calls = []
        for _ in range(6):
            with expecting(5.0):
                calls.append(stub.EncodePrompt(REQUEST))
            await asyncio.sleep(0)
        await until(lambda: sum(replica.calls for replica in replicas) == 6)
        for replica in replicas:
            replica.go.set()
        await asyncio.gather(*calls)
    assert [replica.calls for replica in replicas] == [3, 3]


async def test_of_many_replicas_every_one_gets_some(start: Start) -> None:
    replicas = await start(*(Replica() for _ in range(4)))
    async with pool_of(*replicas) as (pool, _, stub):
        await pool.wait(None)
        await until(lambda: pool.count() == 4)
        for _ in range(80):
            await stub.EncodePrompt(REQUEST)
    assert min(replica.calls for replica in replicas) >= 5


async def test_a_replica_that_fails_is_ejected_and_comes_back_on_trial(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "FIRST_BACKOFF_SECONDS", 0.5)
    (one,) = await start(Replica(failures=[StageUnavailable("gone")]))
    async with pool_of(one) as (pool, _, stub):
        with pytest.raises(StageUnavailable, match="gone"):
            await stub.EncodePrompt(REQUEST)
        assert pool.count() == 0
        await stub.EncodePrompt(REQUEST)  # waits for its return
        assert pool.count() == 1
    assert one.calls == 2


async def test_one_on_trial_gets_a_second_call_only_after_the_first(start: Start) -> None:
    tried, sound = await start(Replica(failures=[StageUnavailable("gone")]), Replica(backlog_seconds=1000))
    async with pool_of(tried, sound) as (pool, _, stub):
        await until_both(pool)
        with pytest.raises(StageUnavailable):
            await stub.EncodePrompt(REQUEST)
        await until(lambda: pool.count() == 2)
        tried.go.clear()
        sound.go.clear()
        calls = []
        for number in range(1, 4):
            calls.append(stub.EncodePrompt(REQUEST))
            await until(lambda number=number: tried.calls + sound.calls == 1 + number)  # type: ignore[misc]
        assert (tried.calls, sound.calls) == (2, 2)
        tried.go.set()
        sound.go.set()
        await asyncio.gather(*calls)
        await stub.EncodePrompt(REQUEST)
        assert tried.calls == 3  # it proved itself


async def until_both(pool: Pool) -> None:
    await pool.wait(None)
    await until(lambda: pool.count() == 2)


async def test_what_the_caller_did_wrong_ejects_nobody(start: Start) -> None:
    (one,) = await start(Replica(failures=[InvalidRequest("prompt.tags", "x", "y")]))
    async with pool_of(one) as (pool, _, stub):
        with pytest.raises(InvalidRequest):
            await stub.EncodePrompt(REQUEST)
        assert pool.count() == 1


async def test_a_replica_that_drains_gets_nothing_new_and_finishes_what_it_has(start: Start) -> None:
    leaving, staying = await start(Replica(), Replica(backlog_seconds=100))
    leaving.go.clear()
    async with pool_of(leaving, staying) as (pool, _, stub):
        await until_both(pool)
        running = stub.EncodePrompt(REQUEST)
        await until(lambda: leaving.calls == 1)
        assert leaving.server is not None
        stopping = asyncio.create_task(leaving.server.stop(10))
        await until(lambda: pool.count() == 1)
        for _ in range(5):
            await stub.EncodePrompt(REQUEST)
        assert (leaving.calls, staying.calls) == (1, 5)
        leaving.go.set()
        await running
        await stopping


async def test_a_replica_with_other_weights_gets_nothing_until_it_is_alone(start: Start) -> None:
    old, new = await start(Replica(digest="old"), Replica(digest="new"))
    async with pool_of(old) as (pool, found, stub):
        await pool.wait(None)
        found.put({old.target: True, new.target: True})
        for _ in range(10):
            await stub.EncodePrompt(REQUEST)
            await asyncio.sleep(0.02)
        assert (old.calls, new.calls) == (10, 0)
        found.put({new.target: True})
        assert old.server is not None
        await old.server.stop()
        await until(lambda: [one.digest for one in pool.replicas()] == ["new"])
        await stub.EncodePrompt(REQUEST)
    assert new.calls == 1


async def test_two_that_come_at_once_with_different_weights_never_work_together(start: Start) -> None:
    replicas = await start(Replica(digest="a"), Replica(digest="b"))
    async with pool_of(*replicas) as (pool, _, stub):
        for _ in range(10):
            await stub.EncodePrompt(REQUEST)
            await asyncio.sleep(0.02)
            assert pool.count() == 1
    assert sorted(replica.calls for replica in replicas) == [0, 10]


async def test_other_weights_are_logged_after_a_failure_too(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sound, restarted = await start(Replica(backlog_seconds=100), Replica(failures=[StageUnavailable("gone")]))
    async with pool_of(sound, restarted) as (pool, _, stub):
        await until_both(pool)
        restarted.description.model_digest = "b"
        with pytest.raises(StageUnavailable):
            await stub.EncodePrompt(REQUEST)
        await until(lambda: any("its weights are b, those of the others a" in str(vars(record)) for record in caplog.records))
        assert pool.count() == 1


async def test_a_replica_that_fails_has_its_address_asked_for_again(start: Start) -> None:
    (one,) = await start(Replica(failures=[StageUnavailable("gone")]))
    again = asyncio.Event()
    found = Found()
    found.put({one.target: True})
    pool = Pool("encoder", found.all(), "here", 5.0, again)
    await pool.wait(None)
    assert not again.is_set()
    with pytest.raises(StageUnavailable):
        await PooledStub(pool, encoder_pb2_grpc.EncoderServiceStub).EncodePrompt(REQUEST)
    assert again.is_set()
    await pool.close()


async def test_another_stage_is_no_replica(start: Start) -> None:
    (wrong,) = await start(Replica(stage="vae"))
    found = Found()
    found.put({wrong.target: True})
    pool = Pool("encoder", found.all(), "here", 0.3)
    with pytest.raises(StageUnavailable, match="nobody answers at here: no replica of the encoder stage takes work"):
        await pool.wait(None)
    await pool.close()


async def test_an_empty_pool_is_unavailable_with_a_retry_hint_or_late(start: Start) -> None:
    pool = Pool("encoder", Found().all(), "nowhere", 0.1)
    with pytest.raises(StageUnavailable) as caught:
        await pool.wait(None)
    assert caught.value.retry_after_seconds > 0
    with pytest.raises(DeadlineExceeded):
        await pool.wait(0.0)
    await pool.close()


async def test_a_restart_on_the_same_address_is_found(start: Start) -> None:
    (first,) = await start(Replica())
    assert first.server is not None
    port = first.server.port
    async with pool_of(first) as (pool, _, stub):
        await stub.EncodePrompt(REQUEST)
        await first.server.stop()
        (second,) = await start(Replica(), port=port)
        await until(lambda: pool.count() == 1)
        with contextlib.suppress(StageUnavailable):
            await stub.EncodePrompt(REQUEST)
        await stub.EncodePrompt(REQUEST)
    assert second.calls >= 1


@contextlib.asynccontextmanager
async def stages_of(start: Start, *replicas: Replica) -> AsyncIterator[Stages]:
    """Stages of which one has these replicas."""
    stage = replicas[0].description.stage
    others = [Replica(name) for name in STAGES if name != stage]
    await start(*replicas, *others)
    targets = {one.description.stage: one.target for one in others} | {stage: ",".join(one.target for one in replicas)}
    stages = connect_stages(**targets)
    await stages.describe(None)
    await until(lambda: stages.replicas(stage) == len(replicas))
    try:
        yield stages
    finally:
        await stages.close()


async def test_an_encoding_that_fails_is_tried_on_another_replica(start: Start) -> None:
    failing, sound = Replica(failures=[StageUnavailable("gone")] * 9), Replica(backlog_seconds=100)
    async with stages_of(start, failing, sound) as stages:
        await stages.encode(REQUEST, None)
    assert (failing.calls, sound.calls) == (1, 1)


async def test_sampling_goes_on_at_another_replica_from_its_last_snapshot(start: Start) -> None:
    failing, sound = Replica("diffusion", failures=[StageUnavailable("gone")]), Replica("diffusion", backlog_seconds=100)
    request = diffusion_pb2.SampleRequest(seeds=[7])
    async with stages_of(start, failing, sound) as stages:
        async with contextlib.aclosing(stages.sample(request, None)) as events:
            assert [event.WhichOneof("event") async for event in events] == ["progress", "result"]
        assert (failing.calls, sound.calls) == (1, 1)
        await until(lambda: stages.replicas("diffusion") == 2)
        failing.later = [StageUnavailable("gone")]
        async with contextlib.aclosing(stages.sample(request, None)) as events:
            assert [event.WhichOneof("event") async for event in events] == ["progress", "result"]
        assert (failing.calls, sound.calls) == (2, 2)
    first, last = failing.samplings[-1], sound.samplings[-1]
    assert first.snapshot_seconds == last.snapshot_seconds == 5.0
    assert not first.HasField("snapshot")
    assert last.snapshot == SNAPSHOT
    assert first.seeds == last.seeds == request.seeds


async def test_a_sampling_leaves_a_replica_that_drains_for_one_that_does_not(start: Start) -> None:
    leaving, staying = Replica("diffusion"), Replica("diffusion", backlog_seconds=100)
    leaving.draining = True
    async with stages_of(start, leaving, staying) as stages:
        async with contextlib.aclosing(stages.sample(diffusion_pb2.SampleRequest(), None)) as events:
            assert [event.WhichOneof("event") async for event in events] == ["progress", "result"]
        assert (leaving.calls, staying.calls) == (1, 1)
        assert staying.samplings[0].snapshot == SNAPSHOT
        assert leaving.cancelled


async def test_a_sampling_ends_at_a_replica_that_drains_where_there_is_no_other(start: Start) -> None:
    (leaving,) = [Replica("diffusion")]
    leaving.draining = True
    async with stages_of(start, leaving) as stages, contextlib.aclosing(stages.sample(diffusion_pb2.SampleRequest(), None)) as events:
        assert [event.WhichOneof("event") async for event in events] == ["progress", "result"]
    assert leaving.calls == 1


def pool_backlog(stage: str) -> float | None:
    return REGISTRY.get_sample_value("acestep_pool_backlog_seconds", {"stage": stage})


async def test_a_stage_without_replicas_reports_no_backlog_and_what_waits_for_one(start: Start) -> None:
    (replica,) = await start(Replica(stage="upscaled"))
    found = Found()
    pool = Pool("upscaled", found.all(), "here", 30.0)
    assert pool_backlog("upscaled") == 0.0  # before anybody asked
    stub = PooledStub(pool, encoder_pb2_grpc.EncoderServiceStub)
    with expecting(12.0):
        priced = stub.EncodePrompt(REQUEST)
    unpriced = stub.EncodePrompt(REQUEST)
    await until(lambda: pool_backlog("upscaled") == 13.0)
    found.put({replica.target: True})  # scaled up: both were held, none refused
    await asyncio.gather(priced, unpriced)
    assert pool_backlog("upscaled") == 0.0
    await pool.close()


async def test_loads_are_told_by_target(start: Start) -> None:
    idle, busy = await start(Replica(), Replica(backlog_seconds=60))
    async with pool_of(idle, busy) as (pool, _, _):
        pool.start()
        await until(lambda: pool.count() == 2)
        assert pool.loads() == {idle.target: 0.0, busy.target: 60.0}
