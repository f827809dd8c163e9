"""Bracketed section names: which the vocabulary knows, and which known one an author may have meant."""

import difflib
import re
from collections.abc import Iterator, Sequence

_BRACKETED = re.compile(r"\[[^\[\]]*\]")


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
