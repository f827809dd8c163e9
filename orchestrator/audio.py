"""Waveforms to audio files, piece by piece, with the receipt inside. Knows formats and samples, not where they come from.

    wav                       header, samples as they come, LIST/INFO/ICMT chunk with the receipt: sizes are known before the first sample
    flac, mp3, ogg            written by libsndfile, handed out when all samples are there; the receipt is the comment

S samples.
"""

import contextlib
import io
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import soundfile

from acestep_rpc.errors import StageError
from acestep_rpc.v1 import music_pb2, tensor_pb2, vae_pb2

Waveform = npt.NDArray[np.float32]
"""[2, S] float32, full scale -1 to 1."""

CHANNELS = 2


class AudioWriter(Protocol):
    """One file in the making."""

    def write(self, waveform: Waveform) -> bytes:
        """Take the next samples [2, S]; returns the bytes of the file that are ready, maybe none."""

    def close(self) -> bytes:
        """End the file; returns its last bytes, at least one."""


def audio_type(start: bytes) -> str:
    """Content type of a file, by its first bytes."""
    kinds = {b"RIFF": "audio/wav", b"fLaC": "audio/flac", b"OggS": "audio/ogg", b"ID3": "audio/mpeg", b"\xff": "audio/mpeg"}
    return next((kind for magic, kind in kinds.items() if start.startswith(magic)), "application/octet-stream")


class EncodingFailed(Exception):
    """A compressed format cannot be written; no byte of the file has left."""


def open_writer(audio_format: music_pb2.AudioFormat, sample_rate: int, total_samples: int, receipt: str) -> AudioWriter:
    """Begin a file.

    Args:
        audio_format: Never unspecified.
        sample_rate: In Hz.
        total_samples: Samples per channel that will be written.
        receipt: ASCII text to put inside.
    """
    if audio_format in _SAMPLES:
        return WavWriter(_SAMPLES[audio_format], sample_rate, total_samples, receipt)
    return SoundFileWriter(_CONTAINERS[audio_format], sample_rate, receipt)


def read_waveform(message: vae_pb2.DecodeLatentsResponse | vae_pb2.ReadAudioResponse) -> Waveform:
    """The samples of a piece that the vae stage sent.

    Raises:
        StageError: They are no finite float32 [2, S]: such a song is an error, never silence.
    """
    tensor = message.waveform
    shape = tuple(tensor.shape)
    if tensor.data_type != tensor_pb2.DATA_TYPE_FLOAT32 or len(shape) != 2 or shape[0] != CHANNELS or len(tensor.data) != 8 * shape[1]:
        raise StageError(f"the vae stage sent a waveform of type {tensor.data_type}, shape {list(shape)} and {len(tensor.data)} bytes")
    waveform = np.frombuffer(tensor.data, dtype="<f4").reshape(shape)
    if not np.isfinite(waveform).all():
        raise StageError("the vae stage sent a waveform with values that are not finite")
    return waveform


def _to_integers(waveform: Waveform, bits: int) -> npt.NDArray[np.int32]:
    """Round to signed integers; what exceeds full scale is clipped, never wrapped."""
    full_scale = 2 ** (bits - 1)
    rounded = np.rint(waveform.astype(np.float64) * full_scale)
    integers: npt.NDArray[np.int32] = np.clip(rounded, -full_scale, full_scale - 1).astype(np.int32)
    return integers


@dataclass(frozen=True)
class _Samples:
    """How a WAV file holds samples.

    Args:
        format_tag: 1 integers, 3 IEEE floats.
        bits: Of one sample.
        to_bytes: [S, 2] interleaved.
    """

    format_tag: int
    bits: int
    to_bytes: Callable[[Waveform], bytes]


def _pcm24_bytes(waveform: Waveform) -> bytes:
    low_bytes_first = np.ascontiguousarray(_to_integers(waveform, 24).T, dtype="<i4").view(np.uint8).reshape(-1, 4)
    return low_bytes_first[:, :3].tobytes()


_SAMPLES = {
    music_pb2.AUDIO_FORMAT_WAV_PCM16: _Samples(1, 16, lambda waveform: _to_integers(waveform, 16).T.astype("<i2").tobytes()),
    music_pb2.AUDIO_FORMAT_WAV_PCM24: _Samples(1, 24, _pcm24_bytes),
    music_pb2.AUDIO_FORMAT_WAV_FLOAT32: _Samples(3, 32, lambda waveform: waveform.T.astype("<f4").tobytes()),
}


EXACT_FORMATS = (*_SAMPLES, music_pb2.AUDIO_FORMAT_FLAC)
"""Formats that give back as many samples as were written, each near what it was; the lossy ones also pad and shift."""


