"""Songs in the making. A run belongs to the server of the page and not to a tab of a browser: a page that is loaded anew finds it again."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import Enum

from acestep_client import AsyncClient
from acestep_rpc.errors import AcestepError
from acestep_rpc.v1 import music_pb2

_KEPT_RUNS = 256
_KEPT_AUDIO = 4  # runs that ended, whose bytes a player may still be reading
_PLAYABLE = (
    music_pb2.AUDIO_FORMAT_UNSPECIFIED,
    music_pb2.AUDIO_FORMAT_WAV_PCM16,
    music_pb2.AUDIO_FORMAT_WAV_PCM24,
    music_pb2.AUDIO_FORMAT_WAV_FLOAT32,
)
"""Formats that can be played before they are whole."""


class State(Enum):
    """How a run stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass
class Run:
    """One request on its way."""

    owner: str
    request: music_pb2.GenerateRequest
    state: State = State.RUNNING
    progress: music_pb2.Progress = field(default_factory=lambda: music_pb2.Progress(stage=music_pb2.STAGE_QUEUED))
    seeds: tuple[int, ...] = ()
    audio: dict[int, bytearray] = field(default_factory=dict)
    """Bytes of each song so far, by its index; none of formats that cannot be played before they are whole."""
    result: music_pb2.GenerateResult | None = None
    error: AcestepError | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    @property
    def request_id(self) -> str:
        """Its name, here and on the server."""
        return self.request.request_id

    def start(self, client: AsyncClient) -> None:
        """Send the request."""
        self._task = asyncio.create_task(self._receive(client))

    async def cancel(self) -> None:
        """End the call, and so the work on the server; returns when it has ended."""
        if self._task is not None and self.state is State.RUNNING:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def changes(self) -> AsyncIterator[None]:
        """Once at first, then whenever something has happened; ends with the run."""
        while True:
            changed = self._changed
            yield
            if self.state is not State.RUNNING:
                return
            await changed.wait()

    async def bytes_of(self, variant_index: int) -> AsyncIterator[bytes]:
        """A song's file as it grows, to its end; it stops short when the run fails."""
        sent = 0
        async for _ in self.changes():
            data = self.audio.get(variant_index, b"")
            if len(data) > sent:
                piece, sent = bytes(data[sent:]), len(data)
                yield piece

    async def _receive(self, client: AsyncClient) -> None:
        try:
            async with aclosing(client.stream(self.request)) as events:
                async for event in events:
                    self._take(event)
                    self._notify()
            self.state = State.DONE if self.result is not None else State.FAILED
        except asyncio.CancelledError:
            self.state = State.CANCELLED
            raise
        except AcestepError as error:
            self.state, self.error = State.FAILED, error
        finally:
            if self.state is not State.DONE:
                self.audio.clear()
            self._notify()

    def _take(self, event: music_pb2.GenerateEvent) -> None:
        match event.WhichOneof("event"):
            case "accepted":
                self.seeds = tuple(event.accepted.seeds)
            case "progress":
                self.progress = event.progress
            case "audio_chunk" if not event.audio_chunk.HasField("preview_step") and self.request.output.format in _PLAYABLE:
                self.audio.setdefault(event.audio_chunk.variant_index, bytearray()).extend(event.audio_chunk.data)
            case "completed":
                self.result = event.completed

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Runs:
    """All of them, the newest last; the oldest that ended are forgotten: their songs are on the server."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}

    def start(self, owner: str, client: AsyncClient, request: music_pb2.GenerateRequest) -> Run:
        """Send a request.

        Args:
            owner: Whose it is.
            client: Of the owner.
            request: Gets a name if it has none.
        """
        request.request_id = request.request_id or secrets.token_hex(8)
        ended = [name for name, run in self._runs.items() if run.state is not State.RUNNING]
        for name in ended[:-_KEPT_RUNS]:
            del self._runs[name]
        for name in ended[-_KEPT_RUNS:-_KEPT_AUDIO]:
            self._runs[name].audio.clear()
        run = self._runs[request.request_id] = Run(owner, request)
        run.start(client)
        return run

    def get(self, owner: str, request_id: str | None) -> Run | None:
        """A run, if it is there and the owner's."""
        run = self._runs.get(request_id or "")
        return run if run is not None and run.owner == owner else None

    def running(self, owner: str) -> list[Run]:
        """Those of the owner that have not ended."""
        return [run for run in self._runs.values() if run.owner == owner and run.state is State.RUNNING]

    async def close(self) -> None:
        """End what runs."""
        await asyncio.gather(*(run.cancel() for run in self._runs.values()))
