"""The figures: what is measured on one clip, held against the song whose tags it was asked for, and the bounds they are to reach."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import notes, rhythm
from benchmarks.quality.listener import SOUNDS, Listener
from benchmarks.quality.statistics import Estimate
from training.corpus.song import CHORDS, DRUMS, VOICE, Song

GENRE_PARTS = {CHORDS, DRUMS}
"""One of these plays where a genre is asked for: a flute or a voice alone has none."""
QUARTER_BEAT = 0.25
MOST_BETWEEN = 0.2
"""Share of a song's notes off the half beats. Funk has half of them there: real funk's onsets repeat after a bar, not after a beat."""
ON_THE_BEAT = 0.05  # beats; notes come up to 1 ms early or late

GENRE, PERSISTENCE, FLATNESS = "genre accuracy", "note persistence in the real range", "flatness in the real range"
BEAT_FIRST, BEAT_LAST = "beat margin, first third", "beat margin, last third"
SWAP_NEW, SWAP_OLD = "bpm tag swapped: margin at the new", "bpm tag swapped: margin at the old"
HALF_BEATS, BETWEEN = "onsets on half beats", "onsets between them (control)"
KEY, DRUMS_RIGHT = "in-key mass minus tritone's", "drums on or off as tagged"
INSTRUMENTS_RANK, LYRICS = "instrument rank", "sung line ranks first of 6"
DIVERSITY, CODEC_ERROR = "diversity across seeds", "codec error, nats"


@dataclass(frozen=True)
class Bound:
    """What a figure is to reach.

    Attributes:
        limit: A mean on this side of it is enough.
        above: Whether that side is above.
        by_interval: The whole interval has to be there, not only the mean.
    """

    limit: float
    above: bool = True
    by_interval: bool = False

    def reached(self, value: Estimate) -> bool:
        """Whether an estimate is on the right side."""
        if self.by_interval:
            return value.low > self.limit if self.above else value.high < self.limit
        return value.mean >= self.limit if self.above else value.mean <= self.limit

    def __str__(self) -> str:
        sign = (">" if self.by_interval else ">=") if self.above else "<="
        return f"{sign} {self.limit:.3g}" + (", interval" if self.by_interval else "")


BOUNDS: dict[str, Bound | None] = {
    GENRE: Bound(0.8),
    PERSISTENCE: Bound(0.75),
    FLATNESS: Bound(0.75),
    BEAT_FIRST: Bound(0.5),
    BEAT_LAST: Bound(0.5),
    SWAP_NEW: Bound(0.4),
    SWAP_OLD: Bound(0.1, above=False),
    HALF_BEATS: Bound(0.65),
    BETWEEN: Bound(0.1, above=False),
    KEY: Bound(0.0, by_interval=True),
    DRUMS_RIGHT: Bound(0.9),
    LYRICS: Bound(1 / 6, by_interval=True),
    INSTRUMENTS_RANK: None,
    DIVERSITY: None,
    CODEC_ERROR: None,
}
"""Every figure in the order of the report."""


@dataclass(frozen=True)
class Ears:
    """What clips are judged with."""

    listener: Listener
    structure: notes.NoteStructure


def measure(mel: NDArray[np.float32], waveform: NDArray[np.float32] | None, song: Song, ears: Ears) -> dict[str, float]:
    """Figures of a clip held against the tags of a song; those that the tags do not speak of are absent.

    Args:
        mel: Log-mel of the clip, [128, F].
        waveform: Its sound [S] at 44.1 kHz; None: the key is not judged.
        song: Whose tags the clip was asked for.
        ears: What to judge with.
    """
    figures = _structure(mel, ears.structure) | _heard(mel, song, ears.listener)
    if has_a_beat(song):
        envelope = rhythm.onset_envelope(mel)
        first, _, last = rhythm.thirds(envelope)
        figures[BEAT_FIRST] = rhythm.beat_margin(first, song.beat_frames)
        figures[BEAT_LAST] = rhythm.beat_margin(last, song.beat_frames)
        figures[HALF_BEATS] = rhythm.half_beat_share(envelope, song.beat_frames)
        figures[BETWEEN] = rhythm.half_beat_share(envelope, song.beat_frames, QUARTER_BEAT)
    if waveform is not None and song.parts != (DRUMS,):
        figures[KEY] = notes.key_margin(waveform, song.tonic, song.mode)
    return figures


def of_the_prompt(figures: dict[str, float]) -> dict[str, float]:
    """Those that depend on what was asked for."""
    return {name: value for name, value in figures.items() if name not in (PERSISTENCE, FLATNESS)}


def _structure(mel: NDArray[np.float32], real: notes.NoteStructure) -> dict[str, float]:
    (held_least, held_most), (flat_least, flat_most) = real.persistence, real.flatness
    return {
        PERSISTENCE: float(held_least <= notes.persistence(mel) <= held_most),
        FLATNESS: float(flat_least <= notes.flatness(mel) <= flat_most),
    }


def _heard(mel: NDArray[np.float32], song: Song, listener: Listener) -> dict[str, float]:
    judgement = listener.judge(mel)
    figures = {DRUMS_RIGHT: float((judgement.sounds[DRUMS] > 0.5) == (DRUMS in song.parts))}
    if GENRE_PARTS & set(song.parts):
        figures[GENRE] = float(judgement.genre == song.genre)
    tagged = [name for name in song.instruments if name in SOUNDS]
    tagged += [VOICE] if song.voice else []
    if tagged:
        figures[INSTRUMENTS_RANK] = float(np.mean([listener.rank(judgement, name) for name in tagged]))
    return figures


def has_a_beat(song: Song) -> bool:
    """Whether a song's onsets tell its tempo: drums play, and few notes fall between half beats."""
    return DRUMS in song.parts and between_half_beats(song) <= MOST_BETWEEN


def between_half_beats(song: Song) -> float:
    """Share of the notes that begin between half beats; a voice's do not count."""
    halves = np.array([2 * note.start_seconds / song.beat_seconds for note in song.notes if note.part != VOICE])
    return float((np.abs(halves - halves.round()) > 2 * ON_THE_BEAT).mean()) if halves.size else 0.0


def measure_swapped(mel: NDArray[np.float32], new: float, old: float) -> dict[str, float]:
    """Figures of a clip that was asked for with a song's tags but for its tempo; the beats in latent frames."""
    envelope = rhythm.onset_envelope(mel)
    return {SWAP_NEW: rhythm.beat_margin(envelope, new), SWAP_OLD: rhythm.beat_margin(envelope, old)}


def difference(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """1 minus the correlation of what moves in two log-mels [128, F], each band's mean taken off: 0 for the same clip, 1 for strangers."""
    length = min(first.shape[1], second.shape[1])
    moves = [mel[:, :length] - mel[:, :length].mean(axis=1, keepdims=True) for mel in (first, second)]
    product = float((moves[0] * moves[1]).sum())
    return 1 - product / float(np.sqrt((moves[0] ** 2).sum() * (moves[1] ** 2).sum()) + 1e-9)


def diversity(mels: Sequence[NDArray[np.float32]]) -> list[float]:
    """Differences of all pairs."""
    return [difference(first, second) for index, first in enumerate(mels) for second in mels[index + 1 :]]
