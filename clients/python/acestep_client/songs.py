"""Songs as they come back: bytes or files, with their receipts; arrays with numpy, players in notebooks."""

import base64
import html
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acestep_client.requests import EXTENSIONS, FORMATS
from acestep_rpc.receipt import to_dict
from acestep_rpc.v1 import encoder_pb2, music_pb2

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_FORMAT_NAMES = {number: name for name, number in FORMATS.items()}
_MEDIA_TYPES = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "ogg": "audio/ogg", "opus": "audio/ogg"}
_SHOWN = ("prompt", "seed", "task", "infer_step", "guidance_scale", "scheduler_type", "cfg_type", "version")


@dataclass(frozen=True)
class Song:
    """One finished song.

    Attributes:
        info: What the server says of it: seed, format, rate, length, digest, name, receipt.
        content: The file's bytes, or where the file is.
    """

    info: music_pb2.Song
    content: bytes | Path = field(repr=False)

    @property
    def seed(self) -> int:
        """Of the song."""
        return self.info.seed

    @property
    def audio_format(self) -> str:
        """One of FORMATS."""
        return _FORMAT_NAMES[self.info.format]

    @property
    def duration_seconds(self) -> float:
        """Exact length."""
        return self.info.duration_seconds

    @property
    def name(self) -> str:
        """For `source` and `download`; empty when it was not kept on the server."""
        return self.info.name

    @property
    def receipt(self) -> dict[str, Any]:
        """Everything that is needed to make the song again."""
        return to_dict(self.info.receipt)

    def read(self) -> bytes:
        """The bytes of the file."""
        return self.content.read_bytes() if isinstance(self.content, Path) else self.content

    def save(self, path: str | Path) -> Path:
        """Write the file, and the receipt beside it as <stem>_input_params.json."""
        path = Path(path)
        path.write_bytes(self.read())
        write_receipt(path, self.info)
        return path

    def to_numpy(self) -> "tuple[npt.NDArray[np.float32], int]":
        """Samples [S, 2], full scale -1 to 1, and their rate in Hz.

        Raises:
            ModuleNotFoundError: The extra "client" (numpy and soundfile) is not installed.
        """
        try:
            import soundfile
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{error.name} is not installed; run: pip install 'acestep-serving[client]'", name=error.name
            ) from error
        samples, sample_rate = soundfile.read(io.BytesIO(self.read()), dtype="float32", always_2d=True)
        return samples, sample_rate

    def _repr_html_(self) -> str:
        media_type = _MEDIA_TYPES[EXTENSIONS[self.audio_format]]
        data = base64.b64encode(self.read()).decode("ascii")
        receipt = self.receipt
        facts = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(receipt[name]))}</td></tr>" for name in _SHOWN if name in receipt
        )
        return f'<audio controls src="data:{media_type};base64,{data}"></audio><table>{facts}</table>'


@dataclass(frozen=True)
class Result:
    """All songs of a request.

    Attributes:
        request_id: Its name, as given or drawn.
        songs: One a variant.
        warnings: What an author should know.
        lyric_lines: How each line of the lyrics was read.
        lyric_changes: Of an edit: which lines became which.
    """

    request_id: str
    songs: Sequence[Song]
    warnings: Sequence[str] = ()
    lyric_lines: Sequence[encoder_pb2.LyricLine] = field(default=(), repr=False)
    lyric_changes: Sequence[music_pb2.LyricChange] = field(default=(), repr=False)

    @property
    def song(self) -> Song:
        """The only one.

        Raises:
            ValueError: There are several.
        """
        (song,) = self.songs
        return song

    def __iter__(self) -> Iterator[Song]:
        return iter(self.songs)

    def __len__(self) -> int:
        return len(self.songs)

    def _repr_html_(self) -> str:
        warnings = "".join(f"<p>{html.escape(warning)}</p>" for warning in self.warnings)
        return "".join(song._repr_html_() for song in self.songs) + warnings


def parameters_path(path: Path) -> Path:
    """Where the receipt of a song's file goes."""
    return path.with_name(f"{path.stem}_input_params.json")


def write_receipt(path: Path, song: music_pb2.Song, to: Path | None = None) -> dict[str, Any]:
    """Write the receipt that belongs to a song's file; returns what was written.

    Args:
        path: Of the song.
        song: With the receipt.
        to: Written there instead of beside it.
    """
    receipt = to_dict(song.receipt) | {"audio_path": str(path)}
    (to or parameters_path(path)).write_text(json.dumps(receipt, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return receipt
