"""Are there notes, and in the right key? Texture of the right colour passes a genre classifier; these figures tell it from notes.

M mel bands, F mel frames, S samples at 44.1 kHz.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.corpus.theory import SCALES
from vae_svc.codec import SAMPLE_RATE

Array = NDArray[np.float64]

FLATNESS_BANDS, HARMONIC_BANDS = slice(8, 100), slice(8, 90)
ENVELOPE_BANDS = 9  # width of the smoothing over frequency that leaves the partials
PERSISTENCE_FRAMES = 16  # 186 ms; spectra of 2048 samples this far apart share none
CHROMA_FFT, CHROMA_HOP = 8192, 2048
CHROMA_HERTZ = (130.0, 2100.0)  # below, two semitones share a bin
SOUNDING = 1e-4  # of the loudest frame's power
TRITONE = 6


def flatness(mel: NDArray[np.float32]) -> float:
    """Geometric over arithmetic mean of the bands, median over frames: 1 for white noise in mel bands, small for partials."""
    log = mel[FLATNESS_BANDS].astype(np.float64)
    return float(np.median(np.exp(log.mean(axis=0)) / np.exp(log).mean(axis=0)))


def persistence(mel: NDArray[np.float32]) -> float:
    """How alike the partials are 186 ms later, mean cosine over frames: held notes keep theirs, texture does not."""
    log = mel[HARMONIC_BANDS].astype(np.float64)
    padded = np.pad(log, ((ENVELOPE_BANDS // 2, ENVELOPE_BANDS // 2), (0, 0)), mode="edge")
    smooth = np.lib.stride_tricks.sliding_window_view(padded, ENVELOPE_BANDS, axis=0).mean(axis=-1)
    partials = log - smooth
    early, late = partials[:, :-PERSISTENCE_FRAMES], partials[:, PERSISTENCE_FRAMES:]
    return float(np.mean((early * late).sum(0) / np.sqrt((early**2).sum(0) * (late**2).sum(0) + 1e-9)))


@dataclass(frozen=True)
class NoteStructure:
    """Ranges in which the middle 80 % of real songs lie."""

    persistence: tuple[float, float]
    flatness: tuple[float, float]


def note_structure(mels: list[NDArray[np.float32]]) -> NoteStructure:
    """The ranges of these songs."""
    ranges = [np.percentile([figure(mel) for mel in mels], [10, 90]) for figure in (persistence, flatness)]
    (least, most), (flattest_least, flattest_most) = ([float(end) for end in ends] for ends in ranges)
    return NoteStructure((least, most), (flattest_least, flattest_most))


def chroma(waveform: NDArray[np.float32]) -> Array:
    """Share of each pitch class, C to B, in the spectral peaks of a waveform [S]; every sounding frame counts alike."""
    window = torch.hann_window(CHROMA_FFT)
    spectrum = torch.stft(torch.from_numpy(waveform), CHROMA_FFT, CHROMA_HOP, window=window, return_complex=True)
    power = spectrum.abs().square().double().numpy()
    hertz = np.arange(len(power)) * SAMPLE_RATE / CHROMA_FFT
    low, high = np.searchsorted(hertz, CHROMA_HERTZ)
    inner = power[low:high]
    peaks = np.where((inner > power[low - 1 : high - 1]) & (inner > power[low + 1 : high + 1]), inner, 0.0)
    classes = np.round(69 + 12 * np.log2(hertz[low:high] / 440)).astype(int) % 12
    frames = np.stack([np.sqrt(peaks[classes == pitch_class]).sum(axis=0) for pitch_class in range(12)])
    sounding = power.sum(axis=0) > SOUNDING * power.sum(axis=0).max()
    frames = frames[:, sounding & (frames.sum(axis=0) > 0)]
    if not frames.size:
        return np.full(12, 1 / 12)
    return np.asarray((frames / frames.sum(axis=0)).mean(axis=1))


def in_key_mass(shares: Array, tonic: int, mode: str) -> float:
    """Share of a chroma that lies on the notes of a key."""
    return float(sum(shares[(tonic + step) % 12] for step in SCALES[mode]))


def key_margin(waveform: NDArray[np.float32], tonic: int, mode: str) -> float:
    """In-key mass of a waveform minus that for the key a tritone away, which shares the fewest notes."""
    shares = chroma(waveform)
    return in_key_mass(shares, tonic, mode) - in_key_mass(shares, tonic + TRITONE, mode)
