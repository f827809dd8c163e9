"""Files of the server on this machine's disk, for the browser to play, draw and download."""

import asyncio
import hashlib
from pathlib import Path

import soundfile

from acestep_client import AsyncClient
from acestep_rpc.errors import InvalidRequest

_MAX_BYTES = 2 << 30

# Extension, media type, and what soundfile calls it.
FORMATS = {
    "wav": ("wav", "audio/wav", "WAV", "PCM_16"),
    "wav24": ("wav", "audio/wav", "WAV", "PCM_24"),
    "wav32f": ("wav", "audio/wav", "WAV", "FLOAT"),
    "flac": ("flac", "audio/flac", "FLAC", "PCM_24"),
    "mp3": ("mp3", "audio/mpeg", "MP3", "MPEG_LAYER_III"),
    "ogg": ("ogg", "audio/ogg", "OGG", "VORBIS"),
    "opus": ("opus", "audio/ogg", "OGG", "OPUS"),
}
"""Formats that a song can be downloaded in; the names are those of requests."""
_KINDS = {"WAV": "audio/wav", "WAVEX": "audio/wav", "FLAC": "audio/flac", "MP3": "audio/mpeg", "OGG": "audio/ogg"}
_EXTENSIONS = {"WAV": "wav", "WAVEX": "wav", "FLAC": "flac", "MP3": "mp3", "OGG": "ogg"}


class SongCache:
    """Downloads a name once for each owner; the least recently used files go first.

    Args:
        folder: For the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._locks: dict[Path, asyncio.Lock] = {}

    async def fetch(self, owner: str, client: AsyncClient, name: str) -> Path:
        """The file of "assets/..." or "operations/.../results/0".

        Raises:
            AcestepError: The server does not give it.
        """
        path = self._path(owner, name, "audio")
        async with self._locks.setdefault(path, asyncio.Lock()):
            if not path.exists():
                partial = path.with_suffix(".part")
                with partial.open("wb") as file:
                    async for data in client.read(name):
                        file.write(data)
                partial.replace(path)
                self._make_room(path)
        path.touch()
        return path

    async def converted(self, owner: str, client: AsyncClient, name: str, wanted: str) -> Path:
        """The same song in another format.

        Raises:
            InvalidRequest: No such format.
        """
        if wanted not in FORMATS:
            raise InvalidRequest("format", wanted, ", ".join(FORMATS))
        source = await self.fetch(owner, client, name)
        path = self._path(owner, name, wanted)
        async with self._locks.setdefault(path, asyncio.Lock()):
            if not path.exists():
                await asyncio.to_thread(_convert, source, path, wanted)
                self._make_room(path)
        path.touch()
        return path

    def _path(self, owner: str, name: str, kind: str) -> Path:
        return self._folder / f"{hashlib.sha256(f'{owner}/{name}'.encode()).hexdigest()}.{kind}"

    def _make_room(self, newest: Path) -> None:
        files = sorted((file for file in self._folder.iterdir() if file != newest), key=lambda file: file.stat().st_mtime)
        excess = sum(file.stat().st_size for file in (*files, newest)) - _MAX_BYTES
        for file in files:
            if excess <= 0:
                return
            excess -= file.stat().st_size
            file.unlink()
            self._locks.pop(file, None)


def media_type(path: Path) -> str:
    """Of a file with audio.

    Raises:
        soundfile.LibsndfileError: It is none that libsndfile reads.
    """
    return _KINDS.get(soundfile.info(path).format, "application/octet-stream")


def extension(path: Path) -> str:
    """Usual ending of the name of such a file."""
    info = soundfile.info(path)
    return "opus" if info.subtype == "OPUS" else _EXTENSIONS.get(info.format, "audio")


def _convert(source: Path, path: Path, wanted: str) -> None:
    _, _, container, subtype = FORMATS[wanted]
    samples, sample_rate = soundfile.read(source, dtype="float32", always_2d=True)
    partial = path.with_name(f"{path.name}.part")
    soundfile.write(partial, samples, sample_rate, format=container, subtype=subtype)
    partial.replace(path)
