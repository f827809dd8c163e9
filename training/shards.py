"""Preprocessed songs on disk: everything a training step needs, computed once. No frozen network is loaded to read them.

A dataset is a folder of safetensors files, each with a few dozen songs, and `manifest.json`, which lists the files with their digests.
A song's tensors are named KEY/latents, KEY/text.0 ... and so on; crops are read from the mapped file without reading the rest.

T latent frames of a song, L text tokens, W text width, N lyric tokens, S speaker width, F and C frames and channels of a feature.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

MANIFEST = "manifest.json"
FORMAT = 1


class DatasetError(ValueError):
    """A dataset folder is missing, damaged or empty; the message names the file."""


@dataclass(frozen=True)
class PreparedSong:
    """One song, or the part of it that a step trains on.

    Attributes:
        key: Unique in its dataset; no slash.
        latents: Normalised, [8, 16, T].
        texts: Text states of each caption, [L, W] each; a step draws one of them.
        captions: What they say.
        lyric_ids: [N] int64; none: [0].
        speaker: [S]; zeros: none.
        features: Projection targets by the name of their encoder, [F, C].
        crop_starts: Frames where a crop may begin, ascending int64; None: anywhere.
        lyric_lines: Rows (first frame, end frame, first id, end id) of each sung line, so that a crop keeps the lines that sound in it and
            the ids before the first line; None: a crop keeps all ids.
    """

    key: str
    latents: Tensor
    texts: tuple[Tensor, ...]
    captions: tuple[str, ...]
    lyric_ids: Tensor
    speaker: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    crop_starts: Tensor | None = None
    lyric_lines: Tensor | None = None

    @property
    def num_frames(self) -> int:
        """T."""
        return self.latents.shape[-1]


def write_shard(folder: Path, songs: Sequence[PreparedSong]) -> dict[str, Any]:
    """Write one file, named by the digest of its content; it appears whole or not at all.

    Returns:
        Its entry of the manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    entries = []
    for song in songs:
        if "/" in song.key:
            raise ValueError(f"the key {song.key!r} has a slash")
        values = {"latents": song.latents, "lyric_ids": song.lyric_ids, "speaker": song.speaker}
        values |= {f"text.{index}": text for index, text in enumerate(song.texts)}
        values |= {f"features.{name}": value for name, value in song.features.items()}
        values |= {} if song.crop_starts is None else {"crop_starts": song.crop_starts}
        values |= {} if song.lyric_lines is None else {"lyric_lines": song.lyric_lines}
        tensors |= {f"{song.key}/{name}": value.contiguous() for name, value in values.items()}
        entries.append({"key": song.key, "num_frames": song.num_frames, "captions": list(song.captions)})
    partial = folder / f".shard-{os.getpid()}.part"
    save_file(tensors, partial, metadata={"songs": json.dumps(entries)})
    digest = file_digest(partial)
    name = f"{digest[:16]}.safetensors"
    os.replace(partial, folder / name)
    return {"file": name, "sha256": digest, "songs": entries}


def write_manifest(folder: Path, shards: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    """Write the list of shards, whole or not at all.

    Args:
        folder: Of the dataset.
        shards: Entries from `write_shard`, in the order in which songs are numbered.
        about: What made the dataset: digests and settings.
    """
    partial = folder / f".{MANIFEST}.{os.getpid()}"
    partial.write_text(json.dumps({"format": FORMAT, "about": dict(about), "shards": list(shards)}, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, folder / MANIFEST)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ShardedDataset:
    """The songs of a dataset folder, by number.

    Args:
        folder: With a manifest.
    Raises:
        DatasetError: No manifest, or one that cannot be read, or no songs.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise DatasetError(f"{path}: format {manifest['format']}, this version reads {FORMAT}")
            self._shards = [folder / shard["file"] for shard in manifest["shards"]]
            self._songs = [(number, song) for number, shard in enumerate(manifest["shards"]) for song in shard["songs"]]
            self.about: Mapping[str, Any] = manifest["about"]
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise DatasetError(f"{path}: {error!r}") from error
        if not self._songs:
            raise DatasetError(f"{path} lists no songs")
        self._open: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._songs)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # file handles stay in their process

    @cached_property
    def num_frames(self) -> tuple[int, ...]:
        """Length of every song, T."""
        return tuple(song["num_frames"] for _, song in self._songs)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Key of every song."""
        return tuple(song["key"] for _, song in self._songs)

    def read(self, number: int, caption: int, start: int, length: int) -> PreparedSong:
        """Read a crop under one of its captions.

        Args:
            number: Of the song.
            caption: Its number, taken modulo the captions the song has.
            start: First frame; ignored where the song is not longer than the crop.
            length: Frames; a shorter song is read whole.
        Raises:
            DatasetError: The file is missing or damaged.
        """
        shard, entry = self._songs[number]
        path, prefix = self._shards[shard], f"{entry['key']}/"
        try:
            if shard not in self._open:
                self._open[shard] = safe_open(path, framework="pt")
            file = self._open[shard]
            names = [name.removeprefix(prefix) for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - not a mapping
            total = entry["num_frames"]
            length = min(length, total)
            start = min(start, total - length)
            caption %= len(entry["captions"])
            features = {}
            for name in names:
                if name.startswith("features."):
                    slices = file.get_slice(prefix + name)
                    rows = slices.get_shape()[0]
                    first, last = start * rows // total, -(-(start + length) * rows // total)
                    features[name.removeprefix("features.")] = slices[first:last].float()
            song = PreparedSong(
                key=entry["key"],
                latents=file.get_slice(prefix + "latents")[:, :, start : start + length].float(),
                texts=(file.get_tensor(f"{prefix}text.{caption}").float(),),
                captions=(entry["captions"][caption],),
                lyric_ids=file.get_tensor(prefix + "lyric_ids").long(),
                speaker=file.get_tensor(prefix + "speaker").float(),
                features=features,
                lyric_lines=file.get_tensor(prefix + "lyric_lines") if "lyric_lines" in names else None,
            )
        except (OSError, SafetensorError) as error:
            raise DatasetError(f"{path}, song {entry['key']}: {error}") from error
        return _keep_sounding_lines(song, start, start + length)

    def crop_starts(self, number: int) -> Tensor | None:
        """Frames where a crop of the song may begin; None: anywhere."""
        return self._tensor(number, "crop_starts")

    def lyrics(self, number: int) -> tuple[Tensor, Tensor | None]:
        """All lyric ids of the song, and the rows of its sung lines."""
        ids = self._tensor(number, "lyric_ids")
        assert ids is not None
        return ids, self._tensor(number, "lyric_lines")

    def _tensor(self, number: int, what: str) -> Tensor | None:
        shard, entry = self._songs[number]
        name = f"{entry['key']}/{what}"
        try:
            if shard not in self._open:
                self._open[shard] = safe_open(self._shards[shard], framework="pt")
            file = self._open[shard]
            return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise DatasetError(f"{self._shards[shard]}, song {entry['key']}: {error}") from error


def _keep_sounding_lines(song: PreparedSong, start: int, end: int) -> PreparedSong:
    """Leave out the ids of lines that sound outside a crop altogether; a line that is cut stays."""
    if song.lyric_lines is None or not len(song.lyric_lines):
        return song
    kept = [song.lyric_ids[: int(song.lyric_lines[0, 2])]]
    kept += [song.lyric_ids[first:last] for a, b, first, last in song.lyric_lines.tolist() if a < end and b > start]
    return PreparedSong(**{**song.__dict__, "lyric_ids": torch.cat(kept), "lyric_lines": None})
