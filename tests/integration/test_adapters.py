"""Adapters over the public API: they change their request and no other."""

import asyncio

import grpc.aio
import pytest

from acestep_rpc.receipt import to_dict
from acestep_rpc.v1 import music_pb2, sampling_pb2
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
