"""Sounds whose figures are known."""

import numpy as np
import torch
from numpy.typing import NDArray

from training.corpus.song import FRAME_SECONDS, SAMPLE_RATE
from vae_svc.model.mel import LogMel, MelConfig

LOG_MEL = LogMel(MelConfig(), torch.device("cpu"))


def mel_of(waveform: NDArray[np.float64]) -> NDArray[np.float32]:
    samples = torch.from_numpy(waveform[: len(waveform) // 512 * 512].astype(np.float32))
    return np.asarray(LOG_MEL(samples[None])[0].numpy())


def noise(seconds: float, seed: int = 0) -> NDArray[np.float64]:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE))


def clicks(beat_frames: float, seconds: float, shift_beats: float = 0.0) -> NDArray[np.float64]:
    """Short bursts of noise on every beat, over a little noise."""
    waveform = 0.01 * noise(seconds, 1)
    burst = noise(0.05, 2) * np.linspace(1, 0, round(0.05 * SAMPLE_RATE))
    for start in np.arange(shift_beats, seconds / FRAME_SECONDS / beat_frames - 1, 1) * beat_frames * FRAME_SECONDS * SAMPLE_RATE:
        waveform[round(start) : round(start) + len(burst)] += burst
    return waveform


def melody(pitches: list[int], note_seconds: float = 0.4) -> NDArray[np.float64]:
    """Notes of four partials, one after the other."""
    seconds = np.arange(round(note_seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tones = []
    for pitch in pitches:
        hertz = 440 * 2 ** ((pitch - 69) / 12)
        tones.append(sum(np.sin(2 * np.pi * partial * hertz * seconds) / partial for partial in range(1, 5)))
    return 0.1 * np.concatenate(tones) + 1e-4 * noise(note_seconds * len(pitches))[: len(pitches) * len(seconds)]
