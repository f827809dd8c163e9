"""Who is let in, over a network: refusals are quick, say when to try again, and reach no stage."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from prometheus_client import REGISTRY

from acestep_rpc import errors
from acestep_rpc.channels import connect
from acestep_rpc.inprocess import InProcessStub
from acestep_rpc.server import Registration, serve
from acestep_rpc.settings import ServerSettings
from acestep_rpc.v1 import diffusion_pb2, music_pb2, music_pb2_grpc, stage_pb2, stage_pb2_grpc
from orchestrator.admission import LATE_SHARE, MOST_CAUTION, Admitted, Caution, upcoming_seconds, wait_seconds
from orchestrator.assets import AssetStore
from orchestrator.jobs.database import open_database
from orchestrator.jobs.service import Jobs
from orchestrator.servicer import MusicServicer
from orchestrator.settings import Settings
from orchestrator.stages import Stages
from tests.unit.orchestrator.test_pipeline import Diffusion, Encoder, Vae

STEP_SECONDS = 0.5
COSTS = {
    "encoder": {"encode": {"prompts": 0.25}, "text_tokens": {"characters": 0.25}, "lyric_tokens": {"characters": 0.5}},
    "diffusion": {"forward": {"forwards": STEP_SECONDS}},
    "vae": {"decode": {"songs": 0.75}},
}


class Pricing(stage_pb2_grpc.StageServiceServicer):
    """A stage that says what its work costs, and counts how often it is asked."""

    def __init__(self, stage: str) -> None:
        self.asked = 0
        costs = [stage_pb2.Cost(name=name, coefficients=coefficients) for name, coefficients in COSTS[stage].items()]
        # A forward has room for one row of a song of 10 s: songs share none.
        self.description = stage_pb2.DescribeResponse(stage=stage, model_digest=stage, costs=costs, limits={"forward_row_frames": 107})

    async def Describe(self, request: Any, context: Any) -> stage_pb2.DescribeResponse:
        self.asked += 1
        return self.description


class Waiting(Diffusion):
    """Samples only when it is told to, and notes who came."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def Sample(self, request: Any, context: Any) -> AsyncIterator[diffusion_pb2.SampleResponse]:
        self.requests.append(request)
        await self.go.wait()
        async for response in super().Sample(request, context):
            yield response


class System:
    """A real server in front of three tiny stages."""

    def __init__(self) -> None:
        self.encoder, self.diffusion, self.vae = Encoder(), Waiting(), Vae()
        self.pricing = [Pricing(stage) for stage in ("encoder", "diffusion", "vae")]
        self.stub: Any = None

    @contextlib.asynccontextmanager
    async def serving(self, folder: Path, **settings: Any) -> AsyncIterator["System"]:
        database = await open_database(f"sqlite:///{folder}/jobs.sqlite")
        stages = Stages(
            InProcessStub(self.encoder),
            InProcessStub(self.diffusion),
            InProcessStub(self.vae),
            [InProcessStub(one) for one in self.pricing],
        )
        jobs = Jobs(database, stages, AssetStore(str(folder / "store")), Settings(encoder="a:1", diffusion="b:2", vae="c:3", **settings))
        self.jobs = jobs

        async def build() -> Sequence[Registration]:
            servicer = MusicServicer(stages, jobs)
            return [Registration("acestep_rpc.v1.MusicService", servicer, music_pb2_grpc.add_MusicServiceServicer_to_server)]

        server = await serve(ServerSettings(), build)
        try:
            async with connect(f"127.0.0.1:{server.port}") as channel:
                self.stub = music_pb2_grpc.MusicServiceStub(channel)
                yield self
        finally:
            await server.stop()
            await database.close()


def song(seconds: float = 10.0, steps: int = 10, **fields: Any) -> music_pb2.GenerateRequest:
    """One that takes 0.25 s of encoding, half a second a step, and 0.75 s of decoding, all unguided."""
    sampling = {"infer_step": steps, "guidance_scale": 1.0}
    return music_pb2.GenerateRequest(prompt={"tags": "funk"}, text_to_music={"duration_seconds": seconds}, sampling=sampling, **fields)


