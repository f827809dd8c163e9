"""What belongs to a tenant, as others meet it: in every method of every public service."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from acestep_rpc.api_keys import key_digest, new_key
from acestep_rpc.channels import RemoteStub, connect
from acestep_rpc.client_security import ClientSecurity
from acestep_rpc.errors import InvalidRequest, NotFound, PermissionDenied, QuotaExceeded, Unauthenticated
from acestep_rpc.v1 import adapter_pb2, adapter_pb2_grpc, lyrics_pb2, music_pb2, music_pb2_grpc
from tests.integration.conftest import Server
from tests.integration.requests import generate, song_request
from tests.integration.test_sources import download, tone, upload

SERVICES = (music_pb2, adapter_pb2, lyrics_pb2, operations_pb2)
METHODS: dict[str, MethodDescriptor] = {
    f"{service.full_name}/{method.name}": method
    for module in SERVICES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
KEYS = {name: new_key() for name in ("alice", "bob", "carol", "root")}
LINES = [f'{name}.keys = ["sha256:{key_digest(key)}"]' for name, key in KEYS.items()]
LIMITS = ["carol.audio_seconds_per_day = 3", "root.operator = true"]


@pytest.fixture(scope="module")
def server(checkpoint, adapters, tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tenants")
    (folder / "tenants.toml").write_text("\n".join(LINES + LIMITS))
    arguments = ["--embedded", "--checkpoint", str(checkpoint), "--dtype", "float32", "--threads", "1", "--adapters", str(adapters)]
    arguments += ["--authentication", "keys", "--tenants", str(folder / "tenants.toml")]
    running_server = Server("orchestrator", arguments, folder, environment={"ACESTEP_ORCHESTRATOR_CONCURRENT_JOBS": "0"})  # jobs wait
    running_server.start()
    yield running_server
    running_server.stop()


@contextlib.asynccontextmanager
async def caller(server: Server, key: str) -> AsyncIterator[grpc.aio.Channel]:
    async with connect(server.target, ClientSecurity(bearer=lambda: key)) as channel:
        yield channel


def music_of(channel: grpc.aio.Channel) -> Any:
    return RemoteStub(music_pb2_grpc.MusicServiceStub, channel, "the server")


def operations_of(channel: grpc.aio.Channel) -> Any:
    return RemoteStub(operations_pb2_grpc.OperationsStub, channel, "the server")


async def call(channel: grpc.aio.Channel, path: str, request: Any, **options: Any) -> list[Any]:
    """Call a method by its name, as any client could; the responses."""
    method = METHODS[path]
    answer = message_factory.GetMessageClass(method.output_type).FromString
    streams = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
    make = getattr(channel, "_".join(streams))
    multicallable = make(f"/{path}", request_serializer=lambda message: message.SerializeToString(), response_deserializer=answer)
    running_call = multicallable(iter([request]) if method.client_streaming else request, timeout=20, **options)
    return [response async for response in running_call] if method.server_streaming else [await running_call]


async def refusal(channel: grpc.aio.Channel, path: str, request: Any, **options: Any) -> status_pb2.Status:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, path, request, **options)
    status = rpc_status.from_call(caught.value)
    assert status is not None
    return status


async def silence() -> AsyncIterator[Any]:
    """Requests of a caller who says nothing."""
    await asyncio.Event().wait()
    yield


def empty(path: str) -> Any:
    return message_factory.GetMessageClass(METHODS[path].input_type)()


@pytest.mark.parametrize("path", METHODS)
async def test_every_method_wants_credentials_and_says_the_same_to_all_who_have_none(server, path):
    async with connect(server.target) as channel:
        statuses = [await refusal(channel, path, empty(path), metadata=metadata) for metadata in (
            (),
            (("authorization", f"Bearer {new_key()}"),),
            (("authorization", KEYS["alice"]),),
            (("authorization", "Bearer alice"),),
            (("authorization", f"Basic {KEYS['alice']}"),),
            (("authorization", f"Bearer {KEYS['alice']}"), ("authorization", f"Bearer {KEYS['bob']}")),
        )]  # fmt: skip
    assert statuses[0].code == grpc.StatusCode.UNAUTHENTICATED.value[0]
    assert all(status == statuses[0] for status in statuses)


async def test_health_is_free_and_reflection_is_not(server):
    async with connect(server.target) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:  # nothing is sent: a message that meets the refusal is an error of its own
            await reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(silence()).read()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    question = [reflection_pb2.ServerReflectionRequest(list_services="")]
    async with caller(server, KEYS["alice"]) as channel:
        answer = await reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter(question)).read()
        assert "acestep_rpc.v1.MusicService" in str(answer)


def from_source(source: dict[str, str], **fields: Any) -> music_pb2.GenerateRequest:
    return song_request(steps=1, extend={"source": source, "right_seconds": 1.0}, **fields)


class Things:
    """Names of what there is of a tenant, or is not."""

    def __init__(self, request_id: str, asset: str, running_id: str) -> None:
        self.operation = f"operations/{request_id}"
        self.running = f"operations/{running_id}"
        self.result = f"{self.operation}/results/0"
        self.asset = asset
        self.names = [self.operation, self.running, self.result, self.asset]


NOWHERE = Things("nothing", "assets/" + "0" * 64, "runs-nowhere")
MUSIC, OPERATIONS = "acestep_rpc.v1.MusicService", "google.longrunning.Operations"

REQUESTS = {
    f"{MUSIC}/Generate": lambda things: [from_source({"asset": things.asset}), from_source({"result": things.result})],
    f"{MUSIC}/SubmitGeneration": lambda things: [
        music_pb2.SubmitGenerationRequest(generation=from_source(source)) for source in ({"asset": things.asset}, {"result": things.result})
    ],
    f"{MUSIC}/EstimateGeneration": lambda things: [
        music_pb2.EstimateGenerationRequest(generation=from_source(source))
        for source in ({"asset": things.asset}, {"result": things.result})
    ],
    f"{MUSIC}/WatchGeneration": lambda things: [
        music_pb2.WatchGenerationRequest(name=things.operation),
        music_pb2.WatchGenerationRequest(name=things.running, from_sequence=2),
    ],
    f"{MUSIC}/DownloadAudio": lambda things: [music_pb2.DownloadAudioRequest(name=name) for name in (things.asset, things.result)],
    f"{MUSIC}/DownloadFile": lambda things: [music_pb2.DownloadFileRequest(name=name) for name in (things.asset, things.result)],
    f"{OPERATIONS}/GetOperation": lambda things: [
        operations_pb2.GetOperationRequest(name=name) for name in (things.operation, things.running)
    ],
    f"{OPERATIONS}/CancelOperation": lambda things: [operations_pb2.CancelOperationRequest(name=things.running)],
    f"{OPERATIONS}/DeleteOperation": lambda things: [
        operations_pb2.DeleteOperationRequest(name=name) for name in (things.operation, things.running)
    ],
    f"{OPERATIONS}/WaitOperation": lambda things: [operations_pb2.WaitOperationRequest(name=things.running)],
}
"""Every way to name what a tenant has."""

NAMELESS = {
    f"{MUSIC}/UploadAudio",
    f"{MUSIC}/UploadFile",
    f"{MUSIC}/GetCapabilities",
    "acestep_rpc.v1.LyricsService/Preview",
    "acestep_rpc.v1.AdapterService/ListAdapters",
    "acestep_rpc.v1.AdapterService/LoadAdapter",
    "acestep_rpc.v1.AdapterService/UnloadAdapter",
    f"{OPERATIONS}/ListOperations",  # has tests of its own
}
"""Methods that name nothing of a tenant's."""