class WavWriter:
    """RIFF WAVE whose header is right from the first byte.

    Args:
        samples: How samples are held.
        sample_rate: In Hz.
        total_samples: Per channel.
        receipt: ASCII text.
    """

    def __init__(self, samples: _Samples, sample_rate: int, total_samples: int, receipt: str) -> None:
        self._samples = samples
        self._samples_left = total_samples
        text = receipt.encode("ascii")
        text += b"\0" * (2 - len(text) % 2)  # a NUL ends the text, and RIFF wants an even size
        self._trailer = _chunk(b"LIST", b"INFO" + _chunk(b"ICMT", text))
        frame_bytes = CHANNELS * samples.bits // 8  # even, so the data chunk never needs a pad byte
        layout = struct.pack("<HHIIHH", samples.format_tag, CHANNELS, sample_rate, sample_rate * frame_bytes, frame_bytes, samples.bits)
        if samples.format_tag == 1:
            chunks = _chunk(b"fmt ", layout)
        else:  # other formats state the size of an extension and the number of samples
            chunks = _chunk(b"fmt ", layout + struct.pack("<H", 0)) + _chunk(b"fact", struct.pack("<I", total_samples))
        data_bytes = total_samples * frame_bytes
        riff_bytes = 4 + len(chunks) + 8 + data_bytes + len(self._trailer)
        self._header = struct.pack("<4sI4s", b"RIFF", riff_bytes, b"WAVE") + chunks + struct.pack("<4sI", b"data", data_bytes)

    def write(self, waveform: Waveform) -> bytes:
        """See AudioWriter."""
        self._samples_left -= waveform.shape[1]
        assert self._samples_left >= 0, "more samples than announced"
        header, self._header = self._header, b""
        return header + self._samples.to_bytes(waveform)

    def close(self) -> bytes:
        """See AudioWriter."""
        assert self._samples_left == 0, f"{self._samples_left} samples are missing"
        header, self._header = self._header, b""
        return header + self._trailer


def _chunk(name: bytes, content: bytes) -> bytes:
    assert len(content) % 2 == 0, "no chunk of ours is of odd size"
    return struct.pack("<4sI", name, len(content)) + content


@dataclass(frozen=True)
class _Container:
    """What libsndfile is asked for.

    Args:
        container: Major format.
        subtype: Encoding of the samples.
        compression_level: 0 (largest) to 1. The lossy ones make 200 to 250 kbit/s of dense music: no difference to be heard.
        max_comment_bytes: Longest comment that is written.
    """

    container: str
    subtype: str
    compression_level: float
    max_comment_bytes: int = 1 << 20


_CONTAINERS = {
    music_pb2.AUDIO_FORMAT_FLAC: _Container("FLAC", "PCM_24", 0.5),
    music_pb2.AUDIO_FORMAT_MP3: _Container("MP3", "MPEG_LAYER_III", 0.1),
    music_pb2.AUDIO_FORMAT_OGG_VORBIS: _Container("OGG", "VORBIS", 0.2),
    # libsndfile cannot open opus files again whose comment fills an Ogg page, some 60 kB
    music_pb2.AUDIO_FORMAT_OGG_OPUS: _Container("OGG", "OPUS", 0.6, max_comment_bytes=48_000),
}


class SoundFileWriter:
    """A file that libsndfile compresses as samples come. It goes back to its header at the end, so no byte is ready before.

    Args:
        container: What to write.
        sample_rate: In Hz.
        receipt: ASCII text; one that the format cannot hold stays out of the file.
    """

    def __init__(self, container: _Container, sample_rate: int, receipt: str) -> None:
        self._container = container
        self._bytes = io.BytesIO()
        with _encoding():
            self._file = soundfile.SoundFile(
                self._bytes,
                "w",
                sample_rate,
                CHANNELS,
                container.subtype,
                format=container.container,
                compression_level=container.compression_level,
            )
            if len(receipt) <= container.max_comment_bytes:
                self._file.comment = receipt

    def write(self, waveform: Waveform) -> bytes:
        """See AudioWriter."""
        with _encoding():
            if self._container.subtype == "PCM_24":
                self._file.write(_to_integers(waveform, 24).T << 8)  # libsndfile takes the upper 24 bits; its own conversion wraps
            else:
                self._file.write(np.clip(waveform, -1.0, 1.0).T)
        return b""

    def close(self) -> bytes:
        """See AudioWriter."""
        with _encoding():
            self._file.close()
        return self._bytes.getvalue()


def num_latent_frames(file: Path) -> int:
    """Latent frames that the codec makes of an audio file, from the file's own account of itself."""
    duration_seconds: float = soundfile.info(str(file)).duration
    return math.ceil(duration_seconds * 44100 / 4096)


@contextlib.contextmanager
def _encoding() -> Iterator[None]:
    """What libsndfile refuses; ValueError is its Python side, for a format that this build does not have."""
    try:
        yield
    except (soundfile.SoundFileError, ValueError) as error:
        raise EncodingFailed(str(error)) from error
