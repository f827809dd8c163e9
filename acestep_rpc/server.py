"""How every service starts, serves and stops: health, reflection, metrics, the error interceptor, draining. Knows no service."""

import asyncio
import contextlib
import inspect
import json
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status
from prometheus_client import start_http_server

from acestep_rpc.allocator import trim_regularly, use_few_arenas
from acestep_rpc.engine import longest_piece_seconds
from acestep_rpc.errors import AcestepError, InvalidRequest, Overloaded, StageUnavailable, Unimplemented, to_status
from acestep_rpc.settings import ServerSettings
from acestep_rpc.telemetry import EVENT_LOOP_TASKS, configure_logging, log, observe_call
from acestep_rpc.tls import check_client, server_credentials
from acestep_rpc.tracing import configure_tracing

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Largest message. The largest there is: conditioning of 4096 lyric tokens, full and null, 1024 wide in float32: 32 MiB, and its
text states. The latents of 16 songs of 240 s take 21 MB; audio goes in chunks."""

KEEPALIVE_MILLISECONDS = 20_000
"""How often a client pings while a call is silent, as long sampling steps are. The server accepts twice that rate."""

MAX_METADATA_BYTES = 16 * 1024
"""Headers of a call: room for a bearer token of an identity provider. gRPC refuses some calls above it, and all above twice as much."""

MAX_STREAMS_PER_CONNECTION = 256
"""Calls at a time on one connection; further ones wait at the client."""
PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""Trailing metadata that tells clients with a retry policy how long to wait."""

LIVENESS = "liveness"
"""Service name of the health check that says whether the device still gets on, however long the queue and while the server drains."""
READY_PATH, ALIVE_PATH = "/readyz", "/healthz"
"""On the metrics port: whether the server admits calls, and what LIVENESS says. For probes that cannot speak gRPC over TLS."""

_BEAT_SECONDS = 1.0
_LOOP_SECONDS = 30.0  # an event loop that stood still for so long serves nobody
_FLUSH_SECONDS = 0.5  # after the last call ended: its last bytes, and the health watchers that never end by themselves

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # a port that is taken is an error, not half of the traffic
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", 2 * MAX_METADATA_BYTES),
    ("grpc.max_concurrent_streams", MAX_STREAMS_PER_CONNECTION),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MILLISECONDS // 2),
    ("grpc.http2.max_ping_strikes", 2),  # a client that pings faster is sent away
    ("grpc.keepalive_time_ms", 3 * KEEPALIVE_MILLISECONDS),  # clients that vanished without a word are noticed
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MILLISECONDS),
)

Guard = Callable[[str, Any], Awaitable[None]]
"""Asked before each call, health checks apart: name of the method, as "acestep_rpc.v1.MusicService/Generate", and context. Refuses it by an
AcestepError."""


class ServerError(OSError):
    """The server cannot start: a port is taken or an address is not ours."""


@dataclass(frozen=True)
class Registration:
    """One gRPC service of a server.

    Args:
        full_name: As "acestep_rpc.v1.EncoderService".
        servicer: Implements its generated base class; responses in streams come from async generators.
        add: The generated add_..._to_server.
        drain: Called when the server begins to drain, after it stopped admitting.
    """

    full_name: str
    servicer: object
    add: Callable[[Any, grpc.aio.Server], None]
    drain: Callable[[], None] | None = None


