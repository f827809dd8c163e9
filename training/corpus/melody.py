"""Melodies: a motif for each kind of section, repeated and bent to the chords, for an instrument or for a voice."""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from training.corpus.playing import Hit
from training.corpus.theory import scale_pitch

LIVELY_RHYTHMS = ((0, 1, 2, 3), (0, 0.5, 1, 2, 3), (0, 1, 1.5, 2, 3, 3.5), (0, 1.5, 2, 3), (0, 0.5, 1, 1.5, 2, 3))
CALM_RHYTHMS = ((0, 2), (0, 1, 2), (0, 1, 2, 3), (0, 3))
CADENCE = (0, 1, 2)
STEPS = (-2, -1, -1, 0, 1, 1, 2)
MOTIF_BARS, PHRASE_BARS = 2, 4
LEAD_DEGREES = range(5, 15)
VOICE_DEGREES = range(-2, 6)
VOICE_BEATS = 8  # of a line at most tempi
# Beat of each syllable in a line of eight beats, by the number of syllables.
SYLLABLE_BEATS = {
    6: (0, 1, 2, 3, 4, 6),
    7: (0, 1, 2, 3, 4, 5, 6),
    8: (0, 1, 2, 3, 4, 5, 6, 6.5),
    9: (0, 1, 2, 3, 3.5, 4, 5, 6, 6.5),
}
LINE_END_BEAT = 7.6
LOWEST_ROOT = {"female vocals": 58, "male vocals": 46}


@dataclass(frozen=True)
class Motif:
    """Two bars of rhythm, the degree they start from and the steps from note to note."""

    rhythms: tuple[Sequence[float], Sequence[float]]
    start: int
    steps: tuple[int, ...]


def draw_motif(degrees: range, calm: bool, rng: random.Random) -> Motif:
    """A motif that starts in the middle third of the range."""
    rhythms = CALM_RHYTHMS if calm else LIVELY_RHYTHMS
    third = len(degrees) // 3
    return Motif(
        rhythms=(rng.choice(rhythms), rng.choice(rhythms)),
        start=rng.choice(degrees[third : 2 * third + 1]),
        steps=tuple(rng.choice(STEPS) for _ in range(12)),
    )


def _walk(degree: int, step: int, degrees: range, chord: Collection[int] | None) -> int:
    """The next degree: a step inside the range, then to the nearest chord degree (modulo 7) if a chord is given."""
    moved = degree + step
    moved = min(max(moved, degrees[0]), degrees[-1])
    if chord is None:
        return moved
    near = [moved + shift for shift in (0, 1, -1, 2, -2) if (moved + shift) % 7 in chord and moved + shift in degrees]
    return near[0] if near else moved


def play_lead(motif: Motif, root: int, mode: str, chord_degrees: Sequence[Collection[int]]) -> list[list[Hit]]:
    """The melody of a section.

    Args:
        motif: Its motif, repeated every two bars; every fourth bar closes with a cadence.
        root: Pitch of degree 0.
        mode: Of the scale.
        chord_degrees: For each bar the degrees (modulo 7) of its chord, which notes on beats 1 and 3 land on.
    Returns:
        For each bar its notes.
    """
    bars: list[list[Hit]] = []
    degree, number = motif.start, 0
    for bar, chord in enumerate(chord_degrees):
        if bar % MOTIF_BARS == 0:
            degree, number = motif.start, 0
        rhythm = CADENCE if bar % PHRASE_BARS == PHRASE_BARS - 1 else motif.rhythms[bar % MOTIF_BARS]
        hits = []
        for offset, end in zip(rhythm, (*rhythm[1:], 4), strict=True):
            step = motif.steps[number % len(motif.steps)] if number else 0
            degree = _walk(degree, step, LEAD_DEGREES, chord if offset in (0, 2) else None)
            hits.append(Hit(offset, (end - offset) * 0.92, scale_pitch(root, mode, degree), 92))
            number += 1
        bars.append(hits)
    return bars


def line_beats(beat_frames: float) -> int:
    """Beats a sung line takes: two bars, or one where the beats are long, so that a line takes three to six seconds."""
    return VOICE_BEATS if beat_frames < 8 else VOICE_BEATS // 2


def voice_root(voice: str, tonic: int) -> int:
    """Pitch of degree 0 in the range of a voice."""
    lowest = LOWEST_ROOT[voice]
    return lowest + (tonic - lowest) % 12


def sing_line(
    motif: Motif, root: int, mode: str, syllables: int, beats: int, chord_degrees: Sequence[Collection[int]], answers: bool
) -> list[Hit]:
    """The notes of one line, one a syllable.

    Args:
        motif: Its steps and start; a line has its own rhythm.
        root: Pitch of degree 0.
        mode: Of the scale.
        syllables: 6 to 9.
        beats: Length of the line, from `line_beats`.
        chord_degrees: For each bar of the line the degrees (modulo 7) of its chord.
        answers: Every second line goes through the motif's steps from the third on.
    """
    steps = motif.steps[2:] if answers else motif.steps
    scale = beats / VOICE_BEATS
    offsets = [beat * scale for beat in SYLLABLE_BEATS[syllables]]
    degree = motif.start
    hits = []
    for number, (offset, end) in enumerate(zip(offsets, [*offsets[1:], LINE_END_BEAT * scale], strict=True)):
        chord = chord_degrees[int(offset // 4)] if (offset / scale) % 2 == 0 else None
        degree = _walk(degree, steps[number] if number else 0, VOICE_DEGREES, chord)
        hits.append(Hit(offset, end - offset, scale_pitch(root, mode, degree), 92))
    return hits
