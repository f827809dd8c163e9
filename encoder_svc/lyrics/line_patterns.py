"""What the reference's detector cuts out of a line before it identifies the rest, in this order."""

import re
from dataclasses import dataclass

_OPENING = "【《（(“‘\"'"
_LATIN = "a-zA-Zàáâãäåæçèéêëìíîïðñòóôõöùúûüýþÿđơưăáàảãạắằẳẵặấầẩẫậéèẻẽẹếềểễệíìỉĩịóòỏõọốồổỗộớờởỡợúùủũụứừửữựôâêơưỷỹ"
"""The capitals of all these accents and the letters of the other Latin languages are not in it: they break a run of Latin."""


def _run(letters: str) -> str:
    """One or more of: opening marks, letters, then whatever is no word; since marks are no words either, in linear time."""
    return rf"[{_OPENING}]*[{letters}][{letters}\W]*"


@dataclass(frozen=True)
class LinePattern:
    """What is cut out as one placeholder.

    Attributes:
        tag: First two characters of the placeholder.
        expression: What it is.
        spares_whole_line: A line that is one single match stays as it is.
    """

    tag: str
    expression: re.Pattern[str]
    spares_whole_line: bool = False


MANUAL, KOREAN, THAI, RUSSIAN, NUMBER, LATIN, QUOTED, BRACKETED = "$1", "$6", "$8", "$7", "00", "$5", "$3", "$4"
PATTERNS = (
    # <zh>text</zh>. The bound keeps hostile lines short; nobody tags more at once.
    LinePattern(MANUAL, re.compile(r"<([a-zA-Z|-]{1,50})>(.{0,1000}?)</?\1>")),
    LinePattern(KOREAN, re.compile(_run("\uac00-\ud7a3"))),
    LinePattern(THAI, re.compile(_run("\u0e00-\u0e7f"))),
    LinePattern(RUSSIAN, re.compile(_run("А-Яа-яЁё"))),
    # Marks, digits, at least one mark, digits, marks, digits. Possessive runs and lookbehinds keep this linear.
    LinePattern(NUMBER, re.compile(r"(?:(?<!\W)\W++)?(?<!\d)\d++\W++\d*+\W*+\d*+"), spares_whole_line=True),
    LinePattern(LATIN, re.compile(_run(_LATIN))),
    LinePattern(QUOTED, re.compile(r"([\"']).*?\1"), spares_whole_line=True),
    LinePattern(BRACKETED, re.compile(r"[【《（(“‘][^【《（(“‘’”)）》】]{3,}[’”)）》】]\W*"), spares_whole_line=True),
)
PLACEHOLDER = re.compile(r"(⑥(?:\$[1345678]|00)[0-9]{6}⑥)")
NUMBER_OR_PLACEHOLDER = re.compile(r"⑥00[0-9]{6}⑥|\d+")


def placeholder(tag: str, index: int) -> str:
    """What stands for a match: the mark is a word character and no digit, so that later patterns do not cut it apart."""
    return f"⑥{tag}{index:06}⑥"


def placeholder_tag(placeholder: str) -> str:
    """Tag of the pattern that a placeholder stands for."""
    return placeholder[1:3]