class RunningServer:
    """A server that admits requests until `stop`. Made by `serve`."""

    def __init__(self, settings: ServerSettings, guard: Guard | None = None) -> None:
        self._settings = settings
        self._gate = _Gate(settings.max_concurrent_calls, settings.tls_allowed_clients, guard)
        self._registrations: Sequence[Registration] = ()
        self._health = health.aio.HealthServicer()
        self._state = "loading"
        self._beat_at = time.monotonic()
        self._beating: asyncio.Task[None] | None = None
        self._server = grpc.aio.server(interceptors=(self._gate,), options=(*_OPTIONS, *_connection_age(settings)))
        address = f"{settings.host}:{settings.port}"
        try:
            credentials = server_credentials(settings.tls) if settings.tls is not None else None
        except OSError as error:
            raise ServerError(f"cannot read the certificate, its key or the authorities: {error}") from error
        try:
            if credentials is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise ServerError(f"cannot listen on {address}: the port is taken, or the address is not one of this machine") from error
        self.metrics_port = -1
        self._metrics: Any = None
        if settings.metrics_port >= 0:
            try:
                self._metrics = start_http_server(settings.metrics_port, settings.host)
            except OSError as error:
                raise ServerError(f"cannot serve metrics on {settings.host}:{settings.metrics_port}: {error}") from error
            self.metrics_port = self._metrics[0].server_port
            self._metrics[0].set_app(self._answer_probes(self._metrics[0].get_app()))

    async def start(self, registrations: Sequence[Registration]) -> None:
        """Serve the registrations beside health and reflection, then write the ready file."""
        self._registrations = registrations
        for registration in registrations:
            registration.add(registration.servicer, self._server)
            await self._health.set(registration.full_name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [registration.full_name for registration in registrations]
        reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()
        loop = asyncio.get_running_loop()
        EVENT_LOOP_TASKS.set_function(lambda: len(asyncio.all_tasks(loop)))
        self._state, self._beating = "ready", asyncio.create_task(self._beat())
        if self._settings.ready_file is not None:
            _write_ready_file(self._settings.ready_file, {"port": self.port, "metrics_port": self.metrics_port})
        log("serving", services=names, host=self._settings.host, port=self.port, metrics_port=self.metrics_port)

    async def stop(self, drain_seconds: float = 0.0) -> None:
        """Refuse new calls, let running ones end for at most drain_seconds, cancel the rest, close the ports."""
        log("draining", running_calls=self._gate.running, drain_seconds=drain_seconds)
        if self._settings.ready_file is not None:
            self._settings.ready_file.unlink(missing_ok=True)
        for name in ("", *(registration.full_name for registration in self._registrations)):
            await self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        self._state = "draining"
        self._gate.draining = True
        for registration in self._registrations:
            if registration.drain is not None:
                registration.drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gate.idle.wait(), drain_seconds)
        log("stopped", cancelled_calls=self._gate.running)
        await self._server.stop(_FLUSH_SECONDS)
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        if self._metrics is not None:
            metrics_server, metrics_thread = self._metrics
            await asyncio.to_thread(metrics_server.shutdown)
            metrics_server.server_close()
            metrics_thread.join()

    async def _beat(self) -> None:
        """Say again and again that the event loop runs, and whether the device gets on."""
        was_alive = True
        while True:
            self._beat_at = time.monotonic()
            if (alive := self._complaint() is None) != was_alive:
                log("liveness_changed", level=logging.INFO if alive else logging.ERROR, reason=self._complaint())
                status = health_pb2.HealthCheckResponse.SERVING if alive else health_pb2.HealthCheckResponse.NOT_SERVING
                await self._health.set(LIVENESS, status)
                was_alive = alive
            await asyncio.sleep(_BEAT_SECONDS)

    def _complaint(self) -> str | None:
        """Why this server should be restarted; None: it should not. Safe in any thread."""
        if self._beating is None:
            return None  # weights may take as long as they take: whoever watches the start has a limit of its own
        if (seconds := time.monotonic() - self._beat_at) > _LOOP_SECONDS:
            return f"the event loop stands still for {seconds:.0f} s"
        if 0 < self._settings.stuck_seconds < (seconds := longest_piece_seconds()):
            return f"the device has been at one piece of work for {seconds:.0f} s"
        return None

    def _answer_probes(self, metrics: Callable[[Any, Any], Iterable[bytes]]) -> Callable[[Any, Any], Iterable[bytes]]:
        """The WSGI application of the metrics, with the paths of probes."""

        def answer(environ: Any, start_response: Any) -> Iterable[bytes]:
            path = environ["PATH_INFO"]
            if path not in (READY_PATH, ALIVE_PATH):
                return metrics(environ, start_response)
            complaint = self._complaint() if path == ALIVE_PATH else self._state if self._state != "ready" else None
            start_response("200 OK" if complaint is None else "503 Service Unavailable", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"{complaint or 'ok'}\n".encode()]

        return answer


async def serve(
    settings: ServerSettings, build: Callable[[], Awaitable[Sequence[Registration]]], guard: Guard | None = None
) -> RunningServer:
    """Take the ports, build the servicers, start.

    Args:
        settings: Where to listen.
        build: Loads weights and makes the servicers. Runs after the ports are taken: a wrong port shows before minutes of loading.
        guard: Lets callers in.
    Returns:
        The running server; its `port` and `metrics_port` are the ones bound.
    Raises:
        ServerError: A port is taken.
    """
    if settings.ready_file is not None:
        settings.ready_file.unlink(missing_ok=True)
    server = RunningServer(settings, guard)
    await server.start(await build())
    return server


async def _nothing() -> None:
    pass


