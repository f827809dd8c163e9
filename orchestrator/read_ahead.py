"""Events between who makes them and who reads them: a slow reader holds up nobody else.

Without it a song that its caller takes an hour to read would keep its stages, and what it holds there, for an hour. What is not read yet
waits in memory, and beyond a few megabytes in a file that goes with the call. All files together are bounded: when they are full, events
that would go there are made no faster than they are read.
"""

import asyncio
import contextlib
import os
import tempfile
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import IO, TypeVar

from acestep_rpc.v1 import music_pb2

MEMORY_BYTES = 4 << 20
"""Of one call, in memory: whoever keeps pace never needs a file."""
MAX_FILE_BYTES = 8 << 30
"""Of all calls, in files."""

T = TypeVar("T")
Events = AsyncGenerator[music_pb2.GenerateEvent, None]


class ReadAhead:
    """Lets calls be read later than they are made.

    Args:
        memory_bytes: Of one call, in memory.
        max_file_bytes: Of all calls, in files.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES, max_file_bytes: int = MAX_FILE_BYTES) -> None:
        self.memory_bytes = memory_bytes
        self.max_file_bytes = max_file_bytes
        self.file_bytes = 0
        """Of all calls, now."""

    async def read(self, events: Events) -> Events:
        """The events in their order, then the error that ended them, if one did; closing closes their maker too."""
        with contextlib.closing(_Waiting(self)) as waiting:
            making = asyncio.create_task(_make(events, waiting))
            try:
                while (event := await waiting.take()) is not None:
                    yield event
                await making
            finally:
                making.cancel()
                await asyncio.gather(making, return_exceptions=True)


async def _make(events: Events, waiting: "_Waiting") -> None:
    try:
        async with contextlib.aclosing(events):
            async for event in events:
                await waiting.put(event)
    finally:
        waiting.end()


class _Waiting:
    """Events of one call that were not read yet: the first ones in memory, and all after the first that had no room there in a file."""

    def __init__(self, limits: ReadAhead) -> None:
        self._limits = limits
        self._in_memory: deque[tuple[music_pb2.GenerateEvent, int]] = deque()
        self._memory_bytes = 0
        self._file: IO[bytes] | None = None
        self._file_lock = threading.Lock()  # a thread may still be at the file when its call is over
        self._in_file: deque[tuple[int, int]] = deque()  # place and size
        self._file_bytes = 0
        self._ended = False
        self._changed = asyncio.Event()

    async def put(self, event: music_pb2.GenerateEvent) -> None:
        """Take an event in, when there is room for it."""
        size = event.ByteSize()
        while self._file is not None or (self._in_memory and self._memory_bytes + size > self._limits.memory_bytes):
            if self._limits.file_bytes < self._limits.max_file_bytes or not (self._in_memory or self._in_file):
                await self._append(event.SerializeToString())
                break
            await self._change()
        else:
            self._in_memory.append((event, size))
            self._memory_bytes += size
        self._changed.set()

    async def take(self) -> music_pb2.GenerateEvent | None:
        """The next event; None after the last."""
        while not self._in_memory and not self._in_file:
            if self._ended:
                return None
            await self._change()
        if self._in_memory:
            event, size = self._in_memory.popleft()
            self._memory_bytes -= size
        else:
            place, size = self._in_file.popleft()
            event = music_pb2.GenerateEvent.FromString(await asyncio.to_thread(self._at_file, lambda file: os.pread(file, size, place)))
        self._changed.set()
        return event

    async def _append(self, data: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="acestep-events-")  # noqa: SIM115  # `close` does
        place = self._file_bytes
        self._file_bytes += len(data)
        self._limits.file_bytes += len(data)
        await asyncio.to_thread(self._at_file, lambda file: os.pwrite(file, data, place))
        self._in_file.append((place, len(data)))

    def _at_file(self, do: Callable[[int], T]) -> T:
        assert self._file is not None
        with self._file_lock:
            return do(self._file.fileno())  # of a closed file: ValueError, which nobody is left to see

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def end(self) -> None:
        """No more come."""
        self._ended = True
        self._changed.set()

    def close(self) -> None:
        """Forget what was not read."""
        self._limits.file_bytes -= self._file_bytes
        if self._file is not None:
            with self._file_lock:
                self._file.close()
