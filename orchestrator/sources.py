"""Audio that a task starts from: taken in, checked, and turned to latents once per codec."""

import asyncio
import contextlib
import hashlib
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from acestep_rpc.errors import InvalidRequest, NotFound, StageError
from acestep_rpc.v1 import music_pb2, vae_pb2
from orchestrator.assets import READ_BYTES, AssetStore
from orchestrator.audio import CHANNELS, EXACT_FORMATS, num_latent_frames, read_waveform
from orchestrator.results import Results, is_result
from orchestrator.stages import Stages
from orchestrator.tasks import Repaint, Task, source_of

Place = Callable[[str], Awaitable[str]]
"""From the name of a kept song to its name in the store. Raises NotFound."""


async def _as_named(name: str) -> str:
    return name


class Sources:
    """Uploads and kept songs, and their latents.

    Args:
        assets: Where they are kept.
        stages: The codec among them checks a file by encoding it.
        place: Where a kept song is.
    """

    def __init__(self, assets: AssetStore, stages: Stages, place: Place = _as_named) -> None:
        self._assets = assets
        self._stages = stages
        self._place = place
        self.results = Results(assets)
        """Kept songs, which are sources too."""

    async def of_task(
        self, task: Task, sample_rate: int, deadline: float | None
    ) -> tuple[vae_pb2.EncodeAudioResponse | None, npt.NDArray[np.float32] | None]:
        """What a task starts from: its source's latents, and the samples of one that is spliced back in; None for what it does not need.

        Raises:
            NotFound: There is no such source.
            InvalidRequest: It cannot be used so.
        """
        name = source_of(task)
        source = await self.latents(name, deadline) if name else None
        spliced = isinstance(task, Repaint) and task.splice_source
        return source, await self.waveform(name, sample_rate, deadline) if spliced else None

    async def check(self, task: Task, deadline: float | None) -> vae_pb2.EncodeAudioResponse | None:
        """What `of_task` would refuse is refused; the latents of the source, if there is one.

        Raises:
            NotFound: There is no such source.
            InvalidRequest: It cannot be used so.
        """
        name = source_of(task)
        if is_result(name) and isinstance(task, Repaint) and task.splice_source:
            await self._check_exact(await self._place(name))
        return await self.latents(name, deadline) if name else None

    async def num_frames(self, task: Task, codec_digest: str) -> int:
        """Latent frames of what a task starts from, found without any stage; 0: it starts from nothing.

        Args:
            task: What is done.
            codec_digest: Of the present codec.
        Raises:
            NotFound: There is no such source.
        """
        name = source_of(task)
        if not name:
            return 0
        place, key = (await self._place(name), "latents") if is_result(name) else (name, codec_digest)
        known = await self._assets.record(place, key)
        if known is not None:
            return int(vae_pb2.EncodeAudioResponse.FromString(known).latents.shape[2])
        if is_result(name):
            raise NotFound("result", name)
        with tempfile.NamedTemporaryFile(prefix="acestep-source-") as spool:  # stored under another codec
            async for data in self._assets.read(name):
                await asyncio.to_thread(spool.write, data)
            spool.flush()
            return await asyncio.to_thread(num_latent_frames, Path(spool.name))

    async def upload(self, requests: AsyncIterator[music_pb2.UploadAudioRequest], deadline: float | None) -> music_pb2.UploadAudioResponse:
        """Take a file in. It is stored only when the codec could encode it, and with what that gave.

        Raises:
            InvalidRequest: It is too large, no audio, damaged, or not the file that its digest says.
        """
        vae = (await self._stages.describe(deadline))[2]
        limit, digest, size, promised = int(vae.limits["max_file_bytes"]), hashlib.sha256(), 0, ""
        with tempfile.NamedTemporaryFile(prefix="acestep-upload-") as spool:
            async for request in requests:
                promised = promised or request.sha256.lower()
                size += len(request.data)
                if size > limit:
                    raise InvalidRequest("data", f"{size} bytes so far", f"at most {limit} bytes")
                digest.update(request.data)
                await asyncio.to_thread(spool.write, request.data)
            spool.flush()
            if promised and promised != digest.hexdigest():
                raise InvalidRequest("sha256", promised, f"the digest of the bytes that came, {digest.hexdigest()}")
            path = Path(spool.name)
            encoded = await self._stages.encode_audio(lambda: _read_file(path), deadline)
            name = await self._assets.add(path, digest.hexdigest())
        await self._assets.add_record(name, vae.model_digest, encoded.SerializeToString())
        return music_pb2.UploadAudioResponse(
            name=name, duration_seconds=encoded.duration_seconds, sample_rate=encoded.sample_rate, channels=encoded.channels
        )

    async def download(self, name: str, offset: int) -> AsyncGenerator[music_pb2.DownloadAudioResponse, None]:
        """Bytes of an upload or a kept song from an offset on.

        Raises:
            NotFound: There is none of that name.
            InvalidRequest: The offset is behind its end.
        """
        name = await self._place(name) if is_result(name) else name
        size = await self._assets.size(name)
        async for data in self._assets.read(name, offset):
            yield music_pb2.DownloadAudioResponse(offset=offset, data=data, size_bytes=size)
            offset += len(data)

    async def latents(self, name: str, deadline: float | None) -> vae_pb2.EncodeAudioResponse:
        """What the present codec makes of an upload: known, or encoded now and kept. Of a kept song, the latents that it was decoded from.

        Raises:
            NotFound: There is none of that name.
        """
        if is_result(name):
            kept = await self._assets.record(await self._place(name), "latents")
            if kept is None:
                raise NotFound("result", name)
            return vae_pb2.EncodeAudioResponse.FromString(kept)
        codec_digest = (await self._stages.describe(deadline))[2].model_digest
        known = await self._assets.record(name, codec_digest)
        if known is not None:
            return vae_pb2.EncodeAudioResponse.FromString(known)
        await self._assets.size(name)  # a name without a file is told apart from a codec that fails
        encoded = await self._stages.encode_audio(lambda: self._assets.read(name), deadline)
        await self._assets.add_record(name, codec_digest, encoded.SerializeToString())
        return encoded

    async def waveform(self, name: str, sample_rate: int, deadline: float | None) -> npt.NDArray[np.float32]:
        """Samples of an upload or a kept song, [S, 2] float32 at a rate, in a file that goes with the array.

        Raises:
            NotFound: There is none of that name.
            InvalidRequest: The song was kept in a format that is not exact: its samples are not where its latents say.
            StageError: The vae stage left some out.
        """
        if is_result(name):
            name = await self._place(name)
            await self._check_exact(name)
        with tempfile.TemporaryFile(prefix="acestep-waveform-") as spool:
            total = written = 0
            async with contextlib.aclosing(self._stages.read_audio(lambda: self._assets.read(name), sample_rate, deadline)) as pieces:
                async for piece in pieces:
                    total, waveform = piece.total_samples, read_waveform(piece)
                    written += waveform.shape[1]
                    await asyncio.to_thread(spool.write, waveform.T.tobytes())
            spool.flush()
            if not written or written != total:
                raise StageError(f"the vae stage sent {written} of {total} samples of {name}")
            return np.memmap(spool, dtype="<f4", mode="r", shape=(total, CHANNELS))

    async def _check_exact(self, place: str) -> None:
        song = music_pb2.Song.FromString(await self._assets.record(place, "song") or b"")
        if song.format not in EXACT_FORMATS:
            raise InvalidRequest("repaint.splice_source", True, "false for a source that was kept as mp3 or ogg: they move samples")


async def _read_file(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while data := await asyncio.to_thread(file.read, READ_BYTES):
            yield data
