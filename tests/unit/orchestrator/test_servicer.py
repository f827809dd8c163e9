"""MusicService over a network, on stages that are not there: what it answers by itself."""

import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from acestep_rpc import errors
from acestep_rpc.channels import RemoteStub, connect
from acestep_rpc.inprocess import InProcessStub
from acestep_rpc.server import Registration, serve
from acestep_rpc.settings import ServerSettings
from acestep_rpc.v1 import encoder_pb2, music_pb2, music_pb2_grpc, sampling_pb2, stage_pb2, stage_pb2_grpc
from orchestrator.assets import AssetStore
from orchestrator.jobs.database import Database, open_database
from orchestrator.jobs.service import Jobs
from orchestrator.limits import LIMITS
from orchestrator.servicer import MusicServicer
from orchestrator.settings import Settings
from orchestrator.stages import Stages, connect_stages


class Describing(stage_pb2_grpc.StageServiceServicer):
    def __init__(self, description: stage_pb2.DescribeResponse) -> None:
        self.description = description

    async def Describe(self, request: Any, context: Any) -> stage_pb2.DescribeResponse:
        return self.description


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await open_database(f"sqlite:///{tmp_path}/jobs.sqlite")
    yield database
    await database.close()


def servicer(stages: Stages, database: Database) -> Any:
    settings = Settings(encoder="a:1", diffusion="b:2", vae="c:3")
    return MusicServicer(stages, Jobs(database, stages, AssetStore("memory://"), settings))


@pytest.fixture
async def stub(database: Database) -> AsyncIterator[Any]:
    """MusicService whose stages answer Describe and nothing else."""
    descriptions = [
        stage_pb2.DescribeResponse(
            stage="encoder",
            model_digest="e",
            limits={"max_prompt_tokens": 256, "max_lyric_tokens": 4096},
            features={
                "lyric_languages": "en,de",
                "transliterated_lyric_languages": "el,th",
                "lyric_rules": "LYRIC_RULES_REVISED",
                "structure_tags": "[verse],[chorus]",
            },
        ),
        stage_pb2.DescribeResponse(
            stage="diffusion",
            dtype="float32",
            versions={"torch": "2"},
            features={"tasks": "text_to_music,edit"},
            sampling_defaults={"infer_step": 30, "omega_scale": 0, "cfg_type": sampling_pb2.CFG_TYPE_CFG, "use_erg_lyric": False},
        ),
        stage_pb2.DescribeResponse(stage="vae", device="cpu", features={"vocoder": "MelGriffinLim"}),
    ]
    stages = Stages(None, None, None, [InProcessStub(Describing(description)) for description in descriptions])

    async def build() -> Sequence[Registration]:
        add = music_pb2_grpc.add_MusicServiceServicer_to_server
        return [Registration("acestep_rpc.v1.MusicService", servicer(stages, database), add)]

    server = await serve(ServerSettings(), build)
    target = f"127.0.0.1:{server.port}"
    async with connect(target) as channel:
        yield RemoteStub(music_pb2_grpc.MusicServiceStub, channel, target)
    await server.stop()


async def test_a_bad_request_is_refused_with_every_field_over_the_wire(stub: Any) -> None:
    request = music_pb2.GenerateRequest(text_to_music={"duration_seconds": 10_000}, sampling={"guidance_scale": float("nan")})
    with pytest.raises(errors.InvalidRequest) as caught:
        await anext(stub.Generate(request))
    assert [field for field, _ in caught.value.violations] == ["prompt", "sampling.guidance_scale", "text_to_music.duration_seconds"]


async def test_there_is_no_estimate_where_stages_name_no_costs(stub: Any) -> None:
    request = music_pb2.EstimateGenerationRequest(generation={"prompt": {"tags": "funk"}})
    with pytest.raises(errors.StageUnavailable, match="does not say what its work costs"):
        await stub.EstimateGeneration(request)


async def test_a_job_is_refused_as_a_call_is(stub: Any) -> None:
    bad = music_pb2.GenerateRequest(text_to_music={"duration_seconds": 10_000}, sampling={"guidance_scale": float("nan")})
    with pytest.raises(errors.InvalidRequest) as called:
        await anext(stub.Generate(bad))
    with pytest.raises(errors.InvalidRequest) as submitted:
        await stub.SubmitGeneration(music_pb2.SubmitGenerationRequest(generation=bad))
    assert submitted.value.violations == called.value.violations


async def test_a_job_of_an_unknown_source_is_refused(stub: Any) -> None:
    generation = music_pb2.GenerateRequest(
        prompt={"tags": "funk"}, extend={"source": {"result": "operations/a/results/0"}, "left_seconds": 1}
    )
    with pytest.raises(errors.NotFound, match="operations/a/results/0"):
        await stub.SubmitGeneration(music_pb2.SubmitGenerationRequest(generation=generation))


async def test_capabilities_publish_every_limit_and_what_the_stages_say(stub: Any) -> None:
    response = await stub.GetCapabilities(music_pb2.GetCapabilitiesRequest())
    published = {
        limit.field: (limit.minimum, limit.maximum, limit.default_value if limit.HasField("default_value") else None)
        for limit in response.parameters
    }
    expected = {field: (limit.minimum, limit.maximum, limit.default) for field, limit in LIMITS.items()}
    assert published == expected | {"sampling.infer_step": (1, 200, 30), "sampling.omega_scale": (-100, 100, 0)}
    sampling = response.sampling_defaults
    assert (sampling.infer_step, sampling.guidance_scale, sampling.cfg_type) == (30, 15, sampling_pb2.CFG_TYPE_CFG)
    assert (sampling.use_erg_lyric, sampling.use_erg_tag) == (False, True)
    assert list(response.tasks) == ["text_to_music", "edit"]
    assert len(response.schedulers) == len(response.cfg_types) == 3
    assert len(response.formats) == 7
    assert list(response.lyric_languages) == ["en", "de"]
    assert list(response.transliterated_lyric_languages) == ["el", "th"]
    assert response.lyric_rules == encoder_pb2.LYRIC_RULES_REVISED
    assert list(response.structure_tags) == ["[verse]", "[chorus]"]
    assert (response.max_prompt_tokens, response.max_lyric_tokens) == (256, 4096)
    assert [stage.stage for stage in response.stages] == ["encoder", "diffusion", "vae"]
    assert response.stages[1].versions["torch"] == "2"
    assert [stage.vocoder for stage in response.stages] == ["", "", "MelGriffinLim"]
    assert response.version


async def test_every_advertised_task_is_a_task_of_the_contract(stub: Any) -> None:
    response = await stub.GetCapabilities(music_pb2.GetCapabilitiesRequest())
    assert set(response.tasks) <= {field.name for field in music_pb2.GenerateRequest.DESCRIPTOR.oneofs_by_name["task"].fields}


async def test_a_stage_that_is_away_is_said_before_any_work(database: Database) -> None:
    targets = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    stages = connect_stages(*targets, ready_seconds=0.2)
    stub: Any = InProcessStub(servicer(stages, database))
    events = stub.Generate(music_pb2.GenerateRequest(prompt={"tags": "funk"}))
    with pytest.raises(errors.StageUnavailable, match="nobody answers at 127"):
        await anext(events)
    await stages.close()
