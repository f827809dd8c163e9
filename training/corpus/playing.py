"""Ways of playing chords and bass: one bar of four beats, straight eighths and sixteenths."""

from collections.abc import Sequence
from typing import NamedTuple

EIGHTHS = tuple(step / 2 for step in range(8))
STRUM_BEATS = 0.015  # from string to string
BLOCK = ((0.0, 1.9, 70), (2.0, 1.9, 64))
STRUM = ((0.0, 80), (1.0, 62), (1.5, 58), (2.0, 74), (2.5, 55), (3.0, 66), (3.5, 60))
STAB = (0.0, 0.75, 1.5, 2.5, 3.0)
SKANK = ((1.0, 0.25, 80), (3.0, 0.25, 80), (1.5, 0.15, 55), (3.5, 0.15, 55))
COMP = (0.0, 1.5, 2.5)
SIXTEENTHS = (0.0, 0.75, 1.25, 2.0, 2.75, 3.25)


class Hit(NamedTuple):
    """A note inside a bar: offset and duration in beats, MIDI pitch and velocity."""

    offset: float
    duration: float
    pitch: int
    velocity: int


def _together(pitches: Sequence[int], moments: Sequence[tuple[float, float, int]]) -> list[Hit]:
    return [Hit(offset, duration, pitch, velocity) for offset, duration, velocity in moments for pitch in pitches]


def _strum(chord: Sequence[int]) -> list[Hit]:
    strings = [pitch + 12 if pitch < 46 else pitch for pitch in sorted([*chord, chord[0] + 12])]
    return [Hit(offset + number * STRUM_BEATS, 0.9, pitch, velocity) for offset, velocity in STRUM for number, pitch in enumerate(strings)]


def _power(chord: Sequence[int]) -> list[Hit]:
    pitches = [pitch + 12 if pitch < 38 else pitch for pitch in (chord[0] - 12, chord[0] - 5, chord[0])]
    return _together(pitches, [(offset, 0.42, 88 if offset in (0, 2) else 72) for offset in EIGHTHS])


def _broken(tones: Sequence[int], order: Sequence[int], velocity: int) -> list[Hit]:
    return [Hit(offset, 0.55, tones[index], velocity) for offset, index in zip(EIGHTHS, order, strict=True)]


def play_chord(style: str, chord: Sequence[int]) -> list[Hit]:
    """One bar of accompaniment.

    Args:
        style: Way of playing, as `genres.Genre.chords` names it.
        chord: Pitches of the chord in the tenor range, root first.
    Raises:
        ValueError: No such style.
    """
    high = [pitch + 12 for pitch in chord]
    triad = high[:3]
    match style:
        case "block":
            return _together(high, BLOCK)
        case "strum":
            return _strum(chord)
        case "power":
            return _power(chord)
        case "comp":
            return _together(high[1:], [(offset, 0.4, 72) for offset in COMP])
        case "alberti":
            return _broken(triad, (0, 2, 1, 2, 0, 2, 1, 2), 66)
        case "arpeggio":
            return _broken([*triad, triad[0] + 12], (0, 1, 2, 3, 2, 1, 2, 1), 70)
        case "roll":
            return _broken([*triad, triad[0] + 12], (0, 2, 1, 3, 0, 2, 3, 1), 76)
        case "pad":
            return _together(high, [(0.0, 4.0, 62)])
        case "stab":
            return _together(high, [(offset, 0.3, 70) for offset in STAB])
        case "skank":
            return _together(high, SKANK)
        case "sixteenths":
            return _together(high, [(offset, 0.2, 76) for offset in SIXTEENTHS])
    raise ValueError(f"no way of playing chords is called {style!r}")


def play_bass(style: str, chord: Sequence[int], next_root: int) -> list[Hit]:
    """One bar of bass.

    Args:
        style: Way of playing, as `genres.Genre.bass` names it.
        chord: Root, third and fifth in the bass range.
        next_root: Root of the next bar's chord, which a walking bass leads to.
    Raises:
        ValueError: No such style.
    """
    root = chord[0] if chord[0] < 50 else chord[0] - 12
    third, fifth = (pitch - 12 if pitch > root + 12 else pitch for pitch in chord[1:3])
    low_fifth = fifth - 12 if fifth > 48 else fifth
    match style:
        case "eighths":
            return [Hit(offset, 0.45, root, 84) for offset in EIGHTHS]
        case "long":
            return [Hit(0, 3.9, root + 12, 70)]
        case "offbeats":
            return [Hit(beat + 0.5, 0.4, root, 92) for beat in range(4)]
        case "sparse":
            return [Hit(0, 1.4, root, 92), Hit(1.5, 0.4, root, 92), Hit(2.5, 1.2, root, 92)]
        case "reggae":
            return [Hit(offset, 0.5, fifth - 12 if offset == 1.5 else root, 90) for offset in (0, 1, 1.5, 2.5, 3)]
        case "root and fifth":
            return [Hit(0, 0.9, root, 78), Hit(2, 0.9, low_fifth, 74)]
        case "walking":
            steps = (root, third, fifth, next_root + (1 if next_root < fifth else -1))
            return [Hit(beat, 0.9, pitch, 84) for beat, pitch in enumerate(steps)]
        case "funk":
            return [Hit(offset, 0.3, root + (12 if offset in (1.5, 3.5) else 0), 92) for offset in (0, 0.75, 1.5, 2, 2.75, 3.5)]
    raise ValueError(f"no way of playing the bass is called {style!r}")
