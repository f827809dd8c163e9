"""How many syllables a line has, as far as its spelling tells: a hint for authors, not phonetics."""

import re
import unicodedata

_TAGS = re.compile(r"\[[^\[\]]*\]")
_PINYIN = re.compile(r"[a-zü]+[1-5]")
_MORAE = re.compile(r"[aeiou]|n(?![aeiouy])")
_DEVANAGARI = re.compile(r"[\u0904-\u0914]|[\u0915-\u0939\u0958-\u095f](?![\u093c]?\u094d)")
_ARABIC = re.compile(r"[\u0621-\u064a]")
_CYRILLIC_VOWELS = re.compile(r"[аеиоуыэюяіїє]")
_VOWELS = re.compile(r"[aeiouy]+")
_SILENT_E = re.compile(r"(?<=[aeiouy])([^aeiouy\W]+)e\b")


def count_syllables(text: str, language: str) -> int:
    """Syllables of a line as `cleaner.clean` gives it; of Japanese its morae.

    Chinese has one a tone. Devanagari has one a consonant that no sign silences and one a vowel that stands alone. Arabic, which leaves
    short vowels out, is taken for one in two letters. Elsewhere it is one a group of vowels, in English without a silent e.
    """
    text = _TAGS.sub(" ", text.lower())
    match language:
        case "zh":
            rest, tones = _PINYIN.subn(" ", text)
            return tones + len(_VOWELS.findall(rest))
        case "ja":
            return len(_MORAE.findall(text))
        case "hi":
            return len(_DEVANAGARI.findall(text)) + _count_vowel_groups(text)
        case "ar":
            return -(-len(_ARABIC.findall(text)) // 2) + _count_vowel_groups(text)
        case "en":
            return _count_vowel_groups(_SILENT_E.sub(r"\1", text))
    return _count_vowel_groups(text)


def _count_vowel_groups(text: str) -> int:
    plain = "".join(letter for letter in unicodedata.normalize("NFD", text) if not unicodedata.combining(letter))
    return len(_VOWELS.findall(plain)) + len(_CYRILLIC_VOWELS.findall(plain))
