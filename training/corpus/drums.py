"""Drum patterns: one bar at three densities, and the fills that end a section."""

from collections.abc import Iterable

from training.corpus.playing import EIGHTHS, Hit

KICK, RIMSHOT, SNARE, CLAP, CLOSED_HAT, PEDAL_HAT, OPEN_HAT, CRASH, RIDE = 36, 37, 38, 39, 42, 44, 46, 49, 51
LOW_TOM, MID_TOM, HIGH_TOM = 41, 45, 48
LIGHT, NORMAL, FULL = range(3)
BEATS = (0.0, 1.0, 2.0, 3.0)
SIXTEENTHS = tuple(step / 4 for step in range(16))

# (offset in beats, drum) of the three fills; what the pattern has from the first offset on gives way.
FILLS = (
    ((3.0, SNARE), (3.25, SNARE), (3.5, HIGH_TOM), (3.75, LOW_TOM)),
    ((2.0, SNARE), (2.5, HIGH_TOM), (3.0, MID_TOM), (3.5, LOW_TOM)),
    ((3.0, SNARE), (3.5, SNARE), (3.75, SNARE)),
)


def _hits(drum: int, offsets: Iterable[float], velocity: int, weak_velocity: int | None = None) -> list[Hit]:
    """Hits of one drum, softer between the beats when `weak_velocity` is given."""
    weak = velocity if weak_velocity is None else weak_velocity
    return [Hit(offset, 0.2, drum, velocity if offset % 1 == 0 else weak) for offset in offsets]


def _pattern(name: str, density: int) -> list[Hit]:
    full = density == FULL
    kicks: tuple[float, ...]
    match name:
        case "pop":
            kicks = (0, 1.5, 2, 2.5) if full else (0, 2, 2.5)
            return _hits(KICK, kicks, 104) + _hits(SNARE, (1, 3), 102) + _hits(CLOSED_HAT, EIGHTHS, 74, 60)
        case "rock":
            kicks = (0, 1.5, 2, 3.5) if full else (0, 1.5, 2)
            hats = _hits(OPEN_HAT, BEATS, 74) if full else _hits(CLOSED_HAT, EIGHTHS, 74, 60)
            return _hits(KICK, kicks, 106) + _hits(SNARE, (1, 3), 104) + hats
        case "house":
            hats = _hits(OPEN_HAT, (0.5, 1.5, 2.5, 3.5), 72) + (_hits(CLOSED_HAT, SIXTEENTHS, 50) if full else [])
            return _hits(KICK, BEATS, 112) + _hits(CLAP, (1, 3), 92) + hats
        case "boom bap":
            strokes = EIGHTHS + ((1.75, 3.75) if full else ())
            return _hits(KICK, (0, 1.5, 2.5), 106) + _hits(SNARE, (1, 3), 104) + _hits(CLOSED_HAT, strokes, 66)
        case "one drop":
            kicks = (0, 2) if full else (2,)
            return _hits(KICK, kicks, 108) + _hits(RIMSHOT, (1, 3), 84) + _hits(CLOSED_HAT, EIGHTHS, 62)
        case "ride":
            ghosts = _hits(SNARE, (1.5, 3.5), 56) if full else []
            return _hits(RIDE, (0, 1, 1.5, 2, 3, 3.5), 80, 62) + _hits(PEDAL_HAT, (1, 3), 68) + _hits(KICK, (0, 2), 62) + ghosts
        case "funk":
            kicks = (0, 0.75, 1.75, 2.5) if full else (0, 0.75, 2.5)
            return _hits(KICK, kicks, 108) + _hits(SNARE, (1, 3), 106) + _hits(CLOSED_HAT, SIXTEENTHS, 70, 54)
    raise ValueError(f"no drum pattern is called {name!r}")


def play_drums(pattern: str, density: int, opens: bool = False, fill: int | None = None) -> list[Hit]:
    """One bar of drums.

    Args:
        pattern: As `genres.Genre.drums` names it.
        density: LIGHT (no snare), NORMAL or FULL.
        opens: The bar opens a section: a crash, unless it is a light one.
        fill: Index into `FILLS` when the bar ends a section.
    Raises:
        ValueError: No such pattern.
    """
    hits = _pattern(pattern, density)
    if density == LIGHT:
        return [hit for hit in hits if hit.pitch not in (SNARE, CLAP)]
    if opens:
        hits += _hits(CRASH, (0,), 88)
    if fill is not None:
        start = FILLS[fill][0][0]
        hits = [hit for hit in hits if hit.offset < start]
        hits += [Hit(offset, 0.2, drum, 84 + round(10 * (offset - 2))) for offset, drum in FILLS[fill]]
    return hits
