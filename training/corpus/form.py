"""The form of a song: sections on boundaries of two or four bars, and who plays in each."""

import random
from collections.abc import Collection

from training.corpus.song import BASS, CHORDS, DRUMS, LEAD, PARTS, VOICE

BODIES = (
    ("verse", "chorus", "verse", "chorus", "bridge", "chorus"),
    ("verse", "chorus", "bridge", "chorus", "verse", "chorus"),
    ("chorus", "verse", "chorus", "bridge", "chorus", "verse"),
)
BODY_WEIGHTS = (0.5, 0.35, 0.15)
INTROS = ((CHORDS,), (CHORDS, BASS), (CHORDS, DRUMS), (DRUMS, BASS), (CHORDS, LEAD))
BRIDGES = ((CHORDS, BASS, LEAD, VOICE), (CHORDS, DRUMS, LEAD, VOICE), (BASS, DRUMS, LEAD, VOICE))
OUTRO = (CHORDS, BASS, DRUMS)
MIN_BARS_FOR_LONG_SECTIONS = 12
MIN_BARS_FOR_LONG_INTRO = 16


def draw_form(num_bars: int, sung_throughout: bool, rng: random.Random) -> list[tuple[str, int]]:
    """Names and lengths in bars of the sections of a song.

    Args:
        num_bars: Length of the song in whole bars.
        sung_throughout: No intro and no outro: somebody sings all the time.
        rng: Draws the form.
    Returns:
        Sections in order; their lengths add up to `num_bars`.
    """
    section_bars = 4 if num_bars >= MIN_BARS_FOR_LONG_SECTIONS else rng.choice((2, 4))
    form: list[tuple[str, int]] = []
    if not sung_throughout and num_bars >= 6 and rng.random() < 0.7:
        form.append(("intro", rng.choice((2, 4)) if num_bars >= MIN_BARS_FOR_LONG_INTRO else 2))
    remaining = num_bars - sum(bars for _, bars in form)
    body = list(rng.choices(BODIES, BODY_WEIGHTS)[0])
    ends_with_outro = not sung_throughout and rng.random() < 0.5
    while remaining >= section_bars or not form:
        bars = min(section_bars, remaining)
        form.append((body.pop(0) if body else "chorus", bars))
        remaining -= bars
    if remaining >= 2:
        form.append(("outro" if ends_with_outro else (body[0] if body else "chorus"), remaining))
    elif remaining:
        name, bars = form[-1]
        form[-1] = (name, bars + remaining)
    return form


def draw_players(parts: Collection[str], rng: random.Random) -> dict[str, tuple[str, ...]]:
    """Which of a song's parts play in each section; everybody where none of those meant to play is there."""
    meant = {"intro": rng.choice(INTROS), "verse": PARTS, "chorus": PARTS, "bridge": rng.choice(BRIDGES), "outro": OUTRO}
    everybody = tuple(part for part in PARTS if part in parts)
    return {name: tuple(part for part in everybody if part in players) or everybody for name, players in meant.items()}