@pytest.fixture
async def things(server) -> AsyncIterator[Things]:
    """Of alice: a song that is done, an upload, and a job that has not ended."""
    request_id, running_id = f"song-{time.monotonic_ns()}", f"long-{time.monotonic_ns()}"
    async with caller(server, KEYS["alice"]) as channel:
        music, operations = music_of(channel), operations_of(channel)
        asset = (await upload(music, tone(44100, 1, "WAV", "PCM_16"))).name
        await generate(music, song_request(steps=1, request_id=request_id, keep_results=True))
        await music.SubmitGeneration(music_pb2.SubmitGenerationRequest(generation=song_request(request_id=running_id)))
        found = Things(request_id, asset, running_id)
        yield found
        assert not (await operations.GetOperation(operations_pb2.GetOperationRequest(name=found.running))).done
        await operations.CancelOperation(operations_pb2.CancelOperationRequest(name=found.running))


def test_no_method_is_forgotten():
    assert set(METHODS) == set(REQUESTS) | NAMELESS


def without_names(status: status_pb2.Status, things: Things) -> tuple[int, str, list[str]]:
    """The status, whatever it was about."""
    said = [status.message]
    for packed in status.details:
        info = error_details_pb2.ResourceInfo()
        assert packed.Unpack(info)
        said += [info.resource_type, info.resource_name, info.description]
    for name in things.names:
        said = [text.replace(name, "NAME") for text in said]
    return status.code, said[0], said[1:]


async def test_what_another_tenant_has_is_as_if_it_did_not_exist(server, things):
    async with caller(server, KEYS["bob"]) as channel:
        for path, requests in REQUESTS.items():
            for real, imagined in zip(requests(things), requests(NOWHERE), strict=True):
                found, expected = await refusal(channel, path, real), await refusal(channel, path, imagined)
                assert expected.code == grpc.StatusCode.NOT_FOUND.value[0], path
                assert without_names(found, things) == without_names(expected, NOWHERE), path


