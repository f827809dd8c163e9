"""A slow reader holds up nobody else, and gets everything in its order."""

import asyncio
import contextlib

import pytest

from acestep_rpc.errors import StageError
from acestep_rpc.v1 import music_pb2
from orchestrator.read_ahead import ReadAhead

CHUNK = 1000


class Maker:
    """Makes so many events, and records how far it got and how it ended."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.count, self.error = count, error
        self.made, self.closed = 0, False

    async def events(self):
        try:
            for number in range(self.count):
                self.made += 1
                yield music_pb2.GenerateEvent(sequence=number + 1, audio_chunk=music_pb2.AudioChunk(data=bytes([number % 256]) * CHUNK))
                await asyncio.sleep(0)
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_events_are_made_while_nobody_reads_and_come_in_order():
    maker, ahead = Maker(300), ReadAhead(memory_bytes=5 * CHUNK)
    async with contextlib.aclosing(ahead.read(maker.events())) as events:
        first = await anext(events)
        await until(lambda: maker.closed)
        assert ahead.file_bytes > 250 * CHUNK
        read = [first, *[event async for event in events]]
    assert [event.sequence for event in read] == list(range(1, 301))
    assert all(event.audio_chunk.data == bytes([number % 256]) * CHUNK for number, event in enumerate(read))
    assert ahead.file_bytes == 0


async def test_a_reader_that_keeps_pace_needs_no_file():
    maker, ahead = Maker(50), ReadAhead(memory_bytes=5 * CHUNK)
    async for event in ahead.read(maker.events()):
        assert maker.made <= event.sequence + 5
        assert ahead.file_bytes == 0


async def test_files_that_are_full_slow_their_makers_down():
    makers, ahead = [Maker(100) for _ in range(3)], ReadAhead(memory_bytes=2 * CHUNK, max_file_bytes=10 * CHUNK)
    async with contextlib.AsyncExitStack() as stack:
        calls = [await stack.enter_async_context(contextlib.aclosing(ahead.read(maker.events()))) for maker in makers]
        read = [[await anext(call)] for call in calls]
        await asyncio.sleep(0.2)
        assert not any(maker.closed for maker in makers)
        assert ahead.file_bytes < 14 * CHUNK
        for events, call in zip(read, calls, strict=True):
            events += [event async for event in call]
    assert [[event.sequence for event in events] for events in read] == [list(range(1, 101))] * 3
    assert ahead.file_bytes == 0


async def test_the_error_comes_after_the_events_before_it():
    maker, ahead = Maker(20, StageError("no more")), ReadAhead(memory_bytes=2 * CHUNK)
    async with contextlib.aclosing(ahead.read(maker.events())) as events:
        assert [(await anext(events)).sequence for _ in range(20)] == list(range(1, 21))
        with pytest.raises(StageError, match="no more"):
            await anext(events)


async def test_a_reader_that_goes_ends_the_making_and_its_file():
    maker, ahead = Maker(100_000), ReadAhead(memory_bytes=CHUNK)
    async with contextlib.aclosing(ahead.read(maker.events())) as events:
        await anext(events)
        await until(lambda: ahead.file_bytes > 10 * CHUNK)
    assert maker.closed
    assert maker.made < 100_000
    assert ahead.file_bytes == 0
