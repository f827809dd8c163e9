"""Is the line that was asked for the one that is sung? A small phone classifier, and the best path of a line's phones through a clip.

It learns from unaccompanied songs of the band, whose phones are exact, and is asked about unaccompanied clips only: in a mix the voice is
hidden. A line may be sung anywhere in the clip. It competes with lines of as many syllables that the song does not have.

B clips, M mel bands, F mel frames, N steps of two mel frames, P phones.
"""

import random
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.quality.listener import FRAMES_PER_SECOND
from training.corpus.lyrics import lines_by_syllables
from training.corpus.singer import VOICES, Singer
from training.corpus.song import PHONES, SILENCE, Phone, Song

DISTRACTORS = 5
STEP_FRAMES = 2  # 23 ms
WIDTH = 96
BATCH, LEARNING_RATE, SEED = 8, 3e-3, 0
LEAST_PROBABILITY = 1e-3
LOUDNESS = 3.0  # nats, about the spread of a log-mel


class _PhoneNetwork(nn.Module):
    """Log-mels [B, M, F] to logits [B, P, N], seeing 0.25 s on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(128, WIDTH, 9, stride=STEP_FRAMES, padding=4),
            nn.GELU(),
            nn.Conv1d(WIDTH, WIDTH, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(WIDTH, WIDTH, 5, padding=4, dilation=2),
            nn.GELU(),
            nn.Conv1d(WIDTH, len(PHONES), 1),
        )

    def forward(self, mels: Tensor) -> Tensor:
        logits: Tensor = self.layers((mels - mels.flatten(1).median(dim=1).values[:, None, None]) / LOUDNESS)
        return logits


def phone_labels(phones: Sequence[Phone], num_steps: int) -> NDArray[np.int64]:
    """The phone in the middle of each step, [N]; silence where there is none."""
    labels = np.full(num_steps, PHONES.index(SILENCE), np.int64)
    middles = (np.arange(num_steps) * STEP_FRAMES + 0.5) / FRAMES_PER_SECOND
    for phone in phones:
        labels[(middles >= phone.start_seconds) & (middles < phone.end_seconds)] = PHONES.index(phone.symbol)
    return labels


class PhoneListener:
    """Says how well phones fit a clip.

    Args:
        mels: Log-mels of unaccompanied songs of one length, [128, F] each.
        phones: What is sung in them.
        epochs: Passes over them.
    """

    def __init__(self, mels: Sequence[NDArray[np.float32]], phones: Sequence[Sequence[Phone]], epochs: int) -> None:
        inputs = torch.from_numpy(np.stack(mels))
        num_steps = -(-inputs.shape[-1] // STEP_FRAMES)
        labels = torch.from_numpy(np.stack([phone_labels(sung, num_steps) for sung in phones]))
        counts = torch.bincount(labels.flatten(), minlength=len(PHONES)) + 1.0
        self._log_priors = (counts / counts.sum()).log()
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            self._network = _PhoneNetwork()
            optimizer = torch.optim.AdamW(self._network.parameters(), LEARNING_RATE)
            steps = epochs * -(-len(inputs) // BATCH)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
            for _ in range(epochs):
                for chosen in torch.split(torch.randperm(len(inputs)), BATCH):
                    loss = F.cross_entropy(self._network(inputs[chosen]), labels[chosen])
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    schedule.step()
        self._network.eval().requires_grad_(False)

    def evidence(self, mel: NDArray[np.float32]) -> NDArray[np.float64]:
        """Log-likelihood ratio of each phone at each step of a clip [128, F], [N, P]."""
        probabilities = self._network(torch.from_numpy(mel)[None])[0].softmax(dim=0).clamp_min(LEAST_PROBABILITY)
        return np.asarray((probabilities.log() - self._log_priors[:, None]).T.double().numpy())


def line_score(evidence: NDArray[np.float64], phones: Sequence[str]) -> float:
    """Evidence along the best path of phones that begins and ends anywhere, by phone; -inf in a clip shorter than the line."""
    columns = evidence[:, [PHONES.index(phone) for phone in phones]]
    score = np.full(len(phones), -np.inf)
    best = -np.inf
    for step in columns:
        score = np.maximum(score, np.concatenate([[0.0], score[:-1]])) + step
        best = max(best, float(score[-1]))
    return best / len(phones)


def distractors(text: str, song: Song) -> list[str]:
    """Lines of as many syllables that the song does not have, near in length; the same ones every time."""
    own = {line.text for line in song.lyric_lines}
    others = next(list(lines) for lines in lines_by_syllables().values() if text in lines)
    random.Random(text).shuffle(others)
    return sorted((line for line in others if line not in own), key=lambda line: abs(len(line) - len(text)))[:DISTRACTORS]


def lines_recognised(evidence: NDArray[np.float64], song: Song, singer: Singer) -> list[float]:
    """For each line of a song, 1 where it fits a clip better than every distractor, else 0."""
    assert song.voice is not None
    voice = VOICES[song.voice]

    def score(text: str) -> float:
        return line_score(evidence, [phone.symbol for phone in singer.speak(text, voice).phones if phone.symbol != SILENCE])

    texts = dict.fromkeys(line.text for line in song.lyric_lines)
    return [float(score(text) > max(score(other) for other in distractors(text, song))) for text in texts]
