"""The language of a line by its script and, for Latin letters, by the identifier with the whole lyrics in mind.

What this mends in the reference's detector:

* only letters count: a number at the start of a line makes nothing Chinese, and English words beside it stay English;
* there is no rule that prefers the runner-up to English;
* the identifier sees the line in lower case with its doubled letters, in one piece, each word once;
* it starts from a prior: languages without a tag must be far likelier than any with one, and the language of most of the lyrics' sure
  lines is preferred where a line does not say much;
* Chinese and Japanese are told apart by kana. A line of Chinese characters alone is Japanese in lyrics that are mostly kana lines, if
  Japanese has all its characters.

Chinese characters, kana and Hangul decide a line however much Latin stands beside them: only their own language can read them, and it
lets Latin pass.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from encoder_svc.lyrics import identifier
from encoder_svc.lyrics.languages import FALLBACK, LANGUAGES, LanguageReason

# Natural logarithms of odds.
WITHOUT_TAG = -12.0
"""For languages that the vocabulary has no tag for: a long Danish line is still Danish, a short Spanish one no longer Galician."""
ENGLISH = 0.5
"""A syllable that fits every language is English."""
AROUND = 10.0
"""For the language of the lyrics around a line."""
SURE = 10.0
"""By how much a line's language must lead to have a say in that of others."""

_NO_LETTERS = re.compile(r"[\W\d_]+")
_SCRIPTS = (
    ("LATIN", "Latin"),
    ("CYRILLIC", "ru"),
    ("ARABIC", "ar"),
    ("DEVANAGARI", "hi"),
    ("HANGUL", "ko"),
    ("CJK", "Han"),
    ("HIRAGANA", "ja"),
    ("KATAKANA", "ja"),
    ("GREEK", "el"),
    ("HEBREW", "he"),
    ("THAI", "th"),
)


@dataclass(frozen=True)
class LyricContext:
    """What the whole lyrics say about a line that says little itself.

    Attributes:
        whole: Language with most letters; "" unknown.
        latin: Language with most letters in Latin lines that are sure; "" unknown.
        han: Language of lines of Chinese characters alone.
    """

    whole: str = ""
    latin: str = ""
    han: str = "zh"


NO_CONTEXT = LyricContext()


@dataclass(frozen=True)
class Guess:
    """A line's language; `score` where the identifier was asked; `lead`: its log odds to the next one with a tag."""

    language: str
    reason: LanguageReason
    score: float | None = None
    lead: float = 0.0


def has_letters(text: str) -> bool:
    """Whether there is anything whose language can be told."""
    return _NO_LETTERS.fullmatch(text) is None and bool(text)


def read_context(lines: Iterable[str]) -> LyricContext:
    """What lyrics say about their lines."""
    whole: Counter[str] = Counter()
    latin: Counter[str] = Counter()
    han: Counter[str] = Counter()
    for line in lines:
        letters = _letters(line)
        if not letters:
            continue
        count = letters.total()
        guess_alone = guess(line, NO_CONTEXT)
        whole[guess_alone.language] += count
        if guess_alone.reason is LanguageReason.IDENTIFIED and guess_alone.lead >= SURE:
            latin[guess_alone.language] += count
        elif guess_alone.language in ("zh", "ja"):
            han[guess_alone.language] += count
    return LyricContext(_first(whole, ""), _first(latin, ""), _first(han, "zh"))


def guess(line: str, context: LyricContext) -> Guess:
    """The language of a line that is not blank, which may be one without a tag.

    Raises:
        MissingLibrary: The identifier is not installed.
    """
    letters = _letters(line)
    if not letters:
        if context.whole:
            return Guess(context.whole, LanguageReason.REST_OF_LYRICS)
        return Guess(FALLBACK, LanguageReason.DEFAULT)
    characters = letters["Han"] + letters["ja"]
    if characters or letters["ko"]:
        if letters["ko"] > characters:
            return Guess("ko", LanguageReason.SCRIPT)
        if letters["ja"]:
            return Guess("ja", LanguageReason.SCRIPT)
        if context.han == "ja" and _in_japanese_character_set(line):
            return Guess("ja", LanguageReason.REST_OF_LYRICS)
        return Guess("zh", LanguageReason.SCRIPT)
    script = _first(letters, "")
    if script != "Latin" and script in LANGUAGES:
        return Guess(script, LanguageReason.SCRIPT)
    return _identify(line, context.latin)


def _identify(line: str, around: str) -> Guess:
    words = dict.fromkeys(_NO_LETTERS.sub(" ", line.lower()).split())  # "la la la" says no more than "la"
    evidence = identifier.log_probabilities(" ".join(words)) + _prior()
    codes = identifier.languages()
    best = codes[int(np.argmax(evidence))]
    tagged = sorted((float(evidence[codes.index(code)]) for code in LANGUAGES if code != best), reverse=True)
    lead = float(evidence.max()) - tagged[0]
    reason = LanguageReason.IDENTIFIED
    if around and around != best:
        evidence[codes.index(around)] += AROUND
        if codes[int(np.argmax(evidence))] == around:
            best, reason = around, LanguageReason.REST_OF_LYRICS
    with np.errstate(over="ignore"):
        share = 1 / np.exp(evidence - evidence[codes.index(best)]).sum()
    return Guess(best, reason, round(float(share), identifier.SCORE_DECIMALS), lead)


def _in_japanese_character_set(line: str) -> bool:
    """Whether Japanese has all its Chinese characters; it lacks most simplified ones."""
    try:
        "".join(character for character in line if _script(character) == "Han").encode("euc_jis_2004")
    except UnicodeEncodeError:
        return False
    return True


@cache
def _prior() -> NDArray[np.float64]:
    weights = {code: 0.0 if code in LANGUAGES else WITHOUT_TAG for code in identifier.languages()} | {"en": ENGLISH}
    return np.array(list(weights.values()))


def _letters(line: str) -> Counter[str]:
    """Letters of every script, in the order of their first appearance."""
    return Counter(_script(character) for character in line if character.isalpha())


@cache
def _script(letter: str) -> str:
    name = unicodedata.name(unicodedata.normalize("NFKC", letter)[0], "")
    return next((script for prefix, script in _SCRIPTS if name.startswith(prefix)), "other")


def _first(counts: Counter[str], default: str) -> str:
    return max(counts, key=counts.__getitem__, default=default)
