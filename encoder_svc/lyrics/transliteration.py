"""Chinese, Japanese and Korean to Latin letters, as the vocabulary has them, and every other script to plain ones.

Each library is loaded by the first line that needs it.
"""

from functools import cache
from threading import Lock
from typing import Any

from encoder_svc.lyrics.libraries import load

_JAPANESE_LOCK = Lock()


def pinyin(text: str) -> str:
    """Every Chinese character as its syllable with the tone behind it, 5 for none: "ni3hao3". Everything else stays.

    Raises:
        MissingLibrary: pypinyin is not installed.
    """
    library = load("pypinyin", "Chinese")
    return "".join(reading[0] for reading in library.pinyin(text, style=library.Style.TONE3, neutral_tone_with_five=True))


def romaji(text: str) -> str:
    """Japanese in Hepburn, words apart, English loan words in English, lower case. An unknown character is a question mark.

    Raises:
        MissingLibrary: cutlet, fugashi or its dictionary is not installed.
    """
    cutlet = _cutlet()
    with _JAPANESE_LOCK:  # MeCab's parser has one state
        result: str = cutlet.romaji(text)
    return result.lower()


def romaja(text: str) -> str:
    """Korean by the academic rule: "eum-ag-eul". Everything else stays.

    Raises:
        MissingLibrary: hangul-romanize is not installed.
    """
    result: str = _korean().translit(text)
    return result


def latin(text: str) -> str:
    """Text of any script in unaccented Latin letters, character by character.

    Raises:
        MissingLibrary: anyascii is not installed.
    """
    result: str = load("anyascii", "a language without a tag").anyascii(text)
    return result


@cache
def _cutlet() -> Any:
    load("unidic_lite", "Japanese")  # fugashi finds it by itself, but does not say that it is missing
    return load("cutlet", "Japanese").Cutlet()


@cache
def _korean() -> Any:
    library = load("hangul_romanize", "Korean")
    return library.Transliter(load("hangul_romanize.rule", "Korean").academic)