def run(
    service: str,
    settings: ServerSettings,
    build: Callable[[], Awaitable[Sequence[Registration]]],
    before_draining: Callable[[], Awaitable[None]] = _nothing,
    close: Callable[[], Awaitable[None]] = _nothing,
    guard: Guard | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Blocks.

    Args:
        service: Name in the logs, as "encoder".
        settings: Where to listen, how long to drain.
        build: Loads weights and makes the servicers.
        before_draining: Ends what would run on behind the calls.
        close: Called after the last call.
        guard: Lets callers in.
    Raises:
        SystemExit: A port is taken, or the checkpoint or a setting is refused; the message says which.
    """
    use_few_arenas()
    configure_logging(service)
    try:
        configure_tracing(service)
        asyncio.run(_run_until_signal(settings, build, before_draining, close, guard))
    except (ServerError, ValueError) as error:  # ValueError: a checkpoint or a setting that the stage refuses
        log("cannot_start", level=logging.ERROR, reason=str(error))
        raise SystemExit(f"{service}: {error}") from error


async def _run_until_signal(
    settings: ServerSettings,
    build: Callable[[], Awaitable[Sequence[Registration]]],
    before_draining: Callable[[], Awaitable[None]],
    close: Callable[[], Awaitable[None]],
    guard: Guard | None,
) -> None:
    server = await serve(settings, build, guard)  # a signal while weights load ends the process at once
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    trimming = asyncio.create_task(trim_regularly())
    await stop.wait()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)  # a second signal ends the process at once
    await before_draining()
    await server.stop(settings.drain_seconds)
    trimming.cancel()
    await close()


def _connection_age(settings: ServerSettings) -> Sequence[tuple[str, int]]:
    if not settings.max_connection_age_seconds:
        return ()
    return (
        ("grpc.max_connection_age_ms", round(settings.max_connection_age_seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", round(settings.max_connection_age_grace_seconds * 1000)),
    )


async def _write(context: Any, response: Any) -> None:
    try:
        await context.write(response)
    except grpc.aio.InternalError as error:  # the caller went away with the message on its way
        raise asyncio.CancelledError from error


def _wire_status(error: AcestepError) -> grpc.Status:
    """The status, and for gRPC's own retries when to try again."""
    status: Any = rpc_status.to_status(to_status(error))
    pushback = error.pushback_milliseconds
    if pushback is not None:
        status = status._replace(trailing_metadata=(*status.trailing_metadata, (PUSHBACK_KEY, str(pushback))))
    wire: grpc.Status = status
    return wire


def _write_ready_file(path: Path, content: dict[str, int]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content))
    os.replace(partial, path)  # readers see nothing or all of it


@dataclass(frozen=True)
class _Unreadable:
    """Bytes that are no message of the method."""

    num_bytes: int
    reason: str


def _or_unreadable(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """A deserializer that never raises: gRPC would answer UNKNOWN with the parser's words."""

    def read(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError as error:
            return _Unreadable(len(data), str(error))

    return read


def _readable(message: Any) -> Any:
    """The message.

    Raises:
        InvalidRequest: Its bytes were none.
    """
    if isinstance(message, _Unreadable):
        raise InvalidRequest("request", f"{message.num_bytes} bytes", f"an encoded message of the method ({message.reason})")
    return message


async def _each_readable(messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for message in messages:
        yield _readable(message)


class _Gate(grpc.aio.ServerInterceptor):
    """Admits calls, counts those that run, and turns exceptions into statuses. Health checks are neither counted nor refused.

    Args:
        max_calls: That may run at a time.
        allowed_clients: Names in certificates of callers, one of which they need; empty: none.
        guard: Asked before each call.
    """

    def __init__(self, max_calls: int, allowed_clients: Sequence[str], guard: Guard | None) -> None:
        self._max_calls = max_calls
        self._allowed_clients = allowed_clients
        self._guard = guard
        self.draining = False
        self.running = 0
        self.idle = asyncio.Event()
        self.idle.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        service, _, method = handler_call_details.method.lstrip("/").partition("/")
        if handler is None:
            return handler
        kinds = {
            (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
            (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
            (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
            (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
        }
        make, behaviour = kinds[handler.request_streaming, handler.response_streaming]
        given = _each_readable if handler.request_streaming else _readable

        async def pass_on(request: Any, context: Any) -> Any:
            try:
                result = behaviour(given(request), context)
                if not inspect.isasyncgen(result):
                    return await result
                async with contextlib.aclosing(result) as responses:
                    async for response in responses:
                        await _write(context, response)
            except NotImplementedError:  # as generated base classes do, for what the library of health checks does not have
                await context.abort_with_status(_wire_status(Unimplemented(f"{service}/{method} is not built yet")))
            except AcestepError as error:
                await context.abort_with_status(_wire_status(error))

        async def respond(request: Any, context: Any) -> Any:
            self.running += 1
            self.idle.clear()
            try:
                with observe_call(service, method, context, at_edge=True):
                    await self._admit(f"{service}/{method}", context)
                    if not handler.response_streaming:
                        return await behaviour(given(request), context)
                    async with contextlib.aclosing(behaviour(given(request), context)) as responses:
                        async for response in responses:
                            await _write(context, response)
                    return None
            except AcestepError as error:
                await context.abort_with_status(_wire_status(error))
            finally:
                self.running -= 1
                if self.running == 0:
                    self.idle.set()

        open_to_all = self._guard is None and not self._allowed_clients
        uncounted = service == health.SERVICE_NAME or (service == reflection.SERVICE_NAME and open_to_all)
        return make(  # streams of these end with their connections and are nobody's work
            pass_on if uncounted else respond,
            request_deserializer=_or_unreadable(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    async def _admit(self, method: str, context: Any) -> None:
        if self.draining:
            raise StageUnavailable("this replica is shutting down")
        if self.running > self._max_calls:
            raise Overloaded(f"{self._max_calls} calls run here already")
        if self._allowed_clients:
            check_client(context, self._allowed_clients)
        if self._guard is not None:
            await self._guard(method, context)
