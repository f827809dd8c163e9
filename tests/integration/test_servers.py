"""What every server has: health, reflection, metrics, logs with the request id."""

import io
import json
import shutil
import subprocess
import sys

import pytest
import soundfile
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from safetensors.torch import load_file, save_file

from acestep_rpc.channels import connect
from acestep_rpc.v1 import music_pb2
from tests.integration.conftest import running
from tests.integration.requests import generate, song_request


async def test_every_server_is_healthy_and_lists_its_services(system):
    for server in system.servers.values():
        async with connect(server.target) as channel:
            health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            responses = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(requests)
            names = {service.name async for response in responses for service in response.list_services_response.service}
            assert any(name.startswith("acestep_rpc.v1.") for name in names)


async def test_metrics_count_requests_stages_steps_rows_and_real_time_factor(system, music):
    await generate(music, song_request())
    assert system.front.metric("acestep_requests_total", method="Generate", code="OK") >= 1
    assert system.front.metric("acestep_stage_seconds_count", stage="orchestrator_decode") >= 1
    assert system.front.metric("acestep_real_time_factor_count") >= 1
    assert system.stage("diffusion").metric("acestep_step_seconds_count") >= 4
    assert system.stage("diffusion").metric("acestep_batch_rows_sum") >= 6


async def test_one_request_id_runs_through_all_logs(system, music):
    answer = await generate(music, song_request(request_id="trace-me-17"))
    assert {event.request_id for event in answer.events} == {"trace-me-17"}
    for server in system.servers.values():
        lines = [json.loads(line) for line in server.log().splitlines()]
        assert any(line.get("request_id") == "trace-me-17" and line["event"] == "request" for line in lines), server.name


async def test_a_checkpoint_that_names_the_vocoder_without_weights_sings_and_says_so(checkpoint, adapters, tmp_path):
    copy = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, copy)
    shutil.rmtree(copy / "music_vocoder")
    (copy / "music_vocoder").mkdir()
    (copy / "music_vocoder" / "config.json").write_text(json.dumps({"_class_name": "MelGriffinLim"}))
    with running("embedded", copy, adapters, tmp_path) as system:
        async with system.music() as stub:
            answer = await generate(stub, song_request())
            capabilities = await stub.GetCapabilities(music_pb2.GetCapabilitiesRequest())
    samples, rate = soundfile.read(io.BytesIO(answer.file()))
    assert samples.shape == (-(-21 * 4096 * rate // 44100), 2)
    assert samples.std() > 1e-4
    assert [stage.vocoder for stage in capabilities.stages] == ["", "", "MelGriffinLim"]
    assert answer.result.songs[0].receipt["stages"]["vae"]["vocoder"] == "MelGriffinLim"


@pytest.mark.parametrize("stage", ["encoder", "diffusion", "vae"])
@pytest.mark.parametrize("damage", ["missing", "extra", "misshapen", "truncated"])
def test_a_damaged_checkpoint_stops_the_start_and_is_named(checkpoint, tmp_path, stage, damage):
    folder, tensor = {
        "encoder": ("ace_step_transformer", "lyric_encoder.after_norm.weight"),
        "diffusion": ("ace_step_transformer", "t_block.1.bias"),
        "vae": ("music_vocoder", "head.conv_post.bias"),
    }[stage]
    copy = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, copy)
    file = copy / folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    named = tensor
    if damage == "missing":
        del tensors[tensor]
    elif damage == "misshapen":
        tensors[tensor] = torch.zeros(3)
    else:
        named = "surprise.weight" if damage == "extra" else file.name
        tensors["surprise.weight"] = torch.zeros(3)
    save_file(tensors, file)
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    command = [sys.executable, "-m", "clients.cli.main", "serve", stage, "--checkpoint", str(copy)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"{stage}: ")
    assert named in last
