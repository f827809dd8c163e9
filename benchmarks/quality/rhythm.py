"""Does it keep the tempo it was asked for? Figures from the onsets of a log-mel.

M mel bands, F mel frames of 512 samples; a latent frame is 8 of them, so a beat of the corpus is a whole number of mel frames.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from training.corpus.genres import BEAT_FRAMES, tempi
from vae_svc.model.dcae import FRAMES_PER_LATENT

Array = NDArray[np.float64]

ONSET_TOLERANCE = 2
"""Mel frames around a point of the grid that count as on it, 23 ms."""
SWAP_DISTANCE = 1.0
"""Latent frames by which a swapped beat differs at least."""


def onset_envelope(mel: NDArray[np.float32]) -> Array:
    """How much louder the bands get from frame to frame, in nats, [M, F] -> [F - 1]."""
    return np.asarray(np.maximum(np.diff(mel.astype(np.float64), axis=1), 0).mean(axis=0))


def periodicity(envelope: Array, beat_frames: float) -> float:
    """Correlation of an envelope with itself a beat later, -1 to 1; 0 for one that does not move."""
    lag = round(beat_frames * FRAMES_PER_LATENT)
    early, late = envelope[:-lag], envelope[lag:]
    early, late = early - early.mean(), late - late.mean()
    return float((early * late).sum() / (np.sqrt((early**2).sum() * (late**2).sum()) + 1e-9))


def beat_margin(envelope: Array, beat_frames: float) -> float:
    """Periodicity at a beat minus its mean at the corpus's other tempi, double and half tempo left out.

    The difference, and not the periodicity alone, because what is periodic in latent frames is a little so at every tempo of their grid.
    """
    related = (beat_frames, 2 * beat_frames, beat_frames / 2)
    others = [periodicity(envelope, other) for other in BEAT_FRAMES if other not in related]
    return periodicity(envelope, beat_frames) - float(np.mean(others))


def thirds(envelope: Array) -> list[Array]:
    """An envelope in three equal stretches."""
    cuts = np.linspace(0, len(envelope), 4).astype(int)
    return [envelope[start:stop] for start, stop in pairwise(cuts)]


def half_beat_share(envelope: Array, beat_frames: float, shift_beats: float = 0.0) -> float:
    """Share of the onsets that lie on half beats counted from the start.

    Args:
        envelope: From the start of a song.
        beat_frames: Length of a beat in latent frames.
        shift_beats: Moves the grid; a quarter of a beat is the control, where nothing should be.
    """
    onsets = np.maximum(envelope - np.median(envelope), 0)
    beat = beat_frames * FRAMES_PER_LATENT
    frames = np.arange(1, len(onsets) + 1) - shift_beats * beat  # the rise from frame 0 to 1 is heard at 1
    distance = np.abs((frames + beat / 4) % (beat / 2) - beat / 4)
    return float(onsets[distance <= ONSET_TOLERANCE].sum() / (onsets.sum() + 1e-9))


def swapped_beat(genre: str, beat_frames: float) -> float:
    """The genre's trained beat nearest to another one, a latent frame away at least and neither its double nor its half."""
    candidates = [
        other
        for other in tempi(genre, "train")
        if abs(other - beat_frames) >= SWAP_DISTANCE and other not in (2 * beat_frames, beat_frames / 2)
    ]
    return min(candidates, key=lambda other: (abs(other - beat_frames), other))
