r"""Lines to segments of one language each: the reference's rules around the statistical identifier.

Its working is part of how the model was trained, so its oddities are kept: a number at the start of a line is Chinese, every Cyrillic
letter is Russian, doubled letters are collapsed before identification. The order is

1. matches of eight patterns are cut out of the line and replaced by placeholders, "⑥" + tag + six digits + "⑥". The mark is a word
   character and no digit, so that later patterns do not cut placeholders apart;
2. the line is walked from left to right: a placeholder is handled by the rule of its pattern, the text between them is identified;
3. segments are recorded: English is respaced, a segment without letters takes the language of the one before, and so on.

A line here may end with line breaks, when it is one of whole lyrics.
"""

import re
from dataclasses import dataclass, field

from encoder_svc.lyrics import chinese_numbers, identifier
from encoder_svc.lyrics import line_patterns as patterns

CHINESE_WEIGHT = 2
"""A Chinese character counts as two of another script."""
SHORT = 5
"""Cleaned characters up to which Chinese and Japanese are told apart by rules instead."""
SURE = 0.9
NOT_JAPANESE = 0.89

_UNDECIDED = {"zh": "zh|ja|…", "ja": "ja|zh|…"}
"""Markers of short texts that are either; they wait for their successor."""
_SPOKEN_AS_CHINESE = frozenset({"telephone", "number", "currency", "date"})
"""SSML names of things that the reference reads out in Chinese."""


@dataclass(frozen=True)
class Segment:
    """A piece of text in one language.

    Attributes:
        text: As the detector leaves it: English is respaced.
        score: Probability of the language, of its surest part; 1 for what a rule decided.
    """

    language: str
    text: str
    score: float


@dataclass
class Segmentation:
    """Segments in order, and the characters counted for every language in the order of their first appearance."""

    segments: list[Segment] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


_SENTENCE = re.compile(r"[^。.?？!！]*[。.?？!！]*\n?")
_LINE = re.compile(r"[^\n]*\n+|[^\n]+")
_MARKS = re.compile(r"([^\w\s]+)")
_NO_WORD = re.compile(r"\W+")
_REPEATED = re.compile(r"(.)\1+")
_CHINESE_CHARACTER = re.compile(r"[\u4e00-\u9fff]")
_KANA = re.compile(r"[\u3040-\u30ff]")
_LETTERLESS = re.compile(r"[\W\d]+")
_INNER_CAPITAL = re.compile(r"\B(?=[A-Z])")


def segment(lyrics: str) -> Segmentation:
    """Cut lyrics into segments, line by line; equal neighbours are one segment, across lines too.

    A line takes the line breaks behind it along; blank lines at the very beginning are lost.

    Raises:
        MissingLibrary: The identifier is not installed.
    """
    whole = Segmentation()
    for line in _LINE.findall(lyrics):
        part = segment_line(line)
        for piece in part.segments:
            _append(whole.segments, piece)
        for language, count in part.counts.items():
            whole.counts[language] = whole.counts.get(language, 0) + count
    return whole


def segment_line(line: str) -> Segmentation:
    """Cut one line into segments.

    Raises:
        MissingLibrary: The identifier is not installed.
    """
    segmenter = _LineSegmenter()
    segmenter.read(patterns.PLACEHOLDER.sub("", line))
    return segmenter.result


def respaced(text: str) -> str:
    """English as the detector leaves it: a space before inner capitals, no outer hyphens, a space behind."""
    return _INNER_CAPITAL.sub(" ", text).strip("-") + " "


def _append(segments: list[Segment], new: Segment) -> None:
    if segments and segments[-1].language == new.language:
        last = segments.pop()
        new = Segment(new.language, last.text + new.text, max(last.score, new.score))
    segments.append(new)


def _words(text: str) -> str:
    return _NO_WORD.sub(" ", text).strip()


def _collapsed(text: str) -> str:
    """Words of Latin text and quotations as the identifier sees them: "hello" is "helo"."""
    return _REPEATED.sub(r"\1", _words(text))


