"""Whole lyrics to token ids, with an account of every line.

Only English is built: a line is read as English, and one that cannot be is refused, never dropped. A line break and a word break are
the same token, and there is no end token: that is how the model was trained.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from acestep_rpc.errors import InvalidRequest
from encoder_svc.lyrics import english
from encoder_svc.lyrics.structure_tags import bracketed, nearest
from encoder_svc.lyrics.vocabulary import LyricVocabulary

FIELD = "prompt.lyrics"
MAX_LYRIC_TOKENS = 4096
MAX_LYRIC_CHARACTERS = 1 << 16
"""Sixteen a token, four times what English needs: longer lyrics are refused before work is spent on them."""
LANGUAGES = ("en",)
CACHED_LINES = 4096
MAX_CACHED_CHARACTERS = 256
"""Length of a line that is kept; choruses repeat, walls of text do not."""
MAX_REPORTED_LINES = 16
MAX_REPORTED_TAGS = 8
_LETTERS = frozenset({"Lu", "Ll", "Lt", "Lo"})


@dataclass(frozen=True)
class EncodedLine:
    """What one line became. Blank lines have no language, no text and no ids."""

    language: str
    normalized_text: str
    ids: tuple[int, ...]
    """Without the line break."""
    unknown_characters: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class EncodedLyrics:
    """Token ids of the whole lyrics (none for empty lyrics), and its lines in order."""

    ids: list[int]
    lines: list[EncodedLine]


class UnreadableLine(ValueError):
    """A line cannot be encoded; the message says why."""


_BLANK = EncodedLine("", "", (), (), ())


class LyricTokenizer:
    """Tokenises lyrics. Safe to use from several threads; repeated lines are encoded once.

    Args:
        path: The checkpoint's `lyric_vocab.json`.
        embedding_rows: Rows of the lyric embedding.
    Raises:
        CheckpointError: The vocabulary does not fit.
    """

    def __init__(self, path: Path, embedding_rows: int) -> None:
        self.vocabulary = LyricVocabulary(path, LANGUAGES, embedding_rows)
        self._encode_cached = lru_cache(maxsize=CACHED_LINES)(self._encode_english)

    def encode(self, lyrics: str) -> EncodedLyrics:
        r"""Encode lyrics: a start token, then every line followed by a line break. Lines end at \n.

        Raises:
            InvalidRequest: Lines that cannot be read, each named by its number, or too many tokens or characters.
        """
        if not lyrics:
            return EncodedLyrics([], [])
        if len(lyrics) > MAX_LYRIC_CHARACTERS:
            raise InvalidRequest(FIELD, f"{len(lyrics)} characters", f"at most {MAX_LYRIC_CHARACTERS} characters")
        ids = [self.vocabulary.start_id]
        lines: list[EncodedLine] = []
        violations: list[tuple[str, str]] = []
        for number, raw in enumerate(lyrics.split("\n"), start=1):
            text = raw.strip()
            try:
                line = self.encode_line(text)
            except UnreadableLine as reason:
                violations.append((FIELD, f"line {number}, {_shorten(text)}: {reason}"))
                if len(violations) == MAX_REPORTED_LINES:
                    break
                continue
            lines.append(line)
            ids += line.ids
            ids.append(self.vocabulary.space_id)
        if violations:
            raise InvalidRequest.from_violations(violations)
        if len(ids) > MAX_LYRIC_TOKENS:
            raise InvalidRequest(FIELD, f"{len(ids)} tokens", f"at most {MAX_LYRIC_TOKENS} tokens")
        return EncodedLyrics(ids, lines)

    def encode_line(self, text: str) -> EncodedLine:
        """Encode one line without whitespace around it.

        Raises:
            UnreadableLine: It cannot be read.
        """
        if not text:
            return _BLANK
        return self._encode_cached(text) if len(text) <= MAX_CACHED_CHARACTERS else self._encode_english(text)

    def _encode_english(self, text: str) -> EncodedLine:
        controls = [character for character in text if unicodedata.category(character) == "Cc" and character != "\t"]
        if controls:
            raise UnreadableLine(f"control characters {_listing(controls)} are not allowed")
        normalized, warnings = english.clean(text)
        ids, unknown = self.vocabulary.encode("[en]" + normalized)
        foreign = [letter for letter in normalized if _is_letter(letter) and (letter in unknown or not _is_latin(letter))]
        if foreign:
            raise UnreadableLine(f"letters {_listing(foreign)} cannot be read as English; languages built: {', '.join(LANGUAGES)}")
        warnings += self._unknown_tags(text)
        return EncodedLine("en", normalized, tuple(ids), tuple(unknown), tuple(warnings))

    def _unknown_tags(self, text: str) -> list[str]:
        known = self.vocabulary.structure_tags
        unknown = list(dict.fromkeys(tag for tag in bracketed(text) if not self.vocabulary.is_special(tag.lower())))
        warnings = []
        for tag in unknown[:MAX_REPORTED_TAGS]:
            meant = nearest(tag, known)
            hint = f"the nearest known one is {meant}" if meant else f"known: {' '.join(known)}"
            warnings.append(f"{_shorten(tag)} is not a structure tag that the model knows; {hint}")
        if len(unknown) > MAX_REPORTED_TAGS:
            warnings.append(f"{len(unknown) - MAX_REPORTED_TAGS} more unknown structure tags")
        return warnings


def _is_letter(character: str) -> bool:
    return unicodedata.category(character) in _LETTERS


def _is_latin(letter: str) -> bool:
    return all(unicodedata.name(part, "").startswith("LATIN ") for part in unicodedata.normalize("NFKC", letter))


def _listing(characters: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(characters))
    more = f" and {len(distinct) - 8} more" if len(distinct) > 8 else ""
    return ", ".join(repr(character) for character in distinct[:8]) + more


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
