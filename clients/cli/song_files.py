"""Songs on disk: each variant grows under a temporary name and gets its own only when its bytes are proven whole; so does each preview."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from acestep_rpc.receipt import to_dict
from acestep_rpc.v1 import music_pb2
from clients.cli.failures import CommandFailed


class SongFiles:
    """The files of one request. On leaving the context, whatever is unfinished is removed.

    The preview of song.wav after step 5 is song.preview-05.wav beside it, there as soon as all of it has come.

    Args:
        output: Path of the song; several variants become song_0.wav, song_1.wav, ...
        wanted: Format that the path is named for. A song that the server could only keep as wav becomes song.wav. None: whatever comes.
    """

    def __init__(self, output: Path, wanted: music_pb2.AudioFormat | None = None) -> None:
        self._output = output
        self._wanted = wanted
        self._variants: list[_Variant] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for variant in self._variants:
            variant.discard()

    def accept(self, num_variants: int) -> None:
        """Open one temporary file per variant."""
        for index in range(num_variants):
            name = self._output.name if num_variants == 1 else f"{self._output.stem}_{index}{self._output.suffix}"
            self._variants.append(_Variant(self._output.with_name(name)))

    def write(self, chunk: music_pb2.AudioChunk) -> Path | None:
        """Append a chunk; returns the path of a preview that is whole with it.

        Raises:
            CommandFailed: It is not the next one of its variant, or of its preview.
        """
        if chunk.variant_index >= len(self._variants):
            raise CommandFailed(f"the server sent audio of variant {chunk.variant_index} and announced {len(self._variants)} variants")
        variant = self._variants[chunk.variant_index]
        if chunk.HasField("preview_step"):
            return variant.preview(chunk)
        variant.append(chunk)
        return None

    def finish(self, songs: Sequence[music_pb2.Song]) -> list[tuple[Path, dict[str, Any]]]:
        """Check every file against its song, then give all of them their names and write the receipts beside them.

        Returns:
            Path and receipt of each variant.
        Raises:
            CommandFailed: A size or digest differs, or a variant has no song.
        """
        if sorted(song.variant_index for song in songs) != list(range(len(self._variants))):
            raise CommandFailed(f"the server finished {len(songs)} songs and announced {len(self._variants)}")
        for song in songs:
            self._variants[song.variant_index].verify(song)
            if self._wanted is not None and song.format == music_pb2.AUDIO_FORMAT_WAV_PCM16 != self._wanted:
                self._variants[song.variant_index].rename(".wav")
        return [self._variants[song.variant_index].publish(song) for song in songs]


class _Variant:
    """One growing file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parameters_path = path.with_name(f"{path.stem}_input_params.json")
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._partial_parameters = path.with_name(f".{path.stem}_input_params.json.{os.getpid()}.part")
        self._file: BinaryIO = self._partial.open("wb")
        self._digest = hashlib.sha256()
        self._size = 0
        self._previews: dict[Path, bytes] = {}

    def append(self, chunk: music_pb2.AudioChunk) -> None:
        if chunk.offset != self._size:
            raise CommandFailed(f"{self._path}: audio is missing: received {self._size} bytes, the next chunk starts at {chunk.offset}")
        self._file.write(chunk.data)
        self._digest.update(chunk.data)
        self._size += len(chunk.data)

    def preview(self, chunk: music_pb2.AudioChunk) -> Path | None:
        path = self._path.with_suffix(f".preview-{chunk.preview_step:02}{self._path.suffix}")
        if chunk.offset == 0:  # a job's preview may come again, where its server was lost
            self._previews[path] = b""
        received = self._previews.get(path, b"")
        if chunk.offset != len(received):
            raise CommandFailed(f"{path}: audio is missing: received {len(received)} bytes, the next chunk starts at {chunk.offset}")
        self._previews[path] = received + chunk.data
        if not chunk.last:
            return None
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        partial.write_bytes(self._previews.pop(path))
        partial.replace(path)
        return path

    def verify(self, song: music_pb2.Song) -> None:
        if self._size != song.size_bytes:
            raise CommandFailed(f"{self._path}: received {self._size} bytes of {song.size_bytes}")
        if self._digest.hexdigest() != song.sha256:
            raise CommandFailed(f"{self._path}: SHA-256 of the received audio is {self._digest.hexdigest()}, the server sent {song.sha256}")

    def rename(self, suffix: str) -> None:
        self._path = self._path.with_suffix(suffix)

    def publish(self, song: music_pb2.Song) -> tuple[Path, dict[str, Any]]:
        receipt = to_dict(song.receipt) | {"audio_path": str(self._path)}
        self._partial_parameters.write_text(json.dumps(receipt, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        self._file.close()
        self._partial.replace(self._path)
        self._partial_parameters.replace(self._parameters_path)
        return self._path, receipt

    def discard(self) -> None:
        self._file.close()
        self._partial.unlink(missing_ok=True)
        self._partial_parameters.unlink(missing_ok=True)
