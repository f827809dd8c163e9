"""Channels over TLS and with credentials. Their certificates may be replaced: later calls use the new ones, others end as they began."""

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from acestep_rpc.tls import ClientTls, watch_client

AUTHORIZATION_KEY = "authorization"
_OLD_CALLS_SECONDS = 24 * 3600.0  # how long calls on a connection with the certificates of before may go on

Options = Sequence[tuple[str, Any]]


@dataclass(frozen=True)
class ClientSecurity:
    """What a client knows of the server and shows it.

    Args:
        tls: How the connection is secured; None: plain text.
        bearer: Asked at each call for the API key or token; empty: none is sent.
    """

    tls: ClientTls | None = None
    bearer: Callable[[], str] = field(default=lambda: "", repr=False)


class SecuredChannel(grpc.aio.Channel):
    """A channel that is another one whenever the files of its credentials change.

    Args:
        target: As of `connect`.
        security: Certificates and credentials.
        options: Of the channels.
    """

    def __init__(self, target: str, security: ClientSecurity, options: Options) -> None:
        self._target = target
        self._bearer = security.bearer
        self._credentials = watch_client(security.tls) if security.tls is not None else None
        name = security.tls.server_name if security.tls is not None else ""
        self._options = (*options, ("grpc.ssl_target_name_override", name)) if name else tuple(options)
        self._used: grpc.ChannelCredentials | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._channel: grpc.aio.Channel | None = None
        self.current()

    def current(self) -> grpc.aio.Channel:
        """The channel of new calls."""
        wanted = self._credentials.current() if self._credentials is not None else None
        if self._channel is None or wanted is not self._used:
            if self._channel is not None:
                leaving = asyncio.create_task(self._channel.close(_OLD_CALLS_SECONDS))
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)
            if wanted is None:
                self._channel = grpc.aio.insecure_channel(self._target, options=self._options)
            else:
                self._channel = grpc.aio.secure_channel(self._target, wanted, options=self._options)
            self._used = wanted
        return self._channel

    def metadata(self, given: Any) -> Any:
        """What a call sends."""
        bearer = self._bearer()
        return (*(given or ()), (AUTHORIZATION_KEY, f"Bearer {bearer}")) if bearer else given

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        """As grpc.aio.Channel has it."""
        return _UnaryUnary(self, "unary_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """As grpc.aio.Channel has it."""
        return _UnaryStream(self, "unary_stream", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """As grpc.aio.Channel has it."""
        return _StreamUnary(self, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """As grpc.aio.Channel has it."""
        return _StreamStream(self, "stream_stream", args, kwargs)

    async def close(self, grace: float | None = None) -> None:
        """End all calls, those on earlier channels too, after a time of grace."""
        assert self._channel is not None
        for leaving in self._leaving:
            leaving.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Of the channel of new calls."""
        return self.current().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Of the channel of new calls."""
        await self.current().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Of the channel of new calls."""
        await self.current().channel_ready()

    async def __aenter__(self) -> "SecuredChannel":
        return self

    async def __aexit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        await self.close()


class _Method:
    """One method: of the channel that is current when it is called."""

    def __init__(self, channel: SecuredChannel, kind: str, args: Any, kwargs: Any) -> None:
        self._channel = channel
        self._kind = kind
        self._args = args
        self._kwargs = kwargs
        self._made: tuple[grpc.aio.Channel, Any] | None = None

    def _call(self, request: Any, call: dict[str, Any]) -> Any:
        current = self._channel.current()
        if self._made is None or self._made[0] is not current:
            self._made = current, getattr(current, self._kind)(*self._args, **self._kwargs)
        return self._made[1](request, **call | {"metadata": self._channel.metadata(call.get("metadata"))})


_POSITIONAL = ("timeout", "metadata", "credentials", "wait_for_ready", "compression")  # of calls with a stream of requests


class _UnaryUnary(_Method, grpc.aio.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    def __call__(self, request: Any, **call: Any) -> Any:
        return self._call(request, call)


class _UnaryStream(_Method, grpc.aio.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    def __call__(self, request: Any, **call: Any) -> Any:
        return self._call(request, call)


class _StreamUnary(_Method, grpc.aio.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    def __call__(self, request_iterator: AsyncIterable[Any] | Iterable[Any] | None = None, *args: Any, **call: Any) -> Any:
        return self._call(request_iterator, call | dict(zip(_POSITIONAL, args, strict=False)))


class _StreamStream(_Method, grpc.aio.StreamStreamMultiCallable):  # type: ignore[type-arg]
    def __call__(self, request_iterator: AsyncIterable[Any] | Iterable[Any] | None = None, *args: Any, **call: Any) -> Any:
        return self._call(request_iterator, call | dict(zip(_POSITIONAL, args, strict=False)))