async def test_lists_have_only_what_is_the_callers_own(server, things):
    everything = operations_pb2.ListOperationsRequest()
    async with caller(server, KEYS["alice"]) as alice, caller(server, KEYS["bob"]) as bob:
        mine = await operations_of(alice).ListOperations(operations_pb2.ListOperationsRequest(page_size=1))
        assert {things.operation, things.running} <= {
            operation.name for operation in (await operations_of(alice).ListOperations(everything)).operations
        }
        assert mine.next_page_token
        for request in (everything, operations_pb2.ListOperationsRequest(page_token=mine.next_page_token)):
            names = {operation.name for operation in (await operations_of(bob).ListOperations(request)).operations}
            assert names.isdisjoint(things.names)


async def test_two_tenants_may_use_the_same_request_id_and_upload_the_same_file(server, things):
    request_id = things.operation.removeprefix("operations/")
    async with caller(server, KEYS["alice"]) as alice, caller(server, KEYS["bob"]) as bob:
        await generate(music_of(bob), song_request(seconds=1.0, steps=1, seeds=(8,), request_id=request_id, keep_results=True))
        job = song_request(seconds=1.0, request_id=things.running.removeprefix("operations/"))
        his_job = await music_of(bob).SubmitGeneration(music_pb2.SubmitGenerationRequest(generation=job))
        assert his_job.name == things.running
        await operations_of(bob).CancelOperation(operations_pb2.CancelOperationRequest(name=things.running))
        his, hers = await download(music_of(bob), things.result), await download(music_of(alice), things.result)
        assert his != hers
        assert len(his) < len(hers)
        assert (await upload(music_of(bob), tone(44100, 1, "WAV", "PCM_16"))).name == things.asset
        await download(music_of(bob), things.asset)
        await operations_of(bob).DeleteOperation(operations_pb2.DeleteOperationRequest(name=things.operation))
        with pytest.raises(NotFound):
            await download(music_of(bob), things.result)
        assert await download(music_of(alice), things.result) == hers


async def test_adapters_are_the_operators_affair(server):
    request = adapter_pb2.LoadAdapterRequest(name="loud")
    async with caller(server, KEYS["alice"]) as alice, caller(server, KEYS["root"]) as root:
        stubs = [RemoteStub(adapter_pb2_grpc.AdapterServiceStub, channel, "the server") for channel in (alice, root)]
        for refused in (stubs[0].LoadAdapter(request), stubs[0].UnloadAdapter(adapter_pb2.UnloadAdapterRequest(name="loud"))):
            with pytest.raises(PermissionDenied):
                await refused
        assert (await stubs[1].LoadAdapter(request)).adapter.loaded
        assert "loud" in str(await stubs[0].ListAdapters(adapter_pb2.ListAdaptersRequest()))


async def test_a_days_songs_end_with_a_quota_failure_and_failed_ones_do_not_count(server):
    async with caller(server, KEYS["carol"]) as channel:
        music = music_of(channel)
        for _ in range(3):
            with pytest.raises(InvalidRequest):
                await generate(music, song_request(steps=1, adapters=[{"name": "broken"}]))  # only the stage can tell
        await generate(music, song_request(steps=1))
        for refused in (
            anext(music.Generate(song_request(steps=1))),
            music.SubmitGeneration(music_pb2.SubmitGenerationRequest(generation=song_request(steps=1))),
        ):
            with pytest.raises(QuotaExceeded) as caught:
                await refused
            assert caught.value.quota == "audio_seconds_per_day"
            assert caught.value.retry_after_seconds is not None


async def test_logs_and_metrics_name_the_tenant(server, things):
    assert server.metric("acestep_tenant_requests_total", tenant="alice", code="OK") > 0
    assert server.metric("acestep_tenant_audio_seconds_total", tenant="alice") > 1
    lines = [line for line in server.log().splitlines() if '"generated"' in line]
    assert any('"tenant": "alice"' in line for line in lines)
    assert not any(key in server.log() for key in KEYS.values())


async def test_a_key_that_is_taken_out_of_the_file_is_good_no_more(server):
    path, new = server.folder / "tenants.toml", new_key()
    path.write_text("\n".join([*LINES, *LIMITS, f'dora.keys = ["sha256:{key_digest(new)}"]']))
    await asyncio.sleep(1.1)
    async with caller(server, new) as channel:
        await music_of(channel).GetCapabilities(music_pb2.GetCapabilitiesRequest())
        path.write_text("\n".join(LINES + LIMITS))
        await asyncio.sleep(1.1)
        with pytest.raises(Unauthenticated):
            await music_of(channel).GetCapabilities(music_pb2.GetCapabilitiesRequest())
