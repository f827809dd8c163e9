"""Songs on their way in: each grows in memory or under a temporary name, and is a song only when its bytes are proven whole."""

import hashlib
import io
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from acestep_client.errors import BrokenTransfer
from acestep_client.songs import Result, Song, parameters_path, write_receipt
from acestep_rpc.v1 import music_pb2

OnProgress = Callable[[music_pb2.Progress], None]


@dataclass(frozen=True)
class Preview:
    """A stretch of a song as it sounds so far, a file of its own.

    Attributes:
        variant_index: Of which song, from 0.
        step: After which it was decoded.
        content: The file's bytes, or where the file is: song.preview-05.wav beside song.wav.
    """

    variant_index: int
    step: int
    content: bytes | Path = field(repr=False)


OnPreview = Callable[[Preview], None]


class ArrivingSongs:
    """The songs of one request. On leaving the context, unfinished files are removed.

    Args:
        output: Path of the song; several variants become song_0.wav, song_1.wav, ... None: songs stay in memory.
        wanted: Format that the path is named for. A song that the server could only keep as wav becomes song.wav. None: whatever comes.
    """

    def __init__(self, output: Path | None = None, wanted: music_pb2.AudioFormat | None = None) -> None:
        self._output = output
        self._wanted = wanted
        self._variants: list[_Variant] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for variant in self._variants:
            variant.discard()

    def accept(self, num_variants: int) -> None:
        """Make room for each variant."""
        for index in range(num_variants):
            self._variants.append(_Variant(f"variant {index}", variant_path(self._output, index, num_variants)))

    def write(self, chunk: music_pb2.AudioChunk) -> Preview | None:
        """Append a chunk; returns a preview that is whole with it.

        Raises:
            BrokenTransfer: It is not the next one of its variant, or of its preview.
        """
        if chunk.variant_index >= len(self._variants):
            raise BrokenTransfer(f"the server sent audio of variant {chunk.variant_index} and announced {len(self._variants)} variants")
        variant = self._variants[chunk.variant_index]
        if chunk.HasField("preview_step"):
            return variant.preview(chunk)
        variant.append(chunk)
        return None

    def finish(self, songs: Sequence[music_pb2.Song]) -> list[Song]:
        """Check every song against its account; then files get their names, and receipts are written beside them.

        Raises:
            BrokenTransfer: A size or digest differs, or a variant has no song.
        """
        if sorted(song.variant_index for song in songs) != list(range(len(self._variants))):
            raise BrokenTransfer(f"the server finished {len(songs)} songs and announced {len(self._variants)}")
        for song in songs:
            self._variants[song.variant_index].verify(song)
            if self._wanted is not None and song.format == music_pb2.AUDIO_FORMAT_WAV_PCM16 != self._wanted:
                self._variants[song.variant_index].rename(".wav")
        return [self._variants[song.variant_index].publish(song) for song in songs]


def variant_path(output: Path | None, index: int, num_variants: int) -> Path | None:
    """Where a variant goes: its number is in the name unless it is the only one."""
    if output is None or num_variants == 1:
        return output
    return output.with_name(f"{output.stem}_{index}{output.suffix}")


async def receive(
    events: AsyncIterator[music_pb2.GenerateEvent],
    songs: ArrivingSongs,
    on_progress: OnProgress | None = None,
    on_preview: OnPreview | None = None,
) -> Result:
    """Take all that a server sends of a request.

    Raises:
        BrokenTransfer: Something is missing.
    """
    completed: music_pb2.GenerateEvent | None = None
    async for event in events:
        match event.WhichOneof("event"):
            case "accepted":
                songs.accept(len(event.accepted.seeds))
            case "progress" if on_progress is not None:
                on_progress(event.progress)
            case "audio_chunk":
                preview = songs.write(event.audio_chunk)
                if preview is not None and on_preview is not None:
                    on_preview(preview)
            case "completed":
                completed = event
    if completed is None:
        raise BrokenTransfer("the server ended the call without a result")
    return make_result(completed.request_id, completed.completed, songs.finish(completed.completed.songs))


def make_result(request_id: str, message: music_pb2.GenerateResult, songs: Sequence[Song]) -> Result:
    """The result of these songs."""
    return Result(request_id, songs, tuple(message.warnings), tuple(message.lyric_lines), tuple(message.lyric_changes))


class _Variant:
    """One growing song."""

    def __init__(self, label: str, path: Path | None) -> None:
        self._label = label if path is None else str(path)
        self._path = path
        self._digest = hashlib.sha256()
        self._size = 0
        self._file: BinaryIO = io.BytesIO()
        self._previews: dict[int, bytes] = {}
        if path is not None:
            self._partial = path.with_name(f".{path.name}.{os.getpid()}.part")
            self._partial_receipt = path.with_name(f".{parameters_path(path).name}.{os.getpid()}.part")
            self._file = self._partial.open("wb")

    def append(self, chunk: music_pb2.AudioChunk) -> None:
        if chunk.offset != self._size:
            raise BrokenTransfer(f"{self._label}: audio is missing: received {self._size} bytes, the next chunk starts at {chunk.offset}")
        self._file.write(chunk.data)
        self._digest.update(chunk.data)
        self._size += len(chunk.data)

    def preview(self, chunk: music_pb2.AudioChunk) -> Preview | None:
        if chunk.offset == 0:  # a job's preview may come again, where its server was lost
            self._previews[chunk.preview_step] = b""
        received = self._previews.get(chunk.preview_step, b"")
        if chunk.offset != len(received):
            raise BrokenTransfer(
                f"{self._label}: a preview is cut: received {len(received)} bytes, the next chunk starts at {chunk.offset}"
            )
        self._previews[chunk.preview_step] = received + chunk.data
        if not chunk.last:
            return None
        content = self._previews.pop(chunk.preview_step)
        if self._path is None:
            return Preview(chunk.variant_index, chunk.preview_step, content)
        path = self._path.with_suffix(f".preview-{chunk.preview_step:02}{self._path.suffix}")
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        partial.write_bytes(content)
        return Preview(chunk.variant_index, chunk.preview_step, partial.replace(path))

    def verify(self, song: music_pb2.Song) -> None:
        if self._size != song.size_bytes:
            raise BrokenTransfer(f"{self._label}: received {self._size} bytes of {song.size_bytes}")
        if self._digest.hexdigest() != song.sha256:
            raise BrokenTransfer(
                f"{self._label}: SHA-256 of the received audio is {self._digest.hexdigest()}, the server sent {song.sha256}"
            )

    def rename(self, suffix: str) -> None:
        self._path = self._path.with_suffix(suffix) if self._path is not None else None

    def publish(self, song: music_pb2.Song) -> Song:
        if self._path is None:
            assert isinstance(self._file, io.BytesIO)
            return Song(song, self._file.getvalue())
        write_receipt(self._path, song, self._partial_receipt)
        self._file.close()
        self._partial.replace(self._path)
        self._partial_receipt.replace(parameters_path(self._path))
        return Song(song, self._path)

    def discard(self) -> None:
        self._file.close()
        if self._path is not None:
            self._partial.unlink(missing_ok=True)
            self._partial_receipt.unlink(missing_ok=True)
