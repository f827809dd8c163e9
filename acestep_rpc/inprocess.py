"""Calls without a network: a servicer of this process behind the methods of its generated stub. Messages are handed over, not copied."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import grpc

from acestep_rpc.channels import Metadata, with_origin
from acestep_rpc.errors import DeadlineExceeded
from acestep_rpc.telemetry import observe_call

_READ_AHEAD = 2  # responses a stream may be ahead of its reader, as a network's buffers let it


class InProcessContext:
    """What a servicer may ask of its call. Status and metadata to the caller travel as exceptions, so setting them does nothing."""

    def __init__(self, deadline: float | None, metadata: Metadata) -> None:
        self._deadline = deadline
        self._metadata = metadata

    def time_remaining(self) -> float | None:
        """Seconds to the deadline, never below 0; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def invocation_metadata(self) -> Metadata:
        """Pairs of key and value."""
        return self._metadata

    def peer(self) -> str:
        """Who calls."""
        return "in-process"

    def set_code(self, code: grpc.StatusCode) -> None:
        """Called by generated base classes before they raise NotImplementedError, which says the same."""

    def set_details(self, details: str) -> None:
        """As set_code."""


class InProcessStub:
    """The generated stub's methods on a servicer of this process; behaves like `RemoteStub`, which documents the calls.

    Args:
        servicer: Subclass of one generated ...Servicer.
    """

    def __init__(self, servicer: object) -> None:
        (base,) = (cls for cls in type(servicer).__mro__ if cls.__module__.endswith("_pb2_grpc"))
        add = getattr(sys.modules[base.__module__], f"add_{base.__name__}_to_server")
        methods = _Methods()
        add(servicer, methods)
        for name, handler in methods.handlers.items():
            call = _stream_call if handler.response_streaming else _single_call
            setattr(self, name, call(methods.service, name, handler))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{type(self).__name__} has no method {name}")


class _Methods:
    """Stands where the generated code expects a server, and keeps what it registers."""

    service: str
    handlers: Mapping[str, Any]

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same handlers in a form that hides them."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.service = service
        self.handlers = handlers


def _single_call(service: str, name: str, handler: Any) -> Callable[..., asyncio.Task[Any]]:
    behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary

    def call(request: Any, *, timeout: float | None = None, metadata: Metadata | None = None) -> asyncio.Task[Any]:
        context = InProcessContext(None if timeout is None else time.monotonic() + timeout, with_origin(metadata))

        async def respond() -> Any:
            with observe_call(service, name, context):
                async with _until_deadline(name, context):
                    return await behaviour(_as_received(handler, request), context)

        return asyncio.create_task(respond())

    return call


def _stream_call(service: str, name: str, handler: Any) -> Callable[..., AsyncIterator[Any]]:
    behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream

    def call(request: Any, *, timeout: float | None = None, metadata: Metadata | None = None) -> AsyncIterator[Any]:
        context = InProcessContext(None if timeout is None else time.monotonic() + timeout, with_origin(metadata))
        received: asyncio.Queue[Any] = asyncio.Queue()
        room = asyncio.Semaphore(_READ_AHEAD)
        end = object()

        async def respond() -> None:
            with observe_call(service, name, context):
                async with (
                    _until_deadline(name, context),
                    contextlib.aclosing(behaviour(_as_received(handler, request), context)) as responses,
                ):
                    async for response in responses:
                        await room.acquire()
                        received.put_nowait(response)

        async def receive() -> AsyncIterator[Any]:
            # A task of its own: the servicer works on while the reader is busy, and its context variables stay its own.
            task = asyncio.create_task(respond())
            task.add_done_callback(lambda _: received.put_nowait(end))
            try:
                while (response := await received.get()) is not end:
                    room.release()
                    yield response
                await task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        return receive()

    return call


@contextlib.asynccontextmanager
async def _until_deadline(name: str, context: InProcessContext) -> AsyncIterator[None]:
    """Cancel the body at the deadline and raise DeadlineExceeded."""
    remaining = context.time_remaining()
    if remaining == 0:
        raise DeadlineExceeded(f"{name}: the time is up")
    limit = asyncio.timeout(remaining)
    try:
        async with limit:
            yield
    except TimeoutError:
        if limit.expired():
            raise DeadlineExceeded(f"{name}: the time is up") from None
        raise


def _as_received(handler: Any, request: Any) -> Any:
    """The request as a servicer gets it: a stream of requests is an async iterator, whatever the caller passed."""
    return _iterate(request) if handler.request_streaming else request


async def _iterate(requests: AsyncIterable[Any] | Iterable[Any]) -> AsyncIterator[Any]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
