"""Scales and chords: pure arithmetic on pitches, degrees counted from 0."""

from collections.abc import Sequence

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}

# Degree of the chord of each bar, four bars a turn.
PROGRESSIONS = {
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 3), (5, 3, 0, 4), (0, 3, 0, 4), (0, 2, 3, 4)),
    "minor": ((0, 5, 2, 6), (0, 6, 5, 6), (0, 3, 5, 4), (0, 5, 3, 4), (0, 3, 6, 2), (0, 0, 5, 6)),
}
JAZZ_PROGRESSIONS = {
    "major": ((1, 4, 0, 5), (0, 5, 1, 4), (0, 3, 1, 4)),
    "minor": ((0, 3, 1, 4), (0, 5, 1, 4), (3, 6, 2, 5)),
}


def scale_pitch(root: int, mode: str, degree: int) -> int:
    """Pitch of a degree of the scale on `root`; degrees above 6 or below 0 lie in other octaves."""
    scale = SCALES[mode]
    return root + scale[degree % 7] + 12 * (degree // 7)


def chord_pitches(root: int, mode: str, degree: int, count: int = 3) -> list[int]:
    """`count` stacked thirds of the scale on a degree."""
    return [scale_pitch(root, mode, degree + 2 * step) for step in range(count)]


def close_voicing(pitches: Sequence[int], ceiling: int) -> list[int]:
    """The chord with each pitch above `ceiling` an octave lower, its root first as given."""
    return [pitch - 12 if pitch > ceiling else pitch for pitch in pitches]
