"""What a call promises, in process and over a network alike."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from acestep_rpc import errors
from acestep_rpc.channels import RemoteStub, connect
from acestep_rpc.inprocess import InProcessStub
from acestep_rpc.server import Registration, serve
from acestep_rpc.settings import ServerSettings
from acestep_rpc.telemetry import is_request_id, request_id
from acestep_rpc.v1 import tensor_pb2, vae_pb2, vae_pb2_grpc

Open = Callable[[vae_pb2_grpc.VaeServiceServicer], Awaitable[Any]]


@pytest.fixture(params=["in_process", "remote"])
async def open_stub(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    async with contextlib.AsyncExitStack() as stack:

        async def in_process(servicer: vae_pb2_grpc.VaeServiceServicer) -> Any:
            return InProcessStub(servicer)

        async def remote(servicer: vae_pb2_grpc.VaeServiceServicer) -> Any:
            async def build() -> list[Registration]:
                return [Registration("acestep_rpc.v1.VaeService", servicer, vae_pb2_grpc.add_VaeServiceServicer_to_server)]

            server = await serve(ServerSettings(), build)
            stack.push_async_callback(server.stop)
            target = f"127.0.0.1:{server.port}"
            channel = await stack.enter_async_context(connect(target))
            return RemoteStub(vae_pb2_grpc.VaeServiceStub, channel, target)

        yield in_process if request.param == "in_process" else remote


def piece(start_sample: int) -> vae_pb2.DecodeLatentsResponse:
    return vae_pb2.DecodeLatentsResponse(start_sample=start_sample)


class Counting(vae_pb2_grpc.VaeServiceServicer):
    """Streams one message per latent frame asked for; adds up what it is sent."""

    async def DecodeLatents(self, request: Any, context: Any) -> AsyncIterator[vae_pb2.DecodeLatentsResponse]:
        for index in range(request.latents.shape[0]):
            yield piece(index)

    async def EncodeAudio(self, request_iterator: Any, context: Any) -> vae_pb2.EncodeAudioResponse:
        total = 0
        async for request in request_iterator:
            total += len(request.data)
        return vae_pb2.EncodeAudioResponse(sample_rate=total)


class Raising(vae_pb2_grpc.VaeServiceServicer):
    """Raises what it was made with, in a stream after one message."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def DecodeLatents(self, request: Any, context: Any) -> AsyncIterator[vae_pb2.DecodeLatentsResponse]:
        yield piece(0)
        raise self.error

    async def EncodeAudio(self, request_iterator: Any, context: Any) -> vae_pb2.EncodeAudioResponse:
        raise self.error


