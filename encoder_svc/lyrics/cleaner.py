"""Lines to the spelling that the lyric encoder was trained on: numbers, abbreviations and symbols as words, everything in its script.

The rules, their order and their oddities ("5th St." becomes "fifth saint") are those of the model's training; mending them changes tokens.
"""

import re
from dataclasses import dataclass

from encoder_svc.lyrics import chinese_numbers, number_words, spoken_words, transliteration
from encoder_svc.lyrics.languages import LyricRules

_WHITESPACE = re.compile(r"\s+")
_DIGITS = re.compile(r"\d")
_TURKISH_CAPITALS = str.maketrans("İÖÜ", "iöü")
DIGITS_STAY = "digits stay: numbers like these are not spelled in this language"


@dataclass(frozen=True)
class CleanedLine:
    """The text to tokenise, and warnings."""

    text: str
    warnings: tuple[str, ...] = ()


def clean(line: str, language: str, rules: LyricRules = LyricRules.REFERENCE) -> CleanedLine:
    """Clean one line.

    Args:
        line: As written.
        language: One of `languages.LANGUAGES`.
        rules: The rule set.
    Raises:
        MissingLibrary: The language's library is not installed.
    """
    match language:
        case "ja":
            cleaned = CleanedLine(transliteration.romaji(line))
        case "hi":
            cleaned = CleanedLine(_WHITESPACE.sub(" ", line.lower()))
        case "zh":
            common = _clean_common(line, language, rules)
            cleaned = CleanedLine(transliteration.pinyin(common.text), common.warnings)
        case "ko":
            common = _clean_common(line, language, rules)
            cleaned = CleanedLine(transliteration.romaja(common.text), common.warnings)
        case _:
            cleaned = _clean_common(line, language, rules)
    if language != "zh" and not cleaned.warnings and _DIGITS.search(cleaned.text):  # those of pinyin are tones
        return CleanedLine(cleaned.text, (DIGITS_STAY,))
    return cleaned


def _clean_common(line: str, language: str, rules: LyricRules) -> CleanedLine:
    text = line.replace('"', "")
    if language == "tr":
        text = text.translate(_TURKISH_CAPITALS)
    text = text.lower()
    warnings: tuple[str, ...] = ()
    if language == "zh":
        try:
            text = chinese_numbers.clean(text, revised=rules is LyricRules.REVISED)
        except chinese_numbers.TooManyDigits:
            warnings = (number_words.STAYED_DIGITS,)
    else:
        spelled = number_words.spell_numbers(text, language, rules)
        text, warnings = spelled.text, spelled.warnings
    text = spoken_words.expand_abbreviations(text, language)
    text = spoken_words.expand_symbols(text, language)
    return CleanedLine(_WHITESPACE.sub(" ", text), warnings)