class _LineSegmenter:
    """State of one line: what has been recorded, and what waits."""

    def __init__(self) -> None:
        self.result = Segmentation()
        self._cut: dict[str, re.Match[str]] = {}
        self._waiting: tuple[str, str, float] | None = None

    def read(self, line: str) -> None:
        for pattern in patterns.PATTERNS:
            line = self._cut_out(pattern, line)
        self._walk(line, ends_line=True)

    def _cut_out(self, pattern: patterns.LinePattern, line: str) -> str:
        matches = list(pattern.expression.finditer(line))
        if pattern.spares_whole_line and len(matches) == 1 and matches[0].group() == line:
            return line
        pieces, position = [], 0
        for index, match in enumerate(matches):
            name = patterns.placeholder(pattern.tag, index)
            self._cut[name] = match
            pieces += [line[position : match.start()], name]
            position = match.end()
        return "".join([*pieces, line[position:]])

    def _walk(self, text: str, ends_line: bool) -> None:
        pieces = patterns.PLACEHOLDER.split(text)
        for index, piece in enumerate(pieces):
            if piece in self._cut:
                self._handle(piece, ends_line)
            else:
                self._identify_rest(piece, ends_line and index == len(pieces) - 1)

    def _handle(self, placeholder: str, ends_line: bool) -> None:
        match = self._cut[placeholder]
        text = match.group()
        match patterns.placeholder_tag(placeholder):
            case patterns.MANUAL:
                self._record_manual(match[1], match[2])
            case patterns.KOREAN:
                self._record("ko", text, 1.0)
            case patterns.THAI:
                self._record("th", text, 1.0)
            case patterns.RUSSIAN:
                self._record("ru", text, 1.0)
            case patterns.NUMBER:
                first = self.result.segments[:1]
                self._record(first[0].language if first else "zh", text, 1.0)
            case patterns.LATIN:
                for sentence in _SENTENCE.findall(text):
                    self._identify(sentence)
            case _:
                self._read_quotation(text, ends_line)

    def _record_manual(self, code: str, text: str) -> None:
        if code in "-".join(identifier.languages()):
            self._record(code, text, 1.0)
        elif code in _SPOKEN_AS_CHINESE:
            self._record("zh", chinese_numbers.spell(text), 1.0)
        else:
            self._record(code, text, 1.0)

    def _read_quotation(self, text: str, ends_line: bool) -> None:
        if patterns.PLACEHOLDER.search(text):
            self._walk(text, ends_line)
        elif len(_collapsed(text)) <= SHORT:
            self._identify_rest(text, ends_line)
        else:
            self._identify(text)

    def _identify(self, text: str) -> None:
        if text.strip():
            language, score = identifier.identify(_collapsed(text))
            self._record(language, text, score)

    def _identify_rest(self, text: str, ends_line: bool) -> None:
        """Identify unmatched text in pieces between marks; too short ones are glued to the next."""
        pieces = _MARKS.split(text)
        glued: list[str] = []
        only_marks = True
        for index, piece in enumerate(pieces):
            glued.append(piece)
            only_marks = only_marks and _is_marks(piece)
            last = index == len(pieces) - 1
            if not last and (only_marks or _is_marks(pieces[index + 1])):
                continue
            whole = "".join(glued)
            cleaned = _words(patterns.NUMBER_OR_PLACEHOLDER.sub("", whole))
            if not last and len(cleaned) <= 2:
                continue
            language, score = self._decide(whole, cleaned, ends_line and last)
            self._record(language, whole, score)
            glued, only_marks = [], True

    def _decide(self, text: str, cleaned: str, ends_line: bool) -> tuple[str, float]:
        """Language and score of unmatched text; short Chinese and Japanese may stay undecided until the next segment comes."""
        language, score = identifier.identify(cleaned)
        if language != "zh" and all(_CHINESE_CHARACTER.match(character) for character in cleaned if not character.isspace()):
            language, score = "zh", 1.0
        if len(cleaned) > SHORT or not _CHINESE_CHARACTER.search(cleaned):
            return language, score
        if score < NOT_JAPANESE:
            language = "ja"
        if _KANA.search(cleaned):
            return "ja", score
        if len(cleaned) > 2 and score > SURE:
            return language, score
        if ends_line:
            return ("zh" if len(cleaned) == 1 else language), score
        previous = self.result.segments[-1].language if self.result.segments else ""
        if text.rstrip().endswith(("。", ".")) and previous in ("zh", "ja"):
            return previous, score
        is_chinese = language == "zh" or (len(cleaned) <= 2 and previous == "zh")
        return _UNDECIDED["zh" if is_chinese else "ja"], score

    def _record(self, language: str, text: str, score: float) -> None:
        if not text.strip():
            return
        if self._waiting is not None:
            marker, waiting_text, waiting_score = self._waiting
            self._waiting = None
            first = marker[:2]
            self._store(first, waiting_text, waiting_score)
            if language in marker:
                language = first
        if language in _UNDECIDED.values():
            self._waiting = language, text, score
        else:
            self._store(language, text, score)

    def _store(self, language: str, text: str, score: float) -> None:
        """Append a decided segment. What it swallows stays counted for the language that it had."""
        if language == "en":
            text = respaced(text)
        segments = self.result.segments
        if segments and _LETTERLESS.fullmatch(text):
            language = segments[-1].language
        elif segments and segments[-1].language != language and _LETTERLESS.fullmatch(segments[-1].text):
            text = segments.pop().text + text
        weight = CHINESE_WEIGHT if language == "zh" else 1
        self.result.counts[language] = self.result.counts.get(language, 0) + weight * len(text)
        _append(segments, Segment(language, text, score))


def _is_marks(text: str) -> bool:
    return re.search(r"\w", text) is None
