r"""Lyric ids as the transformer hears them in training.

They differ from those of `LyricTokenizer.encode`, which a request gets, in these points:

* no lyrics, only blank lines, and prompts of the form "write a ... song that genre is ..." are the one id 0, attended to;
* the language is that of the whole lyrics, the one with most characters, English too: no runner-up rule. A line that it leaves unknown
  tokens in is encoded in the language of its own segment instead;
* lyrics are cut where the detector sees another language, and every piece ends with a line break, so there are more of them;
* the text encoded is the detector's: blank lines at the very beginning are gone, English has a space before every capital inside a word
  and no hyphens at either end. This takes "[VERSE]" apart, which loses the tag;
* only a line that begins with its bracket is English for it: the space that the detector puts between English lines is in the way.

A vocabulary that knows English alone makes one English segment of all lyrics, and there what stands in brackets stays as it is. So does
it under the REVISED rules, whose training ids are otherwise those of a request.
"""

import re
from dataclasses import dataclass

from encoder_svc.lyrics import segmenter
from encoder_svc.lyrics.detection import begins_with_structure_tag
from encoder_svc.lyrics.languages import FALLBACK, LyricRules
from encoder_svc.lyrics.lyric_tokenizer import LyricTokenizer, UnreadableLine, shorten

NO_LYRICS = (0,)
MAX_LYRIC_TOKENS = 4096
_WISH = re.compile(r"write a .*song that genre is", re.IGNORECASE | re.DOTALL)
_BRACKETED_OR_INNER_CAPITAL = re.compile(r"(\[[^\[\]\n]*\])|\B(?=[A-Z])")


class UnsupportedLanguage(ValueError):
    """Lyrics that no language built can read; the message names the line."""


@dataclass(frozen=True)
class TrainingLyricIds:
    """Ids of one song, all attended to.

    Attributes:
        ids: The first `MAX_LYRIC_TOKENS` of them.
        total: How many there would be.
    """

    ids: tuple[int, ...]
    total: int


def training_lyric_ids(
    lyrics: str, tokenizer: LyricTokenizer, max_tokens: int = MAX_LYRIC_TOKENS, rules: LyricRules = LyricRules.REFERENCE
) -> TrainingLyricIds:
    """Ids of whole lyrics.

    Args:
        lyrics: As in the record.
        tokenizer: Of the checkpoint.
        max_tokens: Ids that are kept.
        rules: How lines are read.
    Raises:
        UnsupportedLanguage: A line cannot be read, or the lyrics are in a language without a tag.
        MissingLibrary: A language needs a library that is not installed.
    """
    if not lyrics.strip() or _WISH.match(lyrics.strip()):
        return TrainingLyricIds(NO_LYRICS, len(NO_LYRICS))
    if len(tokenizer.languages) == 1:
        text = _BRACKETED_OR_INNER_CAPITAL.sub(lambda match: match.group(1) or " ", lyrics.lstrip()).strip("-")
        lines = _encode_lines(text, tokenizer, rules)
    elif rules is LyricRules.REVISED:
        lines = _encode_lines(lyrics.lstrip(), tokenizer, rules)
    else:
        lines = _encode_segments(lyrics, tokenizer)
    ids = [tokenizer.vocabulary.start_id]
    for line in lines:
        ids += line
        ids.append(tokenizer.vocabulary.space_id)
    return TrainingLyricIds(tuple(ids[:max_tokens]), len(ids))


def _encode_lines(lyrics: str, tokenizer: LyricTokenizer, rules: LyricRules) -> list[tuple[int, ...]]:
    """Every line as a request's."""
    texts = [raw.strip() for raw in lyrics.split("\n")]
    context = tokenizer.read_context(texts, rules)
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(tokenizer.encode_line(text, rules=rules, context=context).ids)
        except UnreadableLine as error:
            raise UnsupportedLanguage(f"line {number}: {error}") from error
    return lines


def _encode_segments(lyrics: str, tokenizer: LyricTokenizer) -> list[tuple[int, ...]]:
    """Every line of every segment in the language of the whole lyrics."""
    cut = segmenter.segment(lyrics)
    majority = max(cut.counts, key=cut.counts.__getitem__, default=FALLBACK)
    if majority not in tokenizer.languages:
        raise UnsupportedLanguage(f"most of the lyrics seems to be in {majority!r}; languages built: {', '.join(tokenizer.languages)}")
    lines = []
    for segment in cut.segments:
        own = segment.language if segment.language in tokenizer.languages else FALLBACK
        for text in segment.text.split("\n"):
            try:
                lines.append(_encode_segment_line(text, majority, own, tokenizer))
            except UnreadableLine as error:
                raise UnsupportedLanguage(f"{shorten(text)}: {error}") from error
    return lines


def _encode_segment_line(text: str, majority: str, own: str, tokenizer: LyricTokenizer) -> tuple[int, ...]:
    if begins_with_structure_tag(text):
        return tokenizer.encode_line(text, FALLBACK).ids
    ids = tokenizer.encode_line(text, majority).ids
    if tokenizer.vocabulary.unknown_id in ids:
        ids = tokenizer.encode_line(text, own).ids
    return ids
