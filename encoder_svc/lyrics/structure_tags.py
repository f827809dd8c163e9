"""Bracketed section names: which the vocabulary knows, and which known one an author may have meant."""

import difflib
import re
from collections.abc import Iterator, Sequence

_BRACKETED = re.compile(r"\[[^\[\]]*\]")
_REPEATED = re.compile(r"(\[[^\[\]]*\])(?:\s*\1)+")


def bracketed(line: str) -> Iterator[str]:
    """Every bracketed group of a line, as "[Verse 1]"."""
    return (match.group() for match in _BRACKETED.finditer(line))


def nearest(tag: str, known: Sequence[str]) -> str | None:
    """The known tag that an unknown one most likely stands for.

    "[Verse 1]" and "[Final Verse]" contain it, "[instrumental]" begins with it, "[chrous]" resembles it.

    Args:
        tag: As "[Verse 1]".
        known: As ("[verse]", ...).
    """
    names = {name.strip("[]"): name for name in known}
    words = re.findall(r"[a-z]+", tag.lower())
    for candidate in ("-".join(words), *words):
        if candidate in names:
            return names[candidate]
    for word in words:
        for name in names:
            if len(name) > 3 and word.startswith(name):
                return names[name]
    close = difflib.get_close_matches("-".join(words), names, n=1, cutoff=0.7)
    return names[close[0]] if close else None


def normalize(line: str, known: Sequence[str]) -> tuple[str, list[str]]:
    """Put the nearest known tag in the place of an unknown one, and one in the place of several that follow each other.

    Args:
        line: Without line breaks.
        known: As ("[verse]", ...).
    Returns:
        The line, and what was changed.
    """
    changes = []

    def known_tag(match: re.Match[str]) -> str:
        tag = match.group()
        meant = tag.lower() if tag.lower() in known else nearest(tag, known)
        if meant is None or meant == tag.lower():
            return meant or tag
        changes.append(f"{tag!r} is read as {meant}")
        return meant

    normalized = _BRACKETED.sub(known_tag, line)
    once = _REPEATED.sub(r"\1", normalized)
    if once != normalized:
        changes.append("a repeated structure tag is read once")
    return once, changes


def is_tag(line: str) -> bool:
    """Whether a line is one bracketed group and nothing else."""
    return _BRACKETED.fullmatch(line) is not None
