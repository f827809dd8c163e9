"""A listener that tells genres and instruments apart: linear classifiers on statistics of log-mels, trained on songs of the band.

It hears windows of 10 s, so that songs of every length are judged alike: a song's genre is the mean over its windows, an instrument
plays in it when it plays in one of them. The statistics say nothing of the tempo: pairs of genre and tempo are held out.

W windows, D statistics, K components, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.corpus.genres import GENRES, INSTRUMENTS
from training.corpus.song import DRUMS, VOICE, Song
from vae_svc.codec import HOP_LENGTH, SAMPLE_RATE

FRAMES_PER_SECOND = SAMPLE_RATE / HOP_LENGTH  # 86.1
WINDOW_SECONDS = 10.0
WINDOW_FRAMES = round(WINDOW_SECONDS * FRAMES_PER_SECOND)  # 861
LEAST_SECONDS = 0.5
"""An instrument that sounds for less of a window is not asked for there."""
QUANTILES = (5, 25, 50, 75, 95)
GENRE_NAMES = tuple(GENRES)
SOUNDS = (*INSTRUMENTS, DRUMS, VOICE)
COMPONENTS = 100
LEAST_SCALE = 1e-3
"""Of the first component: what is below is rounding, as N centred windows have N - 1 components."""
PENALTY = 1e-2
LBFGS_STEPS = 100


def windows(num_frames: int) -> list[tuple[int, int]]:
    """Spans of mel frames that are judged, as many as fit, evenly spread; a short song is one."""
    count = max(1, round(num_frames / WINDOW_FRAMES))
    length = min(WINDOW_FRAMES, num_frames)
    return [(int(start), int(start) + length) for start in np.linspace(0, num_frames - length, count)]


def statistics(mel: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the classifiers know of a window [128, F]: quantiles, spread and onsets of each band, and how its partials stand out, [D]."""
    log = mel - np.float32(np.median(mel))
    quantiles = np.percentile(log, QUANTILES, axis=1).ravel()
    onsets = np.maximum(np.diff(log, axis=1), 0)
    contrast = np.abs(np.diff(log, axis=0)).mean(axis=1)
    held = np.minimum(np.diff(log, axis=1), 0)
    figures = [quantiles, log.std(axis=1), onsets.mean(axis=1), (onsets**2).mean(axis=1), held.mean(axis=1), contrast]
    return np.concatenate(figures).astype(np.float32)


def heard(song: Song, start_seconds: float, end_seconds: float) -> set[str]:
    """Names of `SOUNDS` that sound in a stretch of a song for long enough."""
    by_program = {program: name for name, program in INSTRUMENTS.items()}
    names = {part: by_program[program] for part, program in song.programs if part != DRUMS} | {DRUMS: DRUMS, VOICE: VOICE}
    seconds: dict[str, float] = {}
    for note in song.notes:
        overlap = min(end_seconds, note.start_seconds + max(note.duration_seconds, 0.1)) - max(start_seconds, note.start_seconds)
        if overlap > 0:
            seconds[names[note.part]] = seconds.get(names[note.part], 0.0) + overlap
    return {name for name, sounding in seconds.items() if sounding >= LEAST_SECONDS}


@dataclass(frozen=True)
class Linear:
    """A linear classifier on standardised principal components."""

    mean: Tensor
    projection: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Logits, [W, D] -> [W, C]."""
        logits: Tensor = ((features - self.mean) @ self.projection) @ self.weight + self.bias
        return logits


def _fit(features: Tensor, targets: Tensor, exclusive: bool) -> Linear:
    """Fit logits to classes [W, C], one of them each or any; without randomness."""
    mean, spread = features.mean(dim=0), features.std(dim=0) + 1e-3
    _, scales, basis = torch.linalg.svd((features - mean) / spread, full_matrices=False)
    kept = min(COMPONENTS, int((scales > LEAST_SCALE * scales[0]).sum()))
    projection = basis[:kept].T / (scales[:kept] / len(features) ** 0.5) / spread[:, None]
    inputs = (features - mean) @ projection
    weight = torch.zeros(kept, targets.shape[1], requires_grad=True)
    bias = torch.zeros(targets.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=LBFGS_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = inputs @ weight + bias
        if exclusive:
            error = F.cross_entropy(logits, targets.argmax(dim=1))
        else:
            error = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1).mean()
        total: Tensor = error + PENALTY * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return Linear(mean, projection, weight.detach(), bias.detach())


@dataclass(frozen=True)
class Judgement:
    """What was heard in a song: a probability for each genre, and one for each of `SOUNDS` to be there."""

    genres: dict[str, float]
    sounds: dict[str, float]

    @property
    def genre(self) -> str:
        """The likeliest."""
        return max(self.genres, key=self.genres.__getitem__)


class Listener:
    """Judges songs.

    Args:
        mels: Log-mels [128, F] of songs to learn from.
        songs: Theirs.
    """

    def __init__(self, mels: Sequence[NDArray[np.float32]], songs: Sequence[Song]) -> None:
        features, genres, sounds = [], [], []
        for mel, song in zip(mels, songs, strict=True):
            for start, stop in windows(mel.shape[1]):
                features.append(statistics(mel[:, start:stop]))
                genres.append([float(song.genre == name) for name in GENRE_NAMES])
                there = heard(song, start / FRAMES_PER_SECOND, stop / FRAMES_PER_SECOND)
                sounds.append([float(name in there) for name in SOUNDS])
        known = torch.from_numpy(np.stack(features))
        self._genre = _fit(known, torch.tensor(genres), exclusive=True)
        self._sound = _fit(known, torch.tensor(sounds), exclusive=False)
        absent = ~torch.tensor(sounds).bool()
        logits = self._sound(known)
        self._without = [logits[absent[:, index], index].sort().values for index in range(len(SOUNDS))]

    def judge(self, mel: NDArray[np.float32]) -> Judgement:
        """Listen to a song, [128, F]."""
        features = torch.from_numpy(np.stack([statistics(mel[:, start:stop]) for start, stop in windows(mel.shape[1])]))
        genres = self._genre(features).softmax(dim=1).mean(dim=0)
        sounds = self._sound(features).sigmoid().amax(dim=0)
        return Judgement(
            dict(zip(GENRE_NAMES, genres.tolist(), strict=True)),
            dict(zip(SOUNDS, sounds.tolist(), strict=True)),
        )

    def rank(self, judgement: Judgement, name: str) -> float:
        """Share of the learnt windows without a sound in which it seemed less there than in the judged song: 0.5 is chance."""
        without = self._without[SOUNDS.index(name)]
        logit = torch.tensor(judgement.sounds[name], dtype=torch.float64).logit(eps=1e-9).float()
        return float(torch.searchsorted(without, logit)) / max(1, len(without))
