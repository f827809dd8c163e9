"""Bytes that are no message: every kind of method, and the ones that are nobody's work, answers INVALID_ARGUMENT."""

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from acestep_rpc.channels import connect
from acestep_rpc.server import Registration, serve
from acestep_rpc.settings import ServerSettings
from acestep_rpc.v1 import vae_pb2, vae_pb2_grpc
from tests.unit.acestep_rpc.test_calls import Counting

NO_MESSAGE = b"\xff\xff\xff"


async def bytes_of(*messages):
    for message in messages:
        yield message


async def read(call):
    async for _ in call:
        pass


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/acestep_rpc.v1.VaeService/DecodeLatents", "unary_stream"),
        ("/acestep_rpc.v1.VaeService/EncodeAudio", "stream_unary"),
        ("/grpc.health.v1.Health/Check", "unary_unary"),
        ("/grpc.health.v1.Health/Watch", "unary_stream"),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "stream_stream"),
    ],
)
async def test_bytes_that_are_no_message_are_an_invalid_argument(path, kind, caplog):
    async def build():
        return [Registration("acestep_rpc.v1.VaeService", Counting(), vae_pb2_grpc.add_VaeServiceServicer_to_server)]

    server = await serve(ServerSettings(), build)
    try:
        async with connect(f"127.0.0.1:{server.port}") as channel:
            call = getattr(channel, kind)(path)(bytes_of(NO_MESSAGE) if kind.startswith("stream") else NO_MESSAGE)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await (call if kind.endswith("unary") else read(call))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            bad = error_details_pb2.BadRequest()
            assert rpc_status.from_call(refused.value).details[0].Unpack(bad)
            assert [violation.field for violation in bad.field_violations] == ["request"]
            good = channel.stream_unary("/acestep_rpc.v1.VaeService/EncodeAudio")
            answer = await good(bytes_of(vae_pb2.EncodeAudioRequest(data=b"abc").SerializeToString()))
            assert vae_pb2.EncodeAudioResponse.FromString(answer).sample_rate == 3
    finally:
        await server.stop()
    assert not [record for record in caplog.records if record.exc_info]
