"""Numbers as words, by num2words: amounts of money, decimals, ordinals, cardinals. Chinese has its own module; Japanese and Hindi none.

Under the REFERENCE rules the library's and the reference's gaps stay: no Czech, riyals for every Arabic amount, Turkish decimals with
their comma. The REVISED rules fill them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from threading import Lock

from encoder_svc.lyrics.languages import LyricRules
from encoder_svc.lyrics.libraries import load

LANGUAGES = frozenset({"en", "de", "fr", "es", "it", "pt", "pl", "tr", "ru", "cs", "nl", "ar", "hu", "ko"})
STAYED_DIGITS = "a number cannot be spelled, so the numbers of this line stay digits"
NO_AMOUNT = "an amount of money cannot be spelled and is read as a plain number"
_MAX_DIGITS = 1000
_LOCK = Lock()
"""num2words keeps the number being spelled in its converters."""

_SIGNS = {"GBP": "£", "USD": r"\$", "EUR": "€"}
# Lookbehinds and possessive runs keep these linear on long runs of digits.
_AMOUNTS = {currency: re.compile(rf"{sign}[0-9.,]*[0-9]|(?<![0-9.,])[0-9.,]*+(?<=[0-9]){sign}") for currency, sign in _SIGNS.items()}
_DECIMAL = re.compile(r"(?<![0-9])([0-9]++)[.,]([0-9]+)")
_CARDINAL = re.compile(r"[0-9]+")
_ORDINAL_ENDINGS = {
    "en": "st|nd|rd|th",
    "es": "º|ª|er|o|a|os|as",
    "fr": "º|ª|er|re|e|ème",
    "de": r"st|nd|rd|th|º|ª|\.(?=\s|$)",
    "pt": "º|ª|o|a|os|as",
    "it": "º|°|ª|o|a|i|e",
    "pl": "º|ª|st|nd|rd|th",
    "ar": "ون|ين|ث|ر|ى",
    "cs": r"\.(?=\s|$)",
    "ru": "-й|-я|-е|-ое|-ье|-го",
    "nl": "de|ste|e",
    "tr": r"\.|inci|nci|uncu|üncü",
    "hu": r"\.|adik|edik|odik|ödik|ödike|ik",
    "ko": "번째|번|차|째",
}
_ORDINALS = {language: re.compile(rf"(?<![0-9])([0-9]++)(?:{endings})") for language, endings in _ORDINAL_ENDINGS.items()}
_CONJUNCTIONS = {"es": " con ", "fr": " et ", "de": " und ", "pt": " e ", "it": " e "}
"""What stands before the cents; elsewhere a comma."""
_CURRENCY_WORDS = {
    "ar": {"GBP": "جنيه", "USD": "دولار", "EUR": "يورو"},
    "cs": {"GBP": "liber", "USD": "dolarů", "EUR": "eur"},
    "hu": {"GBP": "font", "USD": "dollár", "EUR": "euró"},
    "ko": {"GBP": "파운드", "USD": "달러", "EUR": "유로"},
    "pl": {"GBP": "funtów", "USD": "dolarów", "EUR": "euro"},
    "ru": {"GBP": "фунтов", "USD": "долларов", "EUR": "евро"},
    "tr": {"GBP": "sterlin", "USD": "dolar", "EUR": "euro"},
}
"""For the REVISED rules, where the library knows no such currency."""
_POINTS = {"ar": "فاصلة", "tr": "virgül"}

_COMMA_GROUPS = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})*(?:\.[0-9]+)?")
_ANY_GROUPS = re.compile(r"[0-9]{1,3}(?:.[0-9]{3})*(?:,[0-9]+)?")
_PROPER_COMMA_GROUPS = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9]|,[0-9])")
_POINT_SEPARATORS = ".'\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}\N{THIN SPACE}"
_PROPER_POINT_GROUPS = re.compile(rf"(?<![0-9.,])[1-9][0-9]{{0,2}}(?:[{_POINT_SEPARATORS}][0-9]{{3}})+(?![0-9]|\.[0-9])")


class _Unspeakable(ValueError):
    """A number that cannot be spelled."""


@dataclass(frozen=True)
class Spelled:
    """A text with its numbers as words.

    Attributes:
        text: As given if one of them cannot be spelled.
        warnings: What was not spelled as it should be.
    """

    text: str
    warnings: tuple[str, ...]


def spell_numbers(text: str, language: str, rules: LyricRules) -> Spelled:
    """Spell all numbers of a text, or none if one of them cannot be spelled.

    Args:
        text: Lower case.
        language: One of `LANGUAGES`.
        rules: The rule set.
    Raises:
        MissingLibrary: num2words is not installed.
    """
    if rules is LyricRules.REVISED:
        text = "".join(str(int(character)) if character.isdecimal() else character for character in text)
    if not _CARDINAL.search(text):
        return Spelled(text, ())
    warnings: list[str] = []
    spelled = _without_separators(text, language, rules)
    try:
        spelled, failed = _spell_amounts(spelled, language, rules)
        if failed:
            warnings.append(NO_AMOUNT)
        if language != "tr" or rules is LyricRules.REVISED:
            spelled = _substitute(_DECIMAL, partial(_decimal, language=language, rules=rules), spelled, rules)
        spelled = _substitute(_ORDINALS[language], lambda match: _words(_integer(match[1]), language, rules, ordinal=True), spelled, rules)
        spelled = _substitute(_CARDINAL, lambda match: _words(_integer(match.group()), language, rules), spelled, rules)
    except _Unspeakable:
        return Spelled(text, (STAYED_DIGITS,))
    return Spelled(spelled, tuple(warnings))


def _substitute(pattern: re.Pattern[str], spell: Callable[[re.Match[str]], str], text: str, rules: LyricRules) -> str:
    """Spell all matches. Under the revised rules one that cannot be is left to the next step, or as digits at last."""

    def spell_or_leave(match: re.Match[str]) -> str:
        try:
            return spell(match)
        except _Unspeakable:
            if rules is LyricRules.REFERENCE:
                raise
            return match.group()

    return pattern.sub(spell_or_leave, text)


def _without_separators(text: str, language: str, rules: LyricRules) -> str:
    """Take the separators out of groups of three digits.

    The reference's groups are any one to three digits, and outside English and Russian any character separates them.
    """
    if rules is LyricRules.REVISED:
        groups, separators = (_PROPER_COMMA_GROUPS, ",") if language == "en" else (_PROPER_POINT_GROUPS, _POINT_SEPARATORS)
    else:
        groups, separators = (_COMMA_GROUPS, ",") if language in ("en", "ru") else (_ANY_GROUPS, ".")
    return groups.sub(lambda match: match.group().translate(dict.fromkeys(map(ord, separators))), text)


def _spell_amounts(text: str, language: str, rules: LyricRules) -> tuple[str, bool]:
    """Spell amounts of money; the first currency that fails leaves the rest to the plain numbers."""
    for currency, pattern in _AMOUNTS.items():
        try:
            text = pattern.sub(partial(_amount, language=language, currency=currency, rules=rules), text)
        except _Unspeakable:
            return text, True
    return text, False


def _amount(match: re.Match[str], language: str, currency: str, rules: LyricRules) -> str:
    digits = re.sub(r"[^0-9.]", "", match.group().replace(",", "."))
    try:
        value = float(digits)
    except ValueError as error:
        raise _Unspeakable(digits) from error
    fallback = _CURRENCY_WORDS.get(language, {}).get(currency) if rules is LyricRules.REVISED else None
    if fallback and language == "ar":  # the library reads every currency as riyals
        return _amount_in(fallback, value, language, rules)
    try:
        words = _words(value, language, rules, to="currency", currency=currency)
    except _Unspeakable:
        if fallback:
            return _amount_in(fallback, value, language, rules)
        raise
    return _without_cents(words, language, rules) if value.is_integer() else words


def _amount_in(currency: str, value: float, language: str, rules: LyricRules) -> str:
    whole, _, cents = f"{value:.2f}".partition(".")
    words = _words(_integer(whole), language, rules)
    return f"{words} {currency}" if cents == "00" else f"{words} {currency} {_words(int(cents), language, rules)}"


def _without_cents(words: str, language: str, rules: LyricRules) -> str:
    """Cut ", zero cents" off. The reference cuts at the last conjunction whatever follows: Portuguese "vinte e um euros" loses its one."""
    head, conjunction, tail = words.rpartition(_CONJUNCTIONS.get(language, ", "))
    if not conjunction:
        return words
    if rules is LyricRules.REVISED and not tail.startswith(_words(0, language, rules)):
        return words
    return head


def _decimal(match: re.Match[str], language: str, rules: LyricRules) -> str:
    """In Turkish and Arabic the library reads one decimal as hundredths, 12.5 as "twelve point fifty"; here they are read one by one."""
    if rules is LyricRules.REFERENCE or language not in _POINTS:
        return _words(float(f"{match[1]}.{match[2]}"), language, rules)
    digits = (_words(int(digit), language, rules) for digit in match[2])
    return f"{_words(_integer(match[1]), language, rules)} {_POINTS[language]} {' '.join(digits)}"


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise _Unspeakable(f"a number of {len(digits)} digits")
    return int(digits)


def _words(number: float, language: str, rules: LyricRules, **options: str | bool) -> str:
    if language == "cs" and rules is LyricRules.REFERENCE:  # it asks the library for "cz", which that does not know
        raise _Unspeakable("cz")
    try:
        with _LOCK:
            words: str = _num2words()(number, lang=language, **options)
    except Exception as error:  # the library raises whatever its arithmetic raises
        raise _Unspeakable(str(number)) from error
    return words


@cache
def _num2words() -> Callable[..., str]:
    spell: Callable[..., str] = load("num2words", "numbers").num2words
    return spell