class Waiting(vae_pb2_grpc.VaeServiceServicer):
    """Waits for ever, and records that it was started, cancelled, and how much time it was given."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.time_remaining: float | None = None

    async def _wait(self, context: Any) -> None:
        self.time_remaining = context.time_remaining()
        self.started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def DecodeLatents(self, request: Any, context: Any) -> AsyncIterator[vae_pb2.DecodeLatentsResponse]:
        yield piece(0)
        await self._wait(context)

    async def EncodeAudio(self, request_iterator: Any, context: Any) -> vae_pb2.EncodeAudioResponse:
        await self._wait(context)
        return vae_pb2.EncodeAudioResponse()


class Naming(vae_pb2_grpc.VaeServiceServicer):
    """Records the request id that it runs under."""

    def __init__(self) -> None:
        self.seen = ""

    async def EncodeAudio(self, request_iterator: Any, context: Any) -> vae_pb2.EncodeAudioResponse:
        self.seen = request_id.get()
        return vae_pb2.EncodeAudioResponse()

    async def DecodeLatents(self, request: Any, context: Any) -> AsyncIterator[vae_pb2.DecodeLatentsResponse]:
        self.seen = request_id.get()
        yield piece(0)


def latents(length: int) -> vae_pb2.DecodeLatentsRequest:
    return vae_pb2.DecodeLatentsRequest(latents=tensor_pb2.Tensor(shape=[length]))


async def pieces_of(*sizes: int) -> AsyncIterator[vae_pb2.EncodeAudioRequest]:
    for size in sizes:
        yield vae_pb2.EncodeAudioRequest(data=bytes(size))


async def test_a_stream_arrives_whole_and_in_order(open_stub: Open) -> None:
    stub = await open_stub(Counting())
    assert [message.start_sample async for message in stub.DecodeLatents(latents(500))] == list(range(500))


async def test_an_empty_stream_ends(open_stub: Open) -> None:
    stub = await open_stub(Counting())
    assert [message async for message in stub.DecodeLatents(latents(0))] == []


async def test_requests_may_come_from_an_async_iterator(open_stub: Open) -> None:
    stub = await open_stub(Counting())
    assert (await stub.EncodeAudio(pieces_of(1, 0, 5))).sample_rate == 6


async def test_requests_may_come_from_a_list(open_stub: Open) -> None:
    stub = await open_stub(Counting())
    assert (await stub.EncodeAudio([vae_pb2.EncodeAudioRequest(data=b"abc")])).sample_rate == 3


async def test_a_message_of_32_mib_passes(open_stub: Open) -> None:
    stub = await open_stub(Counting())
    assert (await stub.EncodeAudio(pieces_of(32 * 1024 * 1024))).sample_rate == 32 * 1024 * 1024


ERRORS = [
    errors.InvalidRequest.from_violations([("prompt.tags", "too long"), ("seeds", "too many")]),
    errors.NotFound("adapter", "rap"),
    errors.AlreadyExists("used before", request_id="a"),
    errors.ShapeTooLarge("too long", max_duration_seconds="30"),
    errors.Overloaded("queue full", retry_after_seconds=2.5),
    errors.StageUnavailable("draining", retry_after_seconds=0.25),
    errors.DeadlineExceeded("late"),
    errors.Unimplemented("later"),
    errors.StageError("broken"),
]


def facts(error: errors.AcestepError) -> dict[str, Any]:
    return {key: value for key, value in vars(error).items() if not key.startswith("_")}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_an_error_of_a_single_response_arrives_with_its_details(open_stub: Open, error: errors.AcestepError) -> None:
    stub = await open_stub(Raising(error))
    with pytest.raises(type(error)) as caught:
        await stub.EncodeAudio(pieces_of())
    assert str(caught.value) == str(error)
    assert facts(caught.value) == facts(error)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_an_error_in_a_stream_arrives_after_the_messages_before_it(open_stub: Open, error: errors.AcestepError) -> None:
    stub = await open_stub(Raising(error))
    responses = stub.DecodeLatents(latents(1))
    assert await anext(responses) == piece(0)
    with pytest.raises(type(error)) as caught:
        await anext(responses)
    assert facts(caught.value) == facts(error)


async def test_an_unexpected_error_tells_the_request_id_and_nothing_else(open_stub: Open) -> None:
    stub = await open_stub(Raising(RuntimeError("the secret path /etc/shadow")))
    metadata = (("x-request-id", "song-7"),)
    with pytest.raises(errors.StageError) as single:
        await stub.EncodeAudio(pieces_of(), metadata=metadata)
    with pytest.raises(errors.StageError) as stream:
        _ = [message async for message in stub.DecodeLatents(latents(1), metadata=metadata)]
    assert str(single.value) == str(stream.value) == "internal error in request song-7"


async def test_a_method_that_is_not_built_is_unimplemented(open_stub: Open) -> None:
    class Nothing(vae_pb2_grpc.VaeServiceServicer):  # type: ignore[misc]  # its methods are the base class's
        pass

    stub = await open_stub(Nothing())
    with pytest.raises(errors.Unimplemented, match="EncodeAudio"):
        await stub.EncodeAudio(pieces_of())
    with pytest.raises(errors.Unimplemented, match="DecodeLatents"):
        await anext(stub.DecodeLatents(latents(1)))


@pytest.mark.parametrize("seconds", [0.2, 0.0, -1.0])
async def test_a_deadline_ends_a_single_response(open_stub: Open, seconds: float) -> None:
    stub = await open_stub(Waiting())
    start = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded):
        await stub.EncodeAudio(pieces_of(), timeout=seconds)
    assert time.monotonic() - start < 5


async def test_a_deadline_ends_a_stream_and_its_servicer(open_stub: Open) -> None:
    servicer = Waiting()
    stub = await open_stub(servicer)
    responses = stub.DecodeLatents(latents(1), timeout=0.3)
    await anext(responses)
    with pytest.raises(errors.DeadlineExceeded):
        await anext(responses)
    await asyncio.wait_for(servicer.cancelled.wait(), 5)


async def test_a_deadline_is_known_to_the_servicer(open_stub: Open) -> None:
    servicer = Waiting()
    stub = await open_stub(servicer)
    call = stub.EncodeAudio(pieces_of(), timeout=20)
    await servicer.started.wait()
    call.cancel()
    assert servicer.time_remaining is not None
    assert 15 < servicer.time_remaining <= 20.1


async def test_no_deadline_is_known_to_the_servicer(open_stub: Open) -> None:
    servicer = Waiting()
    stub = await open_stub(servicer)
    call = stub.EncodeAudio(pieces_of())
    await servicer.started.wait()
    call.cancel()
    assert servicer.time_remaining is None


async def test_cancelling_a_call_cancels_its_servicer(open_stub: Open) -> None:
    servicer = Waiting()
    stub = await open_stub(servicer)
    call = stub.EncodeAudio(pieces_of())
    await servicer.started.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(servicer.cancelled.wait(), 5)


async def test_cancelling_the_task_that_awaits_a_call_cancels_its_servicer(open_stub: Open) -> None:
    servicer = Waiting()
    stub = await open_stub(servicer)

    async def wait() -> None:
        await stub.EncodeAudio(pieces_of())

    task = asyncio.create_task(wait())
    await servicer.started.wait()
    task.cancel()
    await asyncio.wait_for(servicer.cancelled.wait(), 5)


async def test_cancelling_the_reader_of_a_stream_cancels_its_servicer(open_stub: Open) -> None:
    servicer = Waiting()
    stub = await open_stub(servicer)

    async def read() -> None:
        async for _ in stub.DecodeLatents(latents(1)):
            pass

    task = asyncio.create_task(read())
    await servicer.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(servicer.cancelled.wait(), 5)


async def test_closing_a_stream_cancels_its_servicer(open_stub: Open) -> None:
    servicer = Waiting()
    stub = await open_stub(servicer)
    async with contextlib.aclosing(stub.DecodeLatents(latents(1))) as responses:
        await anext(responses)
        await servicer.started.wait()
    await asyncio.wait_for(servicer.cancelled.wait(), 5)


async def test_a_servicer_does_not_run_far_ahead_of_a_slow_reader(open_stub: Open) -> None:
    sent = 0

    class Eager(Counting):
        async def DecodeLatents(self, request: Any, context: Any) -> AsyncIterator[vae_pb2.DecodeLatentsResponse]:
            nonlocal sent
            for _ in range(200):
                sent += 1
                yield vae_pb2.DecodeLatentsResponse(waveform=tensor_pb2.Tensor(data=bytes(2_000_000)))

    stub = await open_stub(Eager())
    async with contextlib.aclosing(stub.DecodeLatents(latents(1))) as responses:
        await anext(responses)
        await asyncio.sleep(0.5)
        assert sent < 40  # 80 MB: a connection's windows grow with its speed, to some 16 MiB on either side


async def test_the_request_id_travels_with_a_call(open_stub: Open) -> None:
    servicer = Naming()
    stub = await open_stub(servicer)
    token = request_id.set("song-1.a_B")
    try:
        await stub.EncodeAudio(pieces_of())
        assert servicer.seen == "song-1.a_B"
        await anext(stub.DecodeLatents(latents(1), metadata=(("x-request-id", "other"),)))
        assert servicer.seen == "other"
    finally:
        request_id.reset(token)


@pytest.mark.parametrize("given", ["", "with space", "x" * 129, 'quote"'])
async def test_a_bad_request_id_is_replaced(open_stub: Open, given: str) -> None:
    servicer = Naming()
    stub = await open_stub(servicer)
    await stub.EncodeAudio(pieces_of(), metadata=(("x-request-id", given),))
    assert servicer.seen != given
    assert is_request_id(servicer.seen)


async def test_the_request_id_does_not_leak_into_the_caller(open_stub: Open) -> None:
    stub = await open_stub(Naming())
    await stub.EncodeAudio(pieces_of())
    async for _ in stub.DecodeLatents(latents(1)):
        assert request_id.get() == ""
    assert request_id.get() == ""


async def test_calls_do_not_wait_for_each_other(open_stub: Open) -> None:
    servicer = Waiting()
    stub = await open_stub(servicer)
    waiting = stub.EncodeAudio(pieces_of())
    await servicer.started.wait()
    assert await asyncio.wait_for(anext(stub.DecodeLatents(latents(1))), 5) == piece(0)
    waiting.cancel()


def test_a_misspelt_method_is_named() -> None:
    with pytest.raises(AttributeError, match="DecodeLatent"):
        _ = InProcessStub(Counting()).DecodeLatent
