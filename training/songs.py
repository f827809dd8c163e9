"""What a record names, loaded and held against limits: audio, speaker's vector, lyric ids. Every reason against a song has a name.

Files come from strangers: headers are not believed, nothing is unpickled. S samples.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from encoder_svc.lyrics.lyric_tokenizer import LyricTokenizer
from training.lyric_ids import MAX_LYRIC_TOKENS, UnsupportedLanguage, training_lyric_ids
from training.records import Record
from training.report import Outcome, Problem
from vae_svc.audio_file import AudioFile, UnusableAudio, read_audio

MAX_SECONDS = 240.0
MIN_SECONDS = 0.15
"""Shorter songs, padded to 3 s, would be more than 95 % zeros."""
MAX_ZERO_SHARE = 0.95
MIN_RMS = 1e-4
"""-80 dB of full scale: below the dither of a 16-bit recording played at any useful level."""
SPEAKER_WIDTH = 512
_UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, KeyError, pickle.UnpicklingError, SafetensorError)

_Loaded = TypeVar("_Loaded")


@dataclass(frozen=True)
class Limits:
    """What a song may be, and what happens to one that is more.

    Attributes:
        max_seconds: Of audio.
        clip_audio: Keep the beginning of longer audio; else the song is rejected.
        max_lyric_tokens: Of lyrics.
        clip_lyrics: Keep the beginning of longer lyrics; else the song is rejected.
        speaker_width: Values of a speaker's vector.
    """

    max_seconds: float = MAX_SECONDS
    clip_audio: bool = True
    max_lyric_tokens: int = MAX_LYRIC_TOKENS
    clip_lyrics: bool = True
    speaker_width: int = SPEAKER_WIDTH


@dataclass(frozen=True)
class LoadedSong:
    """A usable song.

    Attributes:
        record: Where it comes from.
        audio: No longer than the limit.
        speaker: [speaker_width] float32; zeros: none.
        lyric_ids: As training wants them.
    """

    record: Record
    audio: AudioFile
    speaker: Tensor
    lyric_ids: tuple[int, ...]


class _Refused(Exception):
    """A part of the song cannot be used as it is."""

    def __init__(self, field: str, reason: str, detail: str = "") -> None:
        super().__init__(field, reason, detail)
        self.problem = Problem("", field, reason, detail)


def load_song(record: Record, limits: Limits, tokenizer: LyricTokenizer) -> tuple[LoadedSong | None, list[Problem]]:
    """Load a song.

    Returns:
        The song, None if it cannot be used, and everything that is wrong with it.
    """
    problems: list[Problem] = []

    def attempt(load: Callable[[], tuple[_Loaded, _Refused | None]]) -> _Loaded | None:
        try:
            loaded, clipped = load()
        except _Refused as refused:
            problems.append(replace(refused.problem, key=record.key))
            return None
        if clipped is not None:
            problems.append(replace(clipped.problem, key=record.key, outcome=Outcome.CLIPPED))
        return loaded

    audio = attempt(lambda: _load_audio(Path(record.filename), limits))
    speaker = attempt(lambda: (_load_speaker(record.speaker_emb_path, limits.speaker_width), None))
    ids = attempt(lambda: _lyric_ids(record.norm_lyrics, limits, tokenizer))
    if audio is None or speaker is None or ids is None:
        return None, problems
    return LoadedSong(record, audio, speaker, ids), problems


def _load_audio(path: Path, limits: Limits) -> tuple[AudioFile, _Refused | None]:
    if not path.is_file():
        raise _Refused("filename", "no such file", str(path))
    try:
        audio = read_audio(path, limits.max_seconds, clip=True)
    except (UnusableAudio, OSError) as error:
        raise _Refused("filename", "cannot be decoded", f"{path}: {str(error).removeprefix('data: ')}") from error
    too_long = None
    if audio.clipped:
        too_long = _Refused("filename", f"longer than {limits.max_seconds:g} seconds", str(path))
        if not limits.clip_audio:
            raise too_long
    if audio.duration_seconds < MIN_SECONDS:
        raise _Refused("filename", "too short", f"{audio.duration_seconds:.3f} seconds, {MIN_SECONDS:g} are needed: {path}")
    zeros = (audio.waveform == 0).all(0).float().mean().item()
    if zeros > MAX_ZERO_SHARE:
        raise _Refused("filename", "silent", f"{zeros:.1%} of the samples are zero: {path}")
    rms = audio.waveform.double().square().mean().sqrt().item()
    if rms < MIN_RMS:
        raise _Refused("filename", "silent", f"{20 * np.log10(rms):.0f} dB of full scale: {path}")
    return audio, too_long


def _load_speaker(name: str, width: int) -> Tensor:
    """Vector of a .npy, .safetensors or .pt file, without running what a pickle may hold."""
    if not name:
        return torch.zeros(width)
    path = Path(name)
    if not path.is_file():
        raise _Refused("speaker_emb_path", "no such file", name)
    try:
        match path.suffix:
            case ".npy":
                value = torch.from_numpy(np.load(path, allow_pickle=False))
            case ".safetensors":
                (value,) = load_file(path).values()
            case ".pt" | ".pth":
                value = torch.load(path, map_location="cpu", weights_only=True)
            case suffix:
                raise _Refused("speaker_emb_path", "not a .npy, .safetensors or .pt file", suffix)
    except _UNREADABLE as error:
        raise _Refused("speaker_emb_path", "cannot be read safely", f"{name}: {error}".splitlines()[0]) from error
    except TypeError as error:  # numpy's object arrays have no tensor
        raise _Refused("speaker_emb_path", "not a tensor", f"{name}: {error}") from error
    if not isinstance(value, Tensor) or value.is_complex() or value.numel() != width:
        found = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise _Refused("speaker_emb_path", f"not {width} values", f"{name}: {found}")
    value = value.detach().float().reshape(width)
    if not bool(value.isfinite().all()):
        raise _Refused("speaker_emb_path", "not finite", name)
    return value


def _lyric_ids(lyrics: str, limits: Limits, tokenizer: LyricTokenizer) -> tuple[tuple[int, ...], _Refused | None]:
    try:
        encoded = training_lyric_ids(lyrics, tokenizer, limits.max_lyric_tokens)
    except UnsupportedLanguage as error:
        raise _Refused("norm_lyrics", "cannot be read in any language that is built", str(error)) from error
    if encoded.total <= limits.max_lyric_tokens:
        return encoded.ids, None
    too_long = _Refused("norm_lyrics", f"more than {limits.max_lyric_tokens} tokens", f"{encoded.total}")
    if not limits.clip_lyrics:
        raise too_long
    return encoded.ids, too_long
