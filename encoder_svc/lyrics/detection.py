"""The language of a line, and why: as the reference finds it, or by the revised rules."""

import re
from dataclasses import dataclass

from encoder_svc.lyrics import revised_detection, segmenter
from encoder_svc.lyrics.languages import FALLBACK, LanguageReason, LyricRules
from encoder_svc.lyrics.revised_detection import LyricContext

NOTHING_COUNTED = "zh"
"""What the reference takes a line without letters for."""
_BEGINS_WITH_TAG = re.compile(r"\[.*?\]")


@dataclass(frozen=True)
class Detection:
    """What a line is read as.

    Attributes:
        language: Code that it is encoded with; "" for a blank line.
        reason: Why.
        detected: What it was taken for, which may be a language that the vocabulary has no tag for.
        score: Probability that the identifier gives it; None where it was not asked.
    """

    language: str
    reason: LanguageReason
    detected: str = ""
    score: float | None = None


def begins_with_structure_tag(line: str) -> bool:
    """Whether a line begins with anything in square brackets."""
    return _BEGINS_WITH_TAG.match(line) is not None


def detect(line: str, languages: tuple[str, ...], rules: LyricRules, context: LyricContext) -> Detection:
    """Find the language of a line.

    Args:
        line: Not blank, without whitespace around it.
        languages: Codes that the vocabulary has tags for.
        rules: The rule set.
        context: The lyrics around it, for the revised rules.
    Raises:
        MissingLibrary: The identifier is not installed.
    """
    if rules is LyricRules.REVISED:
        rest = _BEGINS_WITH_TAG.sub("", line, count=1) if begins_with_structure_tag(line) else line
        if rest != line and not revised_detection.has_letters(rest):
            return Detection(FALLBACK, LanguageReason.STRUCTURE_TAG)
        guess = revised_detection.guess(rest, context)
        found, reason, score = guess.language, guess.reason, guess.score
    elif begins_with_structure_tag(line):
        return Detection(FALLBACK, LanguageReason.STRUCTURE_TAG)
    else:
        found, reason, score = _detect_by_reference(line)
    return Detection(found if found in languages else FALLBACK, reason, found, score)


def _detect_by_reference(line: str) -> tuple[str, LanguageReason, float | None]:
    """The language with most characters; but the runner-up if that is English and there is another."""
    cut = segmenter.segment_line(line)
    ranked = sorted(cut.counts, key=cut.counts.__getitem__, reverse=True)
    if not ranked:
        return NOTHING_COUNTED, LanguageReason.DEFAULT, None
    found = ranked[1] if ranked[0] == "en" and len(ranked) > 1 else ranked[0]
    scores = [segment.score for segment in cut.segments if segment.language == found]
    if not revised_detection.has_letters(line):
        return found, LanguageReason.DEFAULT, None
    return found, LanguageReason.IDENTIFIED, max(scores, default=None)
