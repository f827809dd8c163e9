"""Audio files from strangers to waveforms, through soundfile. What a file's header claims is checked, never trusted."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

from acestep_rpc.errors import InvalidRequest

MAX_CHANNELS = 2
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 8000, 192000
MAX_PEAK = 100.0
"""Full scale is 1; float files run a little over it. Far above lie integers stored as floats, which would come out as noise."""

_BLOCK_FRAMES = 1 << 16
_CLAIMED_SIZE = re.compile(r"(\d+) \(should be (\d+)\)")  # libsndfile's log of a RIFF, AIFF, AU, CAF or W64 chunk of a wrong size
_SIZE_SLACK = 8  # bytes; writers err by the chunk's own header
_SIZE_UNKNOWN = range(0xFFFFFFFF, 0x100000000)  # written by programs that cannot go back to the header
_LAST_PAGE = 0x04  # flag of an Ogg page
_MAX_PAGE_BYTES = 65307


class UnusableAudio(InvalidRequest):
    """A file is no audio, damaged, or not what this project hears."""


@dataclass(frozen=True)
class AudioFile:
    """A decoded file.

    Args:
        waveform: [C, S] float32, C 1 or 2.
        sample_rate: In Hz.
        clipped: There is more in the file.
    """

    waveform: torch.Tensor
    sample_rate: int
    clipped: bool = False

    @property
    def duration_seconds(self) -> float:
        """Length."""
        return self.waveform.shape[1] / self.sample_rate


def read_audio(path: Path, max_duration_seconds: float, clip: bool = False) -> AudioFile:
    """Decode a file.

    Args:
        path: Its format is told by its content.
        max_duration_seconds: Reading stops as soon as it is longer.
        clip: A longer file is cut to this length instead of refused; whether the rest is whole is then not known.
    Raises:
        UnusableAudio: No audio file, damaged, cut off, empty, too long without `clip`, more than two channels, or values that are no
            audio.
    """
    try:
        with soundfile.SoundFile(path) as file:
            if file.channels > MAX_CHANNELS:
                raise UnusableAudio("data", f"{file.channels} channels", "mono or stereo; mix it down first")
            if not MIN_SAMPLE_RATE <= file.samplerate <= MAX_SAMPLE_RATE:
                raise UnusableAudio("data", f"{file.samplerate} Hz", f"{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz")
            samples, clipped = _read_frames(file, max_duration_seconds, clip)
            sample_rate: int = file.samplerate
            if not clipped:
                _check_complete(file, path, len(samples))
    except soundfile.SoundFileError as error:
        raise UnusableAudio("data", str(error).strip() or "damaged", "a complete audio file that libsndfile reads") from error
    if len(samples) == 0:
        raise UnusableAudio("data", "0 samples", "at least one")
    peak = float(np.abs(samples).max())
    if not peak <= MAX_PEAK:  # also false for NaN
        raise UnusableAudio("data", f"samples up to {peak:g}", f"finite samples within -{MAX_PEAK:g} to {MAX_PEAK:g}; full scale is 1")
    return AudioFile(torch.from_numpy(samples).t().contiguous(), sample_rate, clipped)


def _read_frames(
    file: soundfile.SoundFile, max_duration_seconds: float, clip: bool
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float32]], bool]:
    """All frames, [S, C], or the first ones, and whether there are more."""
    max_frames = int(max_duration_seconds * file.samplerate)
    blocks = []
    num_frames = 0
    while num_frames <= max_frames and len(block := file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
        num_frames += len(block)
        blocks.append(block)
    if num_frames > max_frames and not clip:
        raise UnusableAudio("data", f"more than {max_duration_seconds:g} seconds", f"at most {max_duration_seconds:g} seconds")
    frames = np.concatenate(blocks) if blocks else np.zeros((0, file.channels), np.float32)
    return frames[:max_frames], num_frames > max_frames


def _check_complete(file: soundfile.SoundFile, path: Path, num_frames: int) -> None:
    """Refuse a file that ends before its header says; libsndfile itself plays such files up to the cut."""
    cut_off = any(
        int(claimed) > int(actual) + _SIZE_SLACK and int(claimed) not in _SIZE_UNKNOWN
        for claimed, actual in _CLAIMED_SIZE.findall(file.extra_info)
    )
    if file.format == "OGG":
        cut_off = cut_off or not _ends_with_last_page(path)
    elif file.format != "MP3":  # whose length is often only an estimate
        cut_off = cut_off or num_frames < file.frames
    if cut_off:
        raise UnusableAudio("data", f"{file.format} file that is cut off after {num_frames} frames", "a complete file")


def _ends_with_last_page(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 2 * _MAX_PAGE_BYTES))
        end = file.read()
    page = end.rfind(b"OggS")
    return page >= 0 and len(end) > page + 5 and bool(end[page + 5] & _LAST_PAGE)
