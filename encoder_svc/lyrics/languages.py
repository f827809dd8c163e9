"""What a lyric can be sung in, and the two sets of rules to read it by."""

from enum import Enum

LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "pl", "tr", "ru", "cs", "nl", "ar", "zh", "ja", "hu", "ko", "hi")
"""Codes that the official vocabulary has a tag for."""
FALLBACK = "en"
"""What a line without one of these languages is encoded as."""
TRANSLITERATED = (
    "af", "am", "an", "as", "az", "be", "bg", "bn", "br", "bs", "ca", "cy", "da", "dz", "el", "eo", "et", "eu", "fa", "fi", "fo",
    "ga", "gl", "gu", "he", "hr", "ht", "hy", "id", "is", "jv", "ka", "kk", "km", "kn", "ku", "ky", "la", "lb", "lo", "lt", "lv",
    "mg", "mk", "ml", "mn", "mr", "ms", "mt", "nb", "ne", "nn", "no", "oc", "or", "pa", "ps", "qu", "ro", "rw", "se", "si", "sk",
    "sl", "sq", "sr", "sv", "sw", "ta", "te", "th", "tl", "ug", "uk", "ur", "vi", "vo", "wa", "xh", "zu",
)  # fmt: skip
"""Codes that the vocabulary has no tag for, served by writing the line in Latin letters and reading it as `FALLBACK`."""


class LyricRules(Enum):
    """How a line is read.

    REFERENCE gives the tokens that the model was trained on, with every oddity of the reference's detector and cleaners.
    REVISED mends those oddities: each is named where it is mended.
    """

    REFERENCE = "reference"
    REVISED = "revised"


class LanguageReason(Enum):
    """Why a line has the language that it has."""

    BLANK = "blank"
    REQUESTED = "requested"
    ONLY_LANGUAGE = "only language of the vocabulary"
    STRUCTURE_TAG = "begins with a structure tag"
    IDENTIFIED = "identified"
    SCRIPT = "its script"
    REST_OF_LYRICS = "that of the lyrics around it"
    DEFAULT = "nothing to identify"
    UNREADABLE = "cannot be read"


def tag(language: str) -> str:
    """Token that a line in this language begins with."""
    return "[zh-cn]" if language == "zh" else f"[{language}]"
