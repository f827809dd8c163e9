"""Calls over the network: channels, and stubs that raise the errors of errors.py and pass the request id on."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from acestep_rpc import tracing
from acestep_rpc.client_security import ClientSecurity, Options, SecuredChannel
from acestep_rpc.errors import DeadlineExceeded, StageUnavailable, from_rpc_error
from acestep_rpc.server import KEEPALIVE_MILLISECONDS, MAX_MESSAGE_BYTES, MAX_METADATA_BYTES
from acestep_rpc.telemetry import REQUEST_ID_KEY, request_id

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_MILLISECONDS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MILLISECONDS // 2),
    ("grpc.http2.max_pings_without_data", 0),  # a step of sampling may be silent for minutes
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # a restarted stage is found within a second
)

Metadata = Sequence[tuple[str, str]]


def connect(target: str, security: ClientSecurity | None = None, options: Options = ()) -> grpc.aio.Channel:
    """Open a channel with the system's limits and keepalive. It connects on the first call, and again after every break.

    Args:
        target: As "127.0.0.1:7001" or "dns:///encoder:7001".
        security: How to check the server and what to show it; None: neither, in plain text.
        options: Of gRPC, beside the system's own.
    Raises:
        ValueError: A certificate, a key or the list of authorities is none.
        OSError: One of these files cannot be read.
    """
    if security is not None:
        return SecuredChannel(target, security, (*_OPTIONS, *options))
    return grpc.aio.insecure_channel(target, options=(*_OPTIONS, *options))


def with_origin(metadata: Metadata | None) -> Metadata:
    """The metadata, and the running task's request id and span unless they are in it."""
    given = dict(metadata or ())
    own = tracing.carried() | ({REQUEST_ID_KEY: request_id.get()} if request_id.get() else {})
    return (*(metadata or ()), *((key, value) for key, value in own.items() if key not in given))


class RemoteStub:
    """A generated stub on a channel, with the calls of `InProcessStub`.

    Each method of the generated stub takes a request (or an iterator of them), `timeout=` in seconds and `metadata=`. A method with one
    response returns an asyncio.Task: await or cancel it. A method with a stream returns an async generator: the call starts with the
    first item and is cancelled by closing the generator. Both raise AcestepErrors.

    Args:
        stub_class: As EncoderServiceStub.
        channel: From `connect`.
        target: Its target, for messages.
        ready_seconds: How long a call waits for a connection before it raises StageUnavailable.
    """

    def __init__(
        self, stub_class: Callable[[grpc.aio.Channel], Any], channel: grpc.aio.Channel, target: str, ready_seconds: float = 5.0
    ) -> None:
        self._channel = channel
        self._target = target
        self._ready_seconds = ready_seconds
        for name, method in vars(stub_class(channel)).items():
            streams = isinstance(method, grpc.aio.UnaryStreamMultiCallable | grpc.aio.StreamStreamMultiCallable)
            setattr(self, name, self._stream_call(name, method) if streams else self._single_call(name, method))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{type(self).__name__} for {self._target} has no method {name}")

    def _single_call(self, name: str, method: Any) -> Callable[..., asyncio.Task[Any]]:
        def call(request: Any, *, timeout: float | None = None, metadata: Metadata | None = None) -> asyncio.Task[Any]:
            deadline = _deadline(timeout)

            async def finish() -> Any:
                await self._wait_until_ready(name, deadline)
                try:
                    return await method(request, timeout=_remaining(name, deadline), metadata=with_origin(metadata))
                except grpc.aio.AioRpcError as error:
                    raise from_rpc_error(error) from error

            return asyncio.create_task(finish())

        return call

    def _stream_call(self, name: str, method: Any) -> Callable[..., AsyncIterator[Any]]:
        def call(request: Any, *, timeout: float | None = None, metadata: Metadata | None = None) -> AsyncIterator[Any]:
            deadline = _deadline(timeout)

            async def receive() -> AsyncIterator[Any]:
                await self._wait_until_ready(name, deadline)
                responses = method(request, timeout=_remaining(name, deadline), metadata=with_origin(metadata))
                try:
                    async for response in responses:
                        yield response
                except grpc.aio.AioRpcError as error:
                    raise from_rpc_error(error) from error
                finally:
                    responses.cancel()

            return receive()

        return call

    async def _wait_until_ready(self, name: str, deadline: float | None) -> None:
        remaining = _remaining(name, deadline)
        seconds = self._ready_seconds if remaining is None else min(remaining, self._ready_seconds)
        try:
            async with asyncio.timeout(seconds):  # wait_for of Python 3.11 can swallow a cancellation
                await self._channel.channel_ready()
        except TimeoutError:
            _remaining(name, deadline)
            raise StageUnavailable(f"nobody answers at {self._target}") from None


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _remaining(name: str, deadline: float | None) -> float | None:
    if deadline is None:
        return None
    if deadline <= time.monotonic():
        raise DeadlineExceeded(f"{name}: the time is up")
    return deadline - time.monotonic()