async def estimate(system: System, request: music_pb2.GenerateRequest) -> tuple[float, float]:
    """Device and queue seconds."""
    response = await system.stub.EstimateGeneration(music_pb2.EstimateGenerationRequest(generation=request))
    return response.device_time.ToMilliseconds() / 1000, response.queue_time.ToMilliseconds() / 1000


async def refusal(system: System, request: music_pb2.GenerateRequest, timeout: float | None = None) -> tuple[errors.Overloaded, int]:
    """The error and its pushback."""
    call = system.stub.Generate(request, timeout=timeout)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    error = errors.from_rpc_error(caught.value)
    assert isinstance(error, errors.Overloaded)
    metadata = dict(caught.value.trailing_metadata())
    return error, int(metadata["grpc-retry-pushback-ms"])


def refused(reason: str) -> float:
    return REGISTRY.get_sample_value("acestep_refused_total", {"reason": reason}) or 0.0


async def under_way(system: System, request: music_pb2.GenerateRequest) -> Any:
    """A call that has reached the diffusion stage, and waits there."""
    count = len(system.diffusion.requests)
    call = system.stub.Generate(request)
    await call.read()
    while len(system.diffusion.requests) == count:
        await asyncio.sleep(0.01)
    return call


async def test_an_estimate_runs_nothing_and_adds_up(tmp_path: Path) -> None:
    async with System().serving(tmp_path) as system:
        assert await estimate(system, song(steps=10)) == (0.25 + 5 + 0.75, 0)
        assert await estimate(system, song(steps=10, num_variants=2)) == (0.25 + 10 + 1.5, 0)
        assert (system.encoder.requests, system.diffusion.requests, system.vae.calls) == ([], [], 0)


async def test_accepted_repeats_the_estimate(tmp_path: Path) -> None:
    async with System().serving(tmp_path) as system:
        call = system.stub.Generate(song(steps=10))
        accepted = (await call.read()).accepted
        assert accepted.estimated_finish_time.ToMilliseconds() / 1000 - time.time() == pytest.approx(6, abs=1)
        call.cancel()


async def test_of_its_own_class_a_request_waits_for_as_much_as_it_needs_itself(tmp_path: Path) -> None:
    async with System().serving(tmp_path) as system:
        call = await under_way(system, song(steps=100))  # 50 s are left, and the decode
        assert await estimate(system, song(steps=10)) == (6, 5 + 0.75)
        assert await estimate(system, song(steps=200)) == (101, 50 + 0.75)
        assert (await estimate(system, song(steps=10, priority=music_pb2.PRIORITY_INTERACTIVE)))[1] == 0
        assert (await estimate(system, song(steps=10, priority=music_pb2.PRIORITY_BATCH)))[1] == 50 + 0.75
        call.cancel()
        while (await estimate(system, song(steps=10)))[1]:
            await asyncio.sleep(0.01)


async def test_a_deadline_that_cannot_be_met_is_refused_at_once_and_reaches_no_stage(tmp_path: Path) -> None:
    async with System().serving(tmp_path) as system:
        await estimate(system, song())  # the stages are known now
        asked, before = [one.asked for one in system.pricing], refused("deadline")
        for _ in range(5):
            error, pushback = await refusal(system, song(steps=100), timeout=20)
            assert "the deadline cannot be met: the request needs 51 s" in str(error)
            assert error.retry_after_seconds == pytest.approx(51 - 20, abs=1)
            assert pushback == round(error.retry_after_seconds * 1000)
        assert refused("deadline") == before + 5
        assert [one.asked for one in system.pricing] == asked
        assert (system.encoder.requests, system.diffusion.requests, system.vae.calls) == ([], [], 0)


async def test_a_deadline_that_can_be_met_alone_but_not_behind_others_is_refused(tmp_path: Path) -> None:
    async with System().serving(tmp_path) as system:
        call = await under_way(system, song(steps=10))
        error, _ = await refusal(system, song(steps=10), timeout=9)
        assert "of them 5.75 s of waiting" in str(error)
        call.cancel()


