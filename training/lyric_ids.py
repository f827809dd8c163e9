r"""Lyric ids as the transformer hears them in training.

They differ from those of `LyricTokenizer.encode`, which a request gets, in these points:

* no lyrics, only blank lines, and prompts of the form "write a ... song that genre is ..." are the one id 0, attended to;
* whitespace before the first line is dropped, so there is no line break for it;
* the text passes the language detector's rewriting first: a space before every capital inside a word, hyphens at either end dropped
  (the reference also takes "[VERSE]" apart, which loses the tag; here what stands in brackets stays);
* the language is that of the whole lyrics, not of each line.

The reference also cuts lyrics where its detector sees another language and puts a line break more there. English is the only language
built: lyrics are one English segment, and what cannot be read as English is refused.
"""

import re
from dataclasses import dataclass

from encoder_svc.lyrics.lyric_tokenizer import LyricTokenizer, UnreadableLine

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


def training_lyric_ids(lyrics: str, tokenizer: LyricTokenizer, max_tokens: int = MAX_LYRIC_TOKENS) -> TrainingLyricIds:
    """Ids of whole lyrics.

    Args:
        lyrics: As in the record.
        tokenizer: Of the checkpoint.
        max_tokens: Ids that are kept.
    Raises:
        UnsupportedLanguage: A line cannot be read as English.
    """
    if not lyrics.strip() or _WISH.match(lyrics.strip()):
        return TrainingLyricIds(NO_LYRICS, len(NO_LYRICS))
    vocabulary = tokenizer.vocabulary
    segment = _BRACKETED_OR_INNER_CAPITAL.sub(lambda match: match.group(1) or " ", lyrics.lstrip()).strip("-")
    ids = [vocabulary.start_id]
    for number, raw in enumerate(segment.split("\n"), start=1):
        try:
            ids += tokenizer.encode_line(raw.strip()).ids
        except UnreadableLine as error:
            raise UnsupportedLanguage(f"line {number}: {error}") from error
        ids.append(vocabulary.space_id)
    return TrainingLyricIds(tuple(ids[:max_tokens]), len(ids))
