"""Jobs while servers die: orchestrators in processes of their own that share a database.

The first test has real stages. The others have stages that wait where real ones compute, so that there is time to kill something.
"""

import asyncio
import contextlib
import signal
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc

from acestep_rpc.channels import connect
from acestep_rpc.server import Registration, serve
from acestep_rpc.settings import ServerSettings
from acestep_rpc.v1 import diffusion_pb2_grpc, encoder_pb2_grpc, music_pb2, music_pb2_grpc, stage_pb2_grpc, vae_pb2_grpc
from tests.integration.conftest import STAGES, Server
from tests.integration.requests import Answer, generate, song_request
from tests.integration.test_jobs import code_of, get, metadata_of, result_of, submit, wait, watch
from tests.postgresql import running_postgresql
from tests.receiver import Receiver
from tests.unit.orchestrator.test_pipeline import Describing, Diffusion, Encoder, Vae

LASTING = {"seconds": 3.0, "steps": 200}  # long to sample, short to decode
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass
class Orchestrator:
    """One of several, with its clients."""

    server: Server
    stack: contextlib.AsyncExitStack
    music: music_pb2_grpc.MusicServiceStub = None
    operations: operations_pb2_grpc.OperationsStub = None

    async def start(self):
        await asyncio.to_thread(self.server.start)
        channel = await self.stack.enter_async_context(connect(self.server.target))
        self.music = music_pb2_grpc.MusicServiceStub(channel)
        self.operations = operations_pb2_grpc.OperationsStub(channel)
        await asyncio.wait_for(channel.channel_ready(), 20)

    async def stop(self, number):
        return await asyncio.to_thread(self.server.stop, number)


class Stage:
    """A stage of this process that can be stopped and started again."""

    def __init__(self, name, full_name, servicer, add):
        self.name = name
        self.registrations = [
            Registration(f"acestep_rpc.v1.{full_name}", servicer, add),
            Registration("acestep_rpc.v1.StageService", Describing(name), stage_pb2_grpc.add_StageServiceServicer_to_server),
        ]
        self.port = 0

    @property
    def target(self):
        return f"127.0.0.1:{self.port}"

    async def start(self):
        async def build():
            return self.registrations

        self.server = await serve(ServerSettings(port=self.port), build)
        self.port = self.server.port

    async def stop(self):
        await self.server.stop()


@dataclass
class Cluster:
    """Starts orchestrators on one database and one store."""

    folder: Path
    stages: dict[str, Server | Stage]
    stack: contextlib.AsyncExitStack
    database: dict[str, str]
    orchestrators: list[Orchestrator] = field(default_factory=list)

    async def start(self, **settings):
        targets = [word for name, server in self.stages.items() for word in (f"--{name}", server.target)]
        own = {"data": self.folder / "data", "job_lease_seconds": 4, "webhook_private_addresses": "true", "webhook_retry_seconds": 0.2}
        environment = {f"ACESTEP_ORCHESTRATOR_{name.upper()}": str(value) for name, value in (own | self.database | settings).items()}
        name = f"orchestrator{len(self.orchestrators)}"
        server = Server(name, ["orchestrator", *targets, "--drain-seconds", "1"], self.folder, environment=environment)
        self.orchestrators.append(Orchestrator(server, self.stack))
        await self.orchestrators[-1].start()
        return self.orchestrators[-1]


@pytest.fixture
async def stages():
    """Four steps of some time, and a song that is a ramp."""
    made = (
        Stage("encoder", "EncoderService", Encoder(), encoder_pb2_grpc.add_EncoderServiceServicer_to_server),
        Stage("diffusion", "DiffusionService", Diffusion(0.6), diffusion_pb2_grpc.add_DiffusionServiceServicer_to_server),
        Stage("vae", "VaeService", Vae(), vae_pb2_grpc.add_VaeServiceServicer_to_server),
    )
    for stage in made:
        await stage.start()
    yield {stage.name: stage for stage in made}
    for stage in made:
        await stage.stop()


@pytest.fixture(scope="module")
def real_stages(checkpoint, tmp_path_factory):
    folder, servers = tmp_path_factory.mktemp("stages"), {}
    try:
        for name in STAGES:
            servers[name] = Server(name, [name, "--checkpoint", str(checkpoint), "--dtype", "float32", "--threads", "1"], folder)
            servers[name].start()
        yield servers
    finally:
        for server in servers.values():
            server.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def postgresql():
    with running_postgresql() as server:
        yield server


@contextlib.asynccontextmanager
async def cluster_of(stages, folder, database):
    async with contextlib.AsyncExitStack() as stack:
        made = Cluster(folder, stages, stack, database)
        try:
            yield made
        finally:
            for orchestrator in made.orchestrators:
                if orchestrator.server.process is not None and orchestrator.server.process.poll() is None:
                    await orchestrator.stop(signal.SIGKILL)


@pytest.fixture
async def cluster(stages, tmp_path):
    """On SQLite."""
    async with cluster_of(stages, tmp_path, {}) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
