"""The client without asyncio: the same methods, which wait. For scripts, threads and notebooks, inside a running event loop too.

    with Client("localhost:7860") as client:
        client.generate(song_request("funk, bass, 105 bpm", duration_seconds=30), to="song.wav")

Nothing is written twice: each method runs that of `AsyncClient` on an event loop in a thread that all clients of the process share.
"""

import asyncio
import concurrent.futures
import functools
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypedDict, TypeVar, Unpack

from acestep_client.client import AsyncClient
from acestep_rpc.tls import ClientTls

_P = ParamSpec("_P")
_R = TypeVar("_R")
_CANCEL_SECONDS = 5.0  # for a call that Ctrl-C ends to tell the server


class Options(TypedDict, total=False):
    """Keywords of AsyncClient, which explains them."""

    tls: ClientTls | None
    api_key: str | Callable[[], str] | None
    connect_seconds: float
    reconnect_seconds: float
    retries: bool


def _waiting(method: Callable[Concatenate[AsyncClient, _P], Coroutine[Any, Any, _R]]) -> "Callable[Concatenate[Client, _P], _R]":
    """A method that waits for the answer. Ctrl-C cancels the call."""

    @functools.wraps(method)
    def call(self: "Client", /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return _run(method(self._client, *args, **kwargs))

    return call


def _iterating(
    method: Callable[Concatenate[AsyncClient, _P], AsyncGenerator[_R, None]],
) -> "Callable[Concatenate[Client, _P], Iterator[_R]]":
    """A method with a plain iterator. Leaving it early cancels the call, when the iterator is closed or forgotten."""

    @functools.wraps(method)
    def call(self: "Client", /, *args: _P.args, **kwargs: _P.kwargs) -> Iterator[_R]:
        items = method(self._client, *args, **kwargs)
        try:
            while (item := _run(_next(items))) is not _END:
                yield item
        finally:
            if threading.current_thread() is _thread():  # the garbage collector came by there
                _thread().loop.create_task(_close(items))
            else:
                _run(_close(items))

    return call


class Client:
    """A server's whole API, as `AsyncClient`, whose methods explain theirs. Callbacks run in another thread and must not call the client.

    Args:
        target: As "localhost:7860".
        **options: As of AsyncClient.
    """

    def __init__(self, target: str, **options: Unpack[Options]) -> None:
        async def connect() -> AsyncClient:
            return AsyncClient(target, **options)

        self.target = target
        """As given."""
        self._client = _run(connect())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    generate = _waiting(AsyncClient.generate)
    stream = _iterating(AsyncClient.stream)
    estimate = _waiting(AsyncClient.estimate)
    submit = _waiting(AsyncClient.submit)
    job = _waiting(AsyncClient.job)
    jobs = _iterating(AsyncClient.jobs)
    wait = _waiting(AsyncClient.wait)
    cancel = _waiting(AsyncClient.cancel)
    delete = _waiting(AsyncClient.delete)
    watch = _iterating(AsyncClient.watch)
    result = _waiting(AsyncClient.result)
    upload = _waiting(AsyncClient.upload)
    read = _iterating(AsyncClient.read)
    download = _waiting(AsyncClient.download)
    capabilities = _waiting(AsyncClient.capabilities)
    preview_lyrics = _waiting(AsyncClient.preview_lyrics)
    adapters = _waiting(AsyncClient.adapters)
    load_adapter = _waiting(AsyncClient.load_adapter)
    unload_adapter = _waiting(AsyncClient.unload_adapter)
    close = _waiting(AsyncClient.close)


class _End:
    """What comes after the last item."""


_END: Any = _End()


async def _next(items: AsyncGenerator[_R, None]) -> _R:
    return await anext(items, _END)


async def _close(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()


class _LoopThread(threading.Thread):
    """An event loop that runs as long as the process."""

    def __init__(self) -> None:
        super().__init__(name="acestep-client", daemon=True)
        self.process = os.getpid()
        self.loop = asyncio.new_event_loop()

    def run(self) -> None:
        self.loop.run_forever()


_starting = threading.Lock()
_shared: _LoopThread | None = None


def _thread() -> _LoopThread:
    """The thread of this process; one that was forked begins its own."""
    global _shared  # one a process is the point
    with _starting:
        if _shared is None or _shared.process != os.getpid():
            _shared = _LoopThread()
            _shared.start()
        return _shared


def _run(work: Coroutine[Any, Any, _R]) -> _R:
    """The result of work on the shared loop."""
    thread = _thread()
    if threading.current_thread() is thread:
        work.close()
        raise RuntimeError("a callback of the client must not call the client: it would wait for itself")
    task: asyncio.Task[_R] | None = None

    async def do() -> _R:
        nonlocal task
        task = asyncio.current_task()
        return await work

    future = asyncio.run_coroutine_threadsafe(do(), thread.loop)
    try:
        return future.result()
    except KeyboardInterrupt:
        thread.loop.call_soon_threadsafe(lambda: task.cancel() if task is not None else future.cancel())
        concurrent.futures.wait([future], _CANCEL_SECONDS)
        raise
