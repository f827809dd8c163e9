"""Previews of one request: clean estimates decoded beside the sampling, one at a time, each a file of its own."""

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from acestep_rpc.errors import AcestepError, StageError
from acestep_rpc.telemetry import PREVIEWS, log
from acestep_rpc.v1 import diffusion_pb2, music_pb2, vae_pb2
from orchestrator.audio import CHANNELS, EncodingFailed, Waveform, open_writer, read_waveform
from orchestrator.plan import Plan
from orchestrator.song_file import MAX_CHUNK_BYTES
from orchestrator.stages import Stages

T = TypeVar("T")
_NEWS = object()
_READ_AHEAD = 2  # items that a stream may be ahead of its reader


class Previews:
    """Takes estimates as they come and gives the files that are done.

    While one is decoded, of each variant only the newest waits: the song goes on, and what was heard too late is not worth hearing.

    Args:
        plan: What is made.
        stages: Who decodes.
        window: Seconds (start, end) of the song that are heard.
        seconds: Predicted time of one decode.
        deadline: Of the request, a time.monotonic(); None: none.
        put_back: Gives a stretch of a repaint what it keeps of its source, by the waveform and its first sample; None: nothing is kept.
    """

    def __init__(
        self,
        plan: Plan,
        stages: Stages,
        window: tuple[float, float],
        seconds: float,
        deadline: float | None,
        put_back: Callable[[Waveform, int], Waveform] | None,
    ) -> None:
        self._plan = plan
        self._stages = stages
        self._window = window
        self._seconds = seconds
        self._deadline = deadline
        self._put_back = put_back
        self._taken: set[tuple[int, int]] = set()
        self._waiting: dict[int, diffusion_pb2.SamplePreview] = {}
        self._work: asyncio.Task[None] | None = None
        self._chunks: deque[music_pb2.AudioChunk] = deque()
        self._came: asyncio.Queue[Any] = asyncio.Queue()
        self._writing = asyncio.Lock()  # held from the end of a decode until its chunks are there
        self.warnings: list[str] = []
        """What could not be heard, and why."""

    def add(self, estimate: diffusion_pb2.SamplePreview) -> None:
        """Decode an estimate as soon as it is its turn; one that was taken before, as after a retry, is left."""
        variant = estimate.variant_index
        if (variant, estimate.step) in self._taken:
            return
        self._taken.add((variant, estimate.step))
        self.drop(variant)
        self._waiting[variant] = estimate
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._decode_waiting())

    def drop(self, variant: int) -> None:
        """Forget what waits of a variant: there is something newer to hear."""
        if self._waiting.pop(variant, None) is not None:
            PREVIEWS.labels("replaced").inc()

    async def beside(self, items: AsyncGenerator[T, None]) -> AsyncGenerator[T | music_pb2.AudioChunk, None]:
        """The items of a stream, and between them chunks of previews as they are done."""
        came: asyncio.Queue[T | object] = asyncio.Queue()
        self._came = came
        room, end = asyncio.Semaphore(_READ_AHEAD), object()

        async def read() -> None:
            """A task of its own: the stream goes on while its reader is busy."""
            try:
                async with contextlib.aclosing(items):
                    async for item in items:
                        await room.acquire()
                        came.put_nowait(item)
            finally:
                came.put_nowait(end)

        reading = asyncio.create_task(read())
        try:
            while (item := await came.get()) is not end:
                while self._chunks:
                    yield self._chunks.popleft()
                if item is not _NEWS:
                    room.release()
                    yield cast(T, item)
            await reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def rest(self) -> list[music_pb2.AudioChunk]:
        """Chunks of what is decoded and was not given yet; what is still decoded is too late."""
        async with self._writing:
            return list(self._chunks)

    async def aclose(self) -> None:
        """Stop what is under way."""
        self._waiting.clear()
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    async def _decode_waiting(self) -> None:
        while self._waiting:
            variant = next(iter(self._waiting))
            estimate = self._waiting.pop(variant)
            try:
                await self._decode(estimate)
            except Exception as error:  # whatever it is, the song goes on without
                PREVIEWS.labels("failed").inc()
                cause = None if isinstance(error, AcestepError | EncodingFailed) else error
                log("preview_failed", level=logging.ERROR, exception=cause, variant=variant, step=estimate.step, error=str(error))
                what = "written" if isinstance(error, EncodingFailed) else "decoded"
                self.warnings.append(f"output.preview: of variant {variant} after step {estimate.step}: it could not be {what}")

    async def _decode(self, estimate: diffusion_pb2.SamplePreview) -> None:
        request = vae_pb2.DecodeLatentsRequest(latents=estimate.latents, sample_rate=self._plan.sample_rate)
        waveforms: list[Waveform] = []
        async with contextlib.aclosing(self._stages.decode(request, self._deadline, self._seconds)) as pieces:
            async for piece in pieces:
                waveforms.append(read_waveform(piece))
        async with self._writing:
            self._chunks.extend(await asyncio.to_thread(self._write, estimate, waveforms))
            self._came.put_nowait(_NEWS)
            PREVIEWS.labels("sent").inc()

    def _write(self, estimate: diffusion_pb2.SamplePreview, waveforms: Sequence[Waveform]) -> list[music_pb2.AudioChunk]:
        rate, (start_seconds, end_seconds) = self._plan.sample_rate, self._window
        start, end = round(start_seconds * rate), round(end_seconds * rate)
        before = max(round((start_seconds - estimate.start_seconds) * rate), 0)
        waveform = np.concatenate([np.zeros((CHANNELS, 0), np.float32), *waveforms], axis=1)[:, before : before + end - start]
        if self._put_back is not None:
            waveform = self._put_back(waveform, start)
        if not waveform.shape[1]:
            raise StageError("the vae stage sent too few samples for a preview")
        seed = self._plan.seeds[estimate.variant_index]
        account = {"preview_step": estimate.step, "start_seconds": start_seconds, "end_seconds": end_seconds, "seed": seed}
        writer = open_writer(self._plan.audio_format, rate, waveform.shape[1], json.dumps(account))
        file = writer.write(waveform) + writer.close()
        return [
            music_pb2.AudioChunk(
                variant_index=estimate.variant_index,
                offset=offset,
                data=file[offset : offset + MAX_CHUNK_BYTES],
                preview_step=estimate.step,
                last=offset + MAX_CHUNK_BYTES >= len(file),
            )
            for offset in range(0, len(file), MAX_CHUNK_BYTES)
        ]
