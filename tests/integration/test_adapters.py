"""Adapters over the public API: they change their request and no other."""

import asyncio
import io
import subprocess
import sys

import grpc.aio
import numpy as np
import pytest
import soundfile

from acestep_rpc.channels import connect
from acestep_rpc.receipt import to_dict
from acestep_rpc.v1 import adapter_pb2, adapter_pb2_grpc, music_pb2, sampling_pb2
from tests.integration.requests import generate, song_request


def adapted(name: str = "loud", scale: float | None = None) -> music_pb2.GenerateRequest:
    return song_request(adapters=[sampling_pb2.AdapterSelection(name=name, scale=scale)])


async def test_an_adapter_changes_its_own_song_and_nobody_elses(music):
    plain = (await generate(music, song_request())).file()
    company = await asyncio.gather(*(generate(music, request) for request in (adapted(), song_request(), adapted(scale=-2.0))))
    assert company[1].file() == plain
    assert len({answer.file() for answer in company}) == 3
    assert (await generate(music, song_request())).file() == plain
    receipt = to_dict(company[2].result.songs[0].receipt)
    assert (receipt["lora_name_or_path"], receipt["lora_weight"]) == ("loud", -2)


async def test_capabilities_list_the_store(music):
    capabilities = await music.GetCapabilities(music_pb2.GetCapabilitiesRequest())
    assert sorted(capabilities.adapters) == ["broken", "loud"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("nobody", grpc.StatusCode.NOT_FOUND),
        ("broken", grpc.StatusCode.INVALID_ARGUMENT),
        ("../loud", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_an_adapter_that_cannot_be_used_is_named(music, name, code):
    with pytest.raises(grpc.aio.AioRpcError, match="adapter") as refused:
        await generate(music, adapted(name))
    assert refused.value.code() is code
    assert (await generate(music, song_request())).file()


@pytest.fixture
async def service(system):
    async with connect(system.front.target) as channel:
        yield adapter_pb2_grpc.AdapterServiceStub(channel)


async def test_adapters_are_listed_loaded_and_unloaded_in_both_stages(service, music):
    async def listed() -> dict[str, bool]:
        response = await service.ListAdapters(adapter_pb2.ListAdaptersRequest())
        return {adapter.name: adapter.loaded for adapter in response.adapters}

    before = (await generate(music, adapted())).file()
    await service.UnloadAdapter(adapter_pb2.UnloadAdapterRequest(name="loud"))
    assert await listed() == {"broken": False, "loud": False}
    loaded = (await service.LoadAdapter(adapter_pb2.LoadAdapterRequest(name="loud"))).adapter
    assert (loaded.loaded, loaded.has_trained_scale) == (True, True)
    assert await listed() == {"broken": False, "loud": True}
    assert (await generate(music, adapted())).file() == before
    for name, code in (
        ("nobody", grpc.StatusCode.NOT_FOUND),
        ("../loud", grpc.StatusCode.NOT_FOUND),
        ("broken", grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await service.LoadAdapter(adapter_pb2.LoadAdapterRequest(name=name))
        assert refused.value.code() is code


async def test_the_trained_scale_is_a_choice_that_the_receipt_names(music):
    request = adapted(scale=0.5)
    request.adapters[0].use_trained_scale = True  # 8 / 4: the file's alpha over its rank
    trained, plain, doubled = [await generate(music, which) for which in (request, adapted(scale=0.5), adapted(scale=1.0))]
    samples = [soundfile.read(io.BytesIO(answer.file()))[0] for answer in (trained, plain, doubled)]
    assert np.array_equal(samples[0], samples[2])
    assert not np.array_equal(samples[0], samples[1])
    chosen = [to_dict(answer.result.songs[0].receipt)["adapters"][0] for answer in (trained, plain)]
    assert chosen == [{"name": "loud", "scale": 0.5, "use_trained_scale": True}, {"name": "loud", "scale": 0.5, "use_trained_scale": False}]


async def test_the_command_line_lists_loads_and_unloads(system):
    async def acestep(*arguments: str) -> str:
        command = [sys.executable, "-m", "clients.cli.main", "adapters", *arguments, "--server", system.front.target]
        return (await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, text=True)).stdout

    assert await acestep("unload", "loud") == "loud\tnot loaded\n"
    assert await acestep("load", "loud") == "loud\tloaded\thas trained scale\n"
    assert await acestep("list") == "broken\tnot loaded\nloud\tloaded\thas trained scale\n"
