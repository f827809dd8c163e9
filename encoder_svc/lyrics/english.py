"""English lines to the spelling that the lyric encoder was trained on: numbers, abbreviations and symbols as words.

The rules, their order and their oddities ("5th St." becomes "fifth saint") are those of the model's training; mending them changes tokens.
"""

import re
from functools import partial

from num2words import num2words

_GROUPED = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})*(?:\.[0-9]+)?")
# Lookbehinds and possessive runs keep these linear on long runs of digits.
_DECIMAL = re.compile(r"(?<![0-9])[0-9]++[.,][0-9]+")
_ORDINAL = re.compile(r"(?<![0-9])([0-9]++)(?:st|nd|rd|th)")
_CARDINAL = re.compile(r"[0-9]+")
_WHITESPACE = re.compile(r"\s+")
_CURRENCIES = {
    code: re.compile(rf"{sign}[0-9.,]*[0-9]|(?<![0-9.,])[0-9.,]*+(?<=[0-9]){sign}")
    for code, sign in (("GBP", "£"), ("USD", r"\$"), ("EUR", "€"))
}
_ABBREVIATIONS = {
    "mrs": "misess",
    "mr": "mister",
    "dr": "doctor",
    "st": "saint",
    "co": "company",
    "jr": "junior",
    "maj": "major",
    "gen": "general",
    "drs": "doctors",
    "rev": "reverend",
    "lt": "lieutenant",
    "hon": "honorable",
    "sgt": "sergeant",
    "capt": "captain",
    "esq": "esquire",
    "ltd": "limited",
    "col": "colonel",
    "ft": "fort",
}
_ABBREVIATION_PATTERNS = [(re.compile(rf"\b{short}\.", re.IGNORECASE), word) for short, word in _ABBREVIATIONS.items()]
UNSPELLABLE = (ArithmeticError, ValueError, LookupError, TypeError, NotImplementedError)
"""What num2words and the conversions before it raise for a number that they cannot spell."""
_SYMBOLS = {"&": "and", "@": "at", "%": "percent", "#": "hash", "$": "dollar", "£": "pound", "°": "degree"}


def clean(line: str) -> tuple[str, list[str]]:
    """Clean one line.

    Returns:
        The text to tokenise, and warnings.
    """
    text = line.replace('"', "").lower()
    text, warnings = _expand_numbers(text)
    for pattern, word in _ABBREVIATION_PATTERNS:
        text = pattern.sub(word, text)
    for symbol, word in _SYMBOLS.items():
        text = text.replace(symbol, f" {word} ").replace("  ", " ")
    return _WHITESPACE.sub(" ", text.strip()), warnings


def _expand_numbers(text: str) -> tuple[str, list[str]]:
    """Spell all numbers, or none if one of them cannot be spelled."""
    warnings: list[str] = []
    spelled = _GROUPED.sub(lambda match: match.group().replace(",", ""), text)
    try:
        for code, pattern in _CURRENCIES.items():
            spelled = pattern.sub(partial(_spell_amount, currency=code), spelled)
    except UNSPELLABLE:
        warnings.append("an amount of money cannot be spelled and is read as a plain number")
    try:
        spelled = _DECIMAL.sub(lambda match: num2words(float(match.group().replace(",", ".")), lang="en"), spelled)
        spelled = _ORDINAL.sub(lambda match: num2words(int(match.group(1)), lang="en", ordinal=True), spelled)
        spelled = _CARDINAL.sub(lambda match: num2words(int(match.group()), lang="en"), spelled)
    except UNSPELLABLE:
        return text, ["a number cannot be spelled, so the numbers of this line stay digits"]
    return spelled, warnings


def _spell_amount(match: re.Match[str], currency: str) -> str:
    value = float(re.sub(r"[^0-9.]", "", match.group().replace(",", ".")))
    words: str = num2words(value, lang="en", to="currency", currency=currency)
    if value.is_integer() and ", " in words:
        return words[: words.rindex(", ")]  # drops ", zero cents"
    return words