async def test_who_misses_a_deadline_behind_others_makes_the_next_be_reckoned_with_longer(tmp_path: Path) -> None:
    async with System().serving(tmp_path) as system:
        call = await under_way(system, song(steps=10))
        needed = sum(await estimate(system, song(steps=1)))
        enough = needed + 0.4
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                _ = [event async for event in system.stub.Generate(song(steps=1), timeout=enough)]
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            while sum(await estimate(system, song(steps=1))) > needed:  # the server hears of it a little later
                await asyncio.sleep(0.01)
        error, _ = await refusal(system, song(steps=1), timeout=enough)
        assert "the deadline cannot be met" in str(error)
        call.cancel()


@pytest.mark.parametrize("spread", [0.1, 0.3, 0.6])
def test_few_take_longer_than_is_reckoned_with(spread: float) -> None:
    randoms, caution, late = random.Random(0), Caution(), []
    for _ in range(4000):
        late.append(randoms.lognormvariate(0, spread) > caution.factor)
        caution.observe(late[-1])
    assert sum(late[1000:]) / 3000 == pytest.approx(LATE_SHARE, abs=0.01)


def test_caution_has_limits() -> None:
    caution = Caution()
    for late, limit in ((True, MOST_CAUTION), (False, 1.0)):
        for _ in range(1000):
            caution.observe(late)
        assert caution.factor == limit


async def test_a_full_house_is_refused(tmp_path: Path) -> None:
    async with System().serving(tmp_path, max_requests=2) as system:
        calls = [await under_way(system, song()) for _ in range(2)]
        before = refused("requests")
        error, pushback = await refusal(system, song())
        assert "2 requests are under way, which is the limit" in str(error)
        assert pushback == 1000 * error.retry_after_seconds >= 1000
        assert refused("requests") == before + 1
        assert len(system.diffusion.requests) == 2
        for call in calls:
            call.cancel()


async def test_a_wait_above_the_limit_is_refused_but_none_is_when_nobody_waits(tmp_path: Path) -> None:
    async with System().serving(tmp_path, max_backlog_seconds=8.0) as system:
        first = await under_way(system, song(steps=100))  # longer than the limit, and nobody before it
        second = await under_way(system, song(steps=10))
        error, _ = await refusal(system, song(steps=10))
        assert "the wait is 11.5 s, the limit 8 s" in str(error)
        assert error.retry_after_seconds == pytest.approx(3.5)
        for call in (first, second):
            call.cancel()


async def test_the_class_of_a_request_reaches_the_diffusion_stage(tmp_path: Path) -> None:
    async with System().serving(tmp_path) as system:
        for priority in (music_pb2.PRIORITY_BATCH, music_pb2.PRIORITY_UNSPECIFIED, music_pb2.PRIORITY_INTERACTIVE):
            (await under_way(system, song(priority=priority))).cancel()
        assert [request.priority for request in system.diffusion.requests] == [
            music_pb2.PRIORITY_BATCH,
            music_pb2.PRIORITY_NORMAL,
            music_pb2.PRIORITY_INTERACTIVE,
        ]


