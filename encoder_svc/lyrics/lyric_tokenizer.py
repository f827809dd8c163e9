"""Whole lyrics to token ids, with an account of every line.

A line is read in one language; one that cannot be read is refused, never dropped. A line break and a word break are the same token, and
there is no end token: that is how the model was trained.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from acestep_rpc.errors import InvalidRequest, Unimplemented
from encoder_svc.lyrics import cleaner, detection, revised_detection, structure_tags, transliteration
from encoder_svc.lyrics.detection import Detection
from encoder_svc.lyrics.languages import FALLBACK, TRANSLITERATED, LanguageReason, LyricRules, tag
from encoder_svc.lyrics.libraries import MissingLibrary
from encoder_svc.lyrics.revised_detection import NO_CONTEXT, LyricContext
from encoder_svc.lyrics.singability import count_syllables
from encoder_svc.lyrics.structure_tags import bracketed, nearest
from encoder_svc.lyrics.vocabulary import LyricVocabulary

FIELD = "prompt.lyrics"
LANGUAGE_FIELD = "lyric_options.language"
MAX_LYRIC_TOKENS = 4096
MAX_LYRIC_CHARACTERS = 1 << 16
"""Sixteen a token, four times what English needs: longer lyrics are refused before work is spent on them."""
CACHED_LINES = 4096
MAX_CACHED_CHARACTERS = 256
"""Length of a line that is kept; choruses repeat, walls of text do not."""
MAX_REPORTED_LINES = 16
MAX_REPORTED_TAGS = 8
_LANGUAGE_TAG = re.compile(r"\[lang:\s*([a-z]+)(?:-[a-z]+)?\s*\]\s*", re.IGNORECASE)
_LETTERS = frozenset({"Lu", "Ll", "Lt", "Lo"})


@dataclass(frozen=True)
class EncodedLine:
    """What one line became. Blank lines and those that were left out have no language, no text and no ids."""

    detection: Detection
    normalized_text: str
    ids: tuple[int, ...]
    """Without the line break."""
    unknown_characters: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def language(self) -> str:
        """Code that the line is encoded with."""
        return self.detection.language

    @property
    def token_count(self) -> int:
        """With the line break, which a line that was left out has not."""
        return 0 if self.detection.reason is LanguageReason.UNREADABLE else len(self.ids) + 1

    @property
    def syllables(self) -> int:
        """As far as the spelling tells."""
        return count_syllables(self.normalized_text, self.language)


@dataclass(frozen=True)
class EncodedLyrics:
    """Token ids of the whole lyrics (none for empty lyrics), and its lines in order."""

    ids: list[int]
    lines: list[EncodedLine]


class UnreadableLine(ValueError):
    """A line cannot be encoded; the message says why."""


_BLANK = EncodedLine(Detection("", LanguageReason.BLANK), "", (), (), ())
_UNREADABLE = EncodedLine(Detection("", LanguageReason.UNREADABLE), "", (), (), ())


class LyricTokenizer:
    """Tokenises lyrics. Safe to use from several threads; repeated lines are encoded once.

    Args:
        path: The checkpoint's `lyric_vocab.json`.
        embedding_rows: Rows of the lyric embedding.
    Raises:
        CheckpointError: The vocabulary does not fit.
    """

    def __init__(self, path: Path, embedding_rows: int) -> None:
        self.vocabulary = LyricVocabulary(path, embedding_rows)
        self._encode_cached = lru_cache(maxsize=CACHED_LINES)(self._encode_line)

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that lines can be read in."""
        return self.vocabulary.languages

    @property
    def transliterated_languages(self) -> tuple[str, ...]:
        """Codes of the languages that are written in Latin letters to be read."""
        return TRANSLITERATED if len(self.languages) > 1 else ()

    def encode(
        self,
        lyrics: str,
        language: str | None = None,
        rules: LyricRules = LyricRules.REFERENCE,
        skip_unreadable: bool = False,
        normalize_tags: bool = False,
    ) -> EncodedLyrics:
        r"""Encode lyrics: a start token, then every line followed by a line break. Lines end at \n.

        Args:
            lyrics: As written. A line that begins with "[lang:ja]" is in that language.
            language: Of every other line; None: each line's own is found.
            rules: How lines are read.
            skip_unreadable: Leave a line that cannot be read out, with a warning, instead of refusing the lyrics.
            normalize_tags: Read unknown structure tags as the nearest known one, and repeated ones once.
        Raises:
            InvalidRequest: Lines that cannot be read, each named by its number, too many tokens or characters, an unknown language.
            Unimplemented: A line's language needs a library that is not installed.
        """
        if language is not None and not self._reads(language):
            raise InvalidRequest(LANGUAGE_FIELD, language, ", ".join(self.languages + self.transliterated_languages))
        if not lyrics:
            return EncodedLyrics([], [])
        if len(lyrics) > MAX_LYRIC_CHARACTERS:
            raise InvalidRequest(FIELD, f"{len(lyrics)} characters", f"at most {MAX_LYRIC_CHARACTERS} characters")
        return self.encode_lines(lyrics.split("\n"), language, rules, skip_unreadable, normalize_tags)

    def encode_lines(
        self,
        lines: Sequence[str],
        language: str | None = None,
        rules: LyricRules = LyricRules.REFERENCE,
        skip_unreadable: bool = False,
        normalize_tags: bool = False,
    ) -> EncodedLyrics:
        """Encode lyrics that are cut into lines; see `encode`."""
        texts = [line.strip() for line in lines]
        changes: list[list[str]] = [[] for _ in lines]
        if normalize_tags:
            texts, changes = _normalized(texts, self.vocabulary.structure_tags)
        ids = [self.vocabulary.start_id]
        encoded: list[EncodedLine] = []
        violations: list[tuple[str, str]] = []
        number, text = 0, ""
        try:
            context = NO_CONTEXT if language else self.read_context(texts, rules)
            for number, text in enumerate(texts, start=1):
                try:
                    line = self.encode_line(text, language, rules, context)
                except UnreadableLine as reason:
                    if not skip_unreadable:
                        violations.append((FIELD, f"line {number}, {shorten(text)}: {reason}"))
                        if len(violations) == MAX_REPORTED_LINES:
                            break
                        continue
                    line = replace(_UNREADABLE, warnings=(f"left out: {reason}",))
                line = replace(line, warnings=(*changes[number - 1], *line.warnings)) if changes[number - 1] else line
                encoded.append(line)
                if line.token_count:
                    ids += line.ids
                    ids.append(self.vocabulary.space_id)
        except MissingLibrary as error:
            where = f"line {number}, {shorten(text)}" if number else "lyrics"
            raise Unimplemented(f"{where}: {error}", field=FIELD) from error
        if violations:
            raise InvalidRequest.from_violations(violations)
        if len(ids) > MAX_LYRIC_TOKENS:
            raise InvalidRequest(FIELD, f"{len(ids)} tokens", f"at most {MAX_LYRIC_TOKENS} tokens")
        return EncodedLyrics(ids, encoded)

    def _reads(self, language: str) -> bool:
        return language.split("-")[0].lower() in self.languages + self.transliterated_languages

    def read_context(self, lines: Iterable[str], rules: LyricRules) -> LyricContext:
        """What the lines say about each other; nothing under rules that look at every line alone.

        Raises:
            MissingLibrary: The identifier is not installed.
        """
        if rules is LyricRules.REFERENCE or len(self.languages) == 1:
            return NO_CONTEXT
        return revised_detection.read_context(line for line in lines if not detection.begins_with_structure_tag(line))

    def encode_line(
        self,
        text: str,
        language: str | None = None,
        rules: LyricRules = LyricRules.REFERENCE,
        context: LyricContext = NO_CONTEXT,
    ) -> EncodedLine:
        """Encode one line.

        Args:
            text: Without line breaks; whitespace around it is not of the same use in all languages.
            language: One of `languages` or `transliterated_languages`, with or without a region; None: found.
            rules: How it is read.
            context: What the lines around it say about it.
        Raises:
            UnreadableLine: It cannot be read.
            MissingLibrary: Its language needs a library that is not installed.
        """
        if not text.strip():
            return _BLANK
        encode = self._encode_cached if len(text) <= MAX_CACHED_CHARACTERS else self._encode_line
        return encode(text, language.split("-")[0].lower() if language else None, rules, context)

    def _encode_line(self, text: str, language: str | None, rules: LyricRules, context: LyricContext) -> EncodedLine:
        controls = [character for character in text if unicodedata.category(character) in ("Cc", "Cs") and not character.isspace()]
        if controls:
            raise UnreadableLine(f"control characters {_listing(controls)} are not allowed")
        text, language = self._without_language_tag(text, language)
        found = self._detect(text, language, rules, context)
        warnings = []
        if found.detected in TRANSLITERATED and (rules is LyricRules.REVISED or found.reason is LanguageReason.REQUESTED):
            text = transliteration.latin(text)
            warnings = [f"the model has no tag for {found.detected!r}: the line is read as {found.language!r} in Latin letters"]
        elif found.detected and found.detected not in self.languages:
            warnings = [f"the line seems to be in {found.detected!r}, which the model has no tag for: it is read as {found.language!r}"]
        cleaned = cleaner.clean(text, found.language, rules)
        ids, unknown = self.vocabulary.encode(tag(found.language) + cleaned.text)
        if len(self.languages) == 1:
            _refuse_foreign_letters(cleaned.text, unknown, self.languages[0])
        warnings += [*cleaned.warnings, *self._unknown_tags(text)]
        return EncodedLine(found, cleaned.text, tuple(ids), tuple(unknown), tuple(warnings))

    def _without_language_tag(self, text: str, language: str | None) -> tuple[str, str | None]:
        match = _LANGUAGE_TAG.match(text)
        if match is None:
            return text, language
        if not self._reads(match[1]):
            raise UnreadableLine(f"{match[0].strip()} is not one of {', '.join(self.languages + self.transliterated_languages)}")
        if match.end() == len(text):
            raise UnreadableLine(f"nothing stands behind {match[0].strip()}")
        return text[match.end() :], match[1].lower()

    def _detect(self, text: str, language: str | None, rules: LyricRules, context: LyricContext) -> Detection:
        if language in self.transliterated_languages:
            return Detection(FALLBACK, LanguageReason.REQUESTED, language)
        if language is not None:
            return Detection(language, LanguageReason.REQUESTED)
        if len(self.languages) == 1:
            return Detection(self.languages[0], LanguageReason.ONLY_LANGUAGE)
        return detection.detect(text, self.languages, rules, context)

    def _unknown_tags(self, text: str) -> list[str]:
        known = self.vocabulary.structure_tags
        unknown = list(dict.fromkeys(tag for tag in bracketed(text) if not self.vocabulary.is_special(tag.lower())))
        warnings = []
        for unknown_tag in unknown[:MAX_REPORTED_TAGS]:
            meant = nearest(unknown_tag, known)
            hint = f"the nearest known one is {meant}" if meant else f"known: {' '.join(known)}"
            warnings.append(f"{shorten(unknown_tag)} is not a structure tag that the model knows; {hint}")
        if len(unknown) > MAX_REPORTED_TAGS:
            warnings.append(f"{len(unknown) - MAX_REPORTED_TAGS} more unknown structure tags")
        return warnings