async def either_cluster(request, stages, tmp_path):
    database = {"database_url": request.getfixturevalue("postgresql").database()} if request.param == "postgresql" else {}
    async with cluster_of(stages, tmp_path, database) as made:
        yield made


@pytest.fixture
async def real_cluster(real_stages, tmp_path):
    async with cluster_of(real_stages, tmp_path, {}) as made:
        yield made


async def until_sampling(orchestrator, name, step=1, from_sequence=1):
    """Events until the job is in the middle of its work."""
    events = []
    call = orchestrator.music.WatchGeneration(music_pb2.WatchGenerationRequest(name=name, from_sequence=from_sequence))
    async for response in call:
        events.append(response.event)
        if response.event.progress.stage == music_pb2.STAGE_SAMPLE and response.event.progress.step >= step:
            break
    call.cancel()
    return events


def parted(first, second):
    """Whoever runs the only job, and the other: both look for jobs."""
    return (first, second) if "job_started" in first.server.log() else (second, first)


def completions(events):
    return [event for event in events if event.WhichOneof("event") == "completed"]


async def test_a_killed_orchestrators_job_is_finished_by_another_and_is_the_same_song(real_cluster):
    cluster = real_cluster
    async with Receiver(statuses=[500]) as receiver:
        first, second = await cluster.start(), await cluster.start(concurrent_jobs=0)
        request = song_request(**LASTING, seeds=(), num_variants=2)
        operation = await submit(first.music, request, webhook_url=receiver.url, webhook_secret=SECRET)
        before = await until_sampling(first, operation.name, step=5)
        await first.stop(signal.SIGKILL)
        third = await cluster.start()
        after = await watch(second.music, operation.name, from_sequence=before[-1].sequence + 1)
        operation = await get(third.operations, operation.name)
        seeds = before[0].accepted.seeds
        undisturbed = await generate(third.music, song_request(**LASTING, seeds=tuple(seeds)))
        answer = Answer(before + after)
        assert [answer.file(index) for index in (0, 1)] == [undisturbed.file(index) for index in (0, 1)]
        assert [event.sequence for event in answer.events] == list(range(1, len(answer.events) + 1))
        assert len(completions(answer.events)) == 1
        assert result_of(operation) == answer.result
        assert metadata_of(operation).attempt == 2
        calls = await receiver.wait(2)
    assert {call.headers["webhook-id"] for call in calls} == {calls[0].headers["webhook-id"]}
    assert calls[1].content["data"]["name"] == operation.name
    assert not [path for path in (cluster.folder / "data" / "store").rglob("attempts/1/**/*") if path.is_file()]


async def test_a_killed_orchestrators_job_is_taken_up_where_jobs_are_in_either_database(either_cluster):
    first, second = await either_cluster.start(), await either_cluster.start(concurrent_jobs=0)
    operation = await submit(first.music, song_request(seeds=(3,)))
    before = await until_sampling(first, operation.name)
    await first.stop(signal.SIGKILL)
    third = await either_cluster.start()
    after = await watch(second.music, operation.name, from_sequence=before[-1].sequence + 1)
    answer = Answer(before + after)
    assert answer.file() == (await generate(third.music, song_request(seeds=(3,)))).file()
    assert [event.sequence for event in answer.events] == list(range(1, len(answer.events) + 1))
    assert len(completions(answer.events)) == 1


async def test_a_stopped_orchestrator_hands_its_jobs_over_at_once(either_cluster):
    cluster = either_cluster
    first = await cluster.start(job_lease_seconds=3600)
    second = await cluster.start(job_lease_seconds=3600)
    operation = await submit(first.music, song_request(**LASTING, seeds=(3, 4)))
    await until_sampling(first, operation.name)
    runs_it, other = parted(first, second)
    watching = asyncio.create_task(code_of(watch(runs_it.music, operation.name)))
    assert await runs_it.stop(signal.SIGTERM) == 0
    assert await watching is grpc.StatusCode.UNAVAILABLE
    answer = Answer(await asyncio.wait_for(watch(other.music, operation.name), 120))
    undisturbed = await generate(other.music, song_request(**LASTING, seeds=(3, 4)))
    assert [answer.file(index) for index in (0, 1)] == [undisturbed.file(index) for index in (0, 1)]
    assert metadata_of(await get(other.operations, operation.name)).attempt == 2


async def test_an_orchestrator_alone_goes_on_with_its_jobs_after_a_restart(cluster):
    alone = await cluster.start(concurrent_jobs=1)
    names = [(await submit(alone.music, song_request(seeds=(seed,)))).name for seed in (1, 2)]
    await until_sampling(alone, names[0])
    await alone.stop(signal.SIGKILL)
    await alone.start()
    for seed, name in zip((1, 2), names, strict=True):
        assert result_of(await wait(alone.operations, name, 120)).songs[0].seed == seed
    assert [metadata_of(await get(alone.operations, name)).attempt for name in names] == [2, 1]


