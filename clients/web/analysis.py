"""What a song looks like: peaks of its waveform, and its mel spectrogram as a picture. Numpy alone."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

NUM_PEAKS = 1000
_PICTURE_WIDTH, _PICTURE_HEIGHT = 1000, 96  # pixels; the height is the number of mel bands
_WINDOW = 2048
_LOWEST_HERTZ = 30.0
_RANGE_DECIBELS = 80.0
# Dark to bright, even steps of lightness.
_COLOURS = np.array([[16, 18, 32], [52, 38, 104], [130, 50, 125], [214, 88, 96], [250, 166, 98], [254, 236, 190]], dtype=np.float64)

Samples = NDArray[np.float32]


def read_audio(path: Path) -> tuple[Samples, int]:
    """Samples of all channels averaged [S], and their rate in Hz.

    Raises:
        soundfile.LibsndfileError: It is no audio that libsndfile reads.
    """
    samples, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    return samples.mean(axis=1), sample_rate


def peaks(samples: Samples, count: int = NUM_PEAKS) -> list[float]:
    """Largest magnitude in each of so many stretches of equal length, 0 to 1."""
    if not len(samples):
        return []
    starts = np.unique(np.linspace(0, len(samples), min(count, len(samples)), endpoint=False).astype(int))
    highest = np.maximum.reduceat(np.abs(samples), starts)
    return [round(float(value), 3) for value in np.clip(highest, 0, 1)]


def mel_picture(samples: Samples, sample_rate: int) -> bytes:
    """The log-mel spectrogram as PNG: time to the right, low bands below."""
    power = _mel_power(samples, sample_rate)
    level = 10 * np.log10(np.maximum(power, 1e-10))
    shade = np.clip((level - level.max()) / _RANGE_DECIBELS + 1, 0, 1)[::-1]
    place = np.linspace(0, 1, len(_COLOURS))
    pixels = np.stack([np.interp(shade, place, _COLOURS[:, channel]) for channel in range(3)], axis=-1).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((_PICTURE_WIDTH, _PICTURE_HEIGHT), Image.Resampling.BILINEAR).save(out, format="PNG")
    return out.getvalue()


def describe(path: Path) -> dict[str, Any]:
    """Peaks and length of a file."""
    samples, sample_rate = read_audio(path)
    return {"peaks": peaks(samples), "duration": len(samples) / sample_rate}


def _mel_power(samples: Samples, sample_rate: int) -> NDArray[np.float64]:
    """[bands, frames]; frames are as many as the picture is wide, or fewer for a short song."""
    padded = np.pad(samples, (0, max(0, _WINDOW - len(samples))))
    starts = np.unique(np.linspace(0, len(padded) - _WINDOW, _PICTURE_WIDTH).astype(int))
    window = np.hanning(_WINDOW).astype(np.float32)
    frames = np.stack([padded[start : start + _WINDOW] * window for start in starts])
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    mel: NDArray[np.float64] = _mel_filters(sample_rate, power.shape[1]) @ power.T
    return mel


def _mel_filters(sample_rate: int, num_bins: int) -> NDArray[np.float64]:
    """Triangles [bands, bins] of equal area, evenly spaced in mel."""
    hertz = np.linspace(0, sample_rate / 2, num_bins)
    lowest, highest = (2595 * np.log10(1 + f / 700) for f in (_LOWEST_HERTZ, sample_rate / 2))
    edges = 700 * (10 ** (np.linspace(lowest, highest, _PICTURE_HEIGHT + 2) / 2595) - 1)
    # A low triangle may be narrower than a bin: it is widened to one, so that no band is empty.
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    width = hertz[1]
    rising = (hertz - centre) / np.maximum(centre - left, width) + 1
    falling = (centre - hertz) / np.maximum(right - centre, width) + 1
    triangles = np.clip(np.minimum(rising, falling), 0, None)
    filters: NDArray[np.float64] = triangles / np.maximum(triangles.sum(axis=1, keepdims=True), 1e-12)
    return filters