def _normalized(lines: Sequence[str], known: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Lines with known structure tags, each tag line once, and what was changed in each."""
    texts, changes = [], []
    before = ""
    for line in lines:
        text, changed = structure_tags.normalize(line, known)
        if text and text == before and structure_tags.is_tag(text):
            text, changed = "", [*changed, f"repeats {text} above: read as a blank line"]
        before = text or before
        texts.append(text)
        changes.append(changed)
    return texts, changes


def shorten(text: str) -> str:
    """A line for a message."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _refuse_foreign_letters(normalized: str, unknown: list[str], language: str) -> None:
    foreign = [letter for letter in normalized if _is_letter(letter) and (letter in unknown or not _is_latin(letter))]
    if foreign:
        name = "English" if language == "en" else language
        raise UnreadableLine(f"letters {_listing(foreign)} cannot be read as {name}; languages built: {language}")


def _is_letter(character: str) -> bool:
    return unicodedata.category(character) in _LETTERS


def _is_latin(letter: str) -> bool:
    return all(unicodedata.name(part, "").startswith("LATIN ") for part in unicodedata.normalize("NFKC", letter))


def _listing(characters: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(characters))
    more = f" and {len(distinct) - 8} more" if len(distinct) > 8 else ""
    return ", ".join(repr(character) for character in distinct[:8]) + more
