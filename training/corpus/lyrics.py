"""The words of the corpus: our own lines, by number of syllables."""

from functools import cache
from importlib.resources import files


@cache
def lines_by_syllables() -> dict[int, tuple[str, ...]]:
    """Lyric lines of `lines.txt` by their number of syllables, 6 to 9, as both of the singer's voices speak them."""
    rows = files("training.corpus").joinpath("lines.txt").read_text(encoding="utf-8").splitlines()
    lines: dict[int, list[str]] = {}
    for row in rows:
        syllables, text = row.split(" ", 1)
        lines.setdefault(int(syllables), []).append(text)
    return {syllables: tuple(texts) for syllables, texts in sorted(lines.items())}


@cache
def all_lines() -> tuple[tuple[int, str], ...]:
    """Every line with its number of syllables."""
    return tuple((syllables, text) for syllables, texts in lines_by_syllables().items() for text in texts)