async def test_jobs_are_taken_by_class_and_their_queue_has_limits_of_its_own(tmp_path: Path) -> None:
    async with System().serving(tmp_path, max_requests=1, max_queued_jobs=3, concurrent_jobs=1) as system:
        classes = (music_pb2.PRIORITY_BATCH, music_pb2.PRIORITY_NORMAL, music_pb2.PRIORITY_INTERACTIVE)
        for priority in classes:
            request = music_pb2.SubmitGenerationRequest(generation=song(priority=priority, request_id=f"job-{priority}"))
            await system.stub.SubmitGeneration(request)
        jobs = [await system.jobs.store.get(f"job-{priority}") for priority in classes]
        assert [job.cost_seconds for job in jobs] == [6.0] * 3
        (accepted,) = await system.jobs.store.events("job-3", 1, 10)
        finish = accepted.event.accepted.estimated_finish_time.ToMilliseconds() / 1000
        assert finish - time.time() == pytest.approx(2 * 6 + 6, abs=1)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await system.stub.SubmitGeneration(music_pb2.SubmitGenerationRequest(generation=song()))
        error = errors.from_rpc_error(caught.value)
        assert isinstance(error, errors.Overloaded)
        assert "3 jobs of 18 s have not ended" in str(error)
        system.diffusion.go.set()
        system.jobs.start()
        async with asyncio.timeout(20):
            while [job.state for job in jobs] != [music_pb2.JOB_STATE_SUCCEEDED] * 3:
                await asyncio.sleep(0.05)
                jobs = [await system.jobs.store.get(f"job-{priority}") for priority in classes]
        assert list(dict.fromkeys(request.priority for request in system.diffusion.requests)) == list(reversed(classes))
        await system.jobs.stop()


async def test_work_that_another_server_sent_is_waited_for(tmp_path: Path) -> None:
    system = System()
    system.pricing[1].description.backlog_seconds = 30.0
    async with system.serving(tmp_path):
        assert (await estimate(system, song()))[1] == pytest.approx(30, abs=0.5)


def test_who_was_promised_an_earlier_end_is_waited_for_to_it() -> None:
    others = [Admitted(2, (0.0, 8.0, 2.0), deadline=100.0)]
    assert wait_seconds(2, (1.0, 6.0, 1.0), others, (1, 1, 1), deadline=110.0) == 8 + 2
    assert wait_seconds(2, (1.0, 6.0, 1.0), others, (1, 1, 1), deadline=90.0) == 6 + 1


def test_more_replicas_are_a_shorter_wait() -> None:
    others = [Admitted(2, (0.0, 8.0, 2.0)), Admitted(3, (0.0, 4.0, 0.0)), Admitted(1, (0.0, 100.0, 0.0))]
    assert wait_seconds(2, (1.0, 6.0, 1.0), others, (1, 1, 1)) == 6 + 1 + 4
    assert wait_seconds(2, (1.0, 6.0, 1.0), others, (1, 2, 1)) == 3 + 1 + 2


def progress(stage: music_pb2.Stage, step: int, total: int, eta_seconds: float) -> music_pb2.GenerateEvent:
    event = music_pb2.GenerateEvent(progress=music_pb2.Progress(stage=stage, step=step, total=total))
    event.progress.eta.FromMilliseconds(round(eta_seconds * 1000))
    return event


def test_the_codec_is_told_of_songs_that_samplers_will_soon_have_done() -> None:
    request = Admitted(0, (1.0, 100.0, 8.0))
    assert upcoming_seconds(1, [request], 60) == 100  # it is encoded in a moment
    assert upcoming_seconds(2, [request], 60) == 0
    request.observe(progress(music_pb2.STAGE_ENCODE, 1, 1, 0))
    request.observe(progress(music_pb2.STAGE_SAMPLE, 1, 10, 500))
    assert upcoming_seconds(2, [request], 60) == 0  # its steps are slow: others share the device
    request.observe(progress(music_pb2.STAGE_SAMPLE, 9, 10, 50))
    assert upcoming_seconds(2, [request], 60) == 8
    assert upcoming_seconds(2, [request], 40) == 0
    assert upcoming_seconds(1, [request], 60) == 0  # it is there
    request.observe(progress(music_pb2.STAGE_DECODE, 1, 2, 4))
    assert upcoming_seconds(2, [request], 60) == 0


async def test_upcoming_work_is_a_metric_that_falls_back_to_nothing(tmp_path: Path) -> None:
    system = System()
    async with system.serving(tmp_path):
        call = await under_way(system, song(steps=2))
        assert REGISTRY.get_sample_value("acestep_pool_upcoming_seconds", {"stage": "vae"}) == 0.75
        system.diffusion.go.set()
        while await call.read() is not grpc.aio.EOF:
            pass
        assert REGISTRY.get_sample_value("acestep_pool_upcoming_seconds", {"stage": "vae"}) == 0.0