async def test_an_orchestrator_that_was_frozen_changes_nothing_when_it_wakes(either_cluster):
    cluster = either_cluster
    first = await cluster.start()
    second = await cluster.start()
    operation = await submit(first.music, song_request(seeds=(3,)))
    await until_sampling(first, operation.name)
    runs_it, other = parted(first, second)
    runs_it.server.process.send_signal(signal.SIGSTOP)
    try:
        done = await wait(other.operations, operation.name, 120)
        events = await watch(other.music, operation.name)
    finally:
        runs_it.server.process.send_signal(signal.SIGCONT)
    async with asyncio.timeout(30):
        while '"outcome": "stopped"' not in runs_it.server.log() and '"outcome": "lost"' not in runs_it.server.log():
            await asyncio.sleep(0.1)
    await asyncio.sleep(1.0)
    assert await get(runs_it.operations, operation.name) == done
    assert await watch(runs_it.music, operation.name) == events
    assert len(completions(events)) == 1
    assert metadata_of(done).attempt == 2


async def test_a_job_that_kills_its_servers_ends_in_a_typed_error(cluster):
    alone = await cluster.start(job_attempts=2)
    operation = await submit(alone.music, song_request())
    sequence = 0
    for _ in range(2):
        sequence = (await until_sampling(alone, operation.name, from_sequence=sequence + 1))[-1].sequence
        await alone.stop(signal.SIGKILL)
        await alone.start()
    operation = await wait(alone.operations, operation.name, 60)
    assert operation.error.code == grpc.StatusCode.ABORTED.value[0]
    assert "2 attempts" in operation.error.message
    assert metadata_of(operation).state == music_pb2.JOB_STATE_FAILED
    assert await code_of(watch(alone.music, operation.name)) is grpc.StatusCode.ABORTED
    assert result_of(await wait(alone.operations, (await submit(alone.music, song_request())).name))


async def test_a_stage_that_is_away_delays_a_job_and_no_more(cluster):
    alone = await cluster.start(concurrent_jobs=1)
    operation = await submit(alone.music, song_request(seeds=(3,)))
    waiting = await submit(alone.music, song_request(seeds=(4,)))
    await until_sampling(alone, operation.name)
    stage = cluster.stages["diffusion"]
    await stage.stop()
    await asyncio.sleep(3.0)
    await stage.start()
    for name, request in ((operation.name, song_request(seeds=(3,))), (waiting.name, song_request(seeds=(4,)))):
        (song,) = result_of(await wait(alone.operations, name, 120)).songs
        assert song.sha256 == (await generate(alone.music, request)).result.songs[0].sha256


async def test_a_cancelled_job_stops_on_the_server_that_runs_it(cluster):
    first, second = await cluster.start(), await cluster.start(concurrent_jobs=0)
    operation = await submit(second.music, song_request())
    await until_sampling(second, operation.name)
    await second.operations.CancelOperation(operations_pb2.CancelOperationRequest(name=operation.name))
    async with asyncio.timeout(10):
        while '"outcome": "stopped"' not in first.server.log() and '"outcome": "lost"' not in first.server.log():
            await asyncio.sleep(0.1)
    assert not list((cluster.folder / "data" / "store").rglob("audio"))


async def test_as_many_jobs_run_at_a_time_as_the_setting_says(cluster):
    alone = await cluster.start(concurrent_jobs=2)
    names = [(await submit(alone.music, song_request(seeds=(seed,)))).name for seed in range(4)]
    await until_sampling(alone, names[1], step=1)
    states = [metadata_of(await get(alone.operations, name)).state for name in names]
    assert states == [music_pb2.JOB_STATE_RUNNING] * 2 + [music_pb2.JOB_STATE_QUEUED] * 2
    for name in names:
        assert result_of(await wait(alone.operations, name, 120))


async def test_old_songs_go_by_themselves(cluster):
    alone = await cluster.start(retention_seconds=1)
    operation = await submit(alone.music, song_request())
    assert result_of(await wait(alone.operations, operation.name))
    await alone.stop(signal.SIGTERM)
    await asyncio.sleep(1.0)
    await alone.start()  # looks at once, and then every half minute
    async with asyncio.timeout(30):
        while await is_there(alone, operation.name):
            await asyncio.sleep(0.1)
    assert not list((cluster.folder / "data" / "store").rglob("audio"))


async def is_there(orchestrator, name):
    page = await orchestrator.operations.ListOperations(operations_pb2.ListOperationsRequest())
    return name in {operation.name for operation in page.operations}


async def test_a_database_that_restarts_delays_a_job_and_no_more(stages, postgresql, tmp_path):
    async with cluster_of(stages, tmp_path, {"database_url": postgresql.database()}) as cluster:
        alone = await cluster.start(job_lease_seconds=30)
        operation = await submit(alone.music, song_request(seeds=(3,)))
        await until_sampling(alone, operation.name)
        await asyncio.to_thread(postgresql.stop)
        await asyncio.sleep(1.0)
        await asyncio.to_thread(postgresql.start)
        (song,) = result_of(await wait(alone.operations, operation.name, 120)).songs
        assert metadata_of(await get(alone.operations, operation.name)).attempt == 1
        assert song.sha256 == (await generate(alone.music, song_request(seeds=(3,)))).result.songs[0].sha256
