"""The lyric vocabulary: byte-pair encoding from `lyric_vocab.json`, special tokens looked up by name."""

from pathlib import Path

from tokenizers import Tokenizer

from encoder_svc.lyrics.languages import FALLBACK, LANGUAGES, tag
from encoder_svc.weights import CheckpointError

START, SPACE, UNKNOWN = "[START]", "[SPACE]", "[UNK]"
STRUCTURE_TAGS = (
    "[start]",
    "[intro]",
    "[verse]",
    "[chorus]",
    "[bridge]",
    "[outro]",
    "[end]",
    "[inst]",
    "[solo]",
    "[hook]",
    "[pre-chorus]",
    "[break]",
)


class LyricVocabulary:
    """One vocabulary file. Safe to use from several threads.

    Args:
        path: JSON of the tokenizers library.
        embedding_rows: Rows of the lyric embedding.
    Attributes:
        languages: What it can spell. Pieces of several letters without a single accent were learned from English alone: whatever
            tags such a vocabulary has, the model knows no other language.
    Raises:
        CheckpointError: The file is unreadable, lacks a special token, or has an id without an embedding.
    """

    def __init__(self, path: Path, embedding_rows: int) -> None:
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more specific
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        for name in (START, SPACE, UNKNOWN, tag(FALLBACK)):
            if name not in vocabulary:
                raise CheckpointError(f"{path} has no token {name}")
        largest = max(vocabulary, key=vocabulary.__getitem__)
        if vocabulary[largest] >= embedding_rows:
            raise CheckpointError(f"{path} gives {largest!r} id {vocabulary[largest]}, the lyric embedding has {embedding_rows} rows")
        self.start_id = vocabulary[START]
        self.space_id = vocabulary[SPACE]
        self.unknown_id = vocabulary[UNKNOWN]
        self._special = {token.content for token in self._tokenizer.get_added_tokens_decoder().values() if token.special}
        only_english = all(len(piece) == 1 or piece.isascii() for piece in vocabulary)
        self.languages = (FALLBACK,) if only_english else tuple(code for code in LANGUAGES if tag(code) in vocabulary)
        self.structure_tags = tuple(tag for tag in STRUCTURE_TAGS if tag in vocabulary)

    def is_special(self, text: str) -> bool:
        """Whether the text is one special token: a structure tag, a language tag, ..."""
        return text in self._special

    def encode(self, text: str) -> tuple[list[int], list[str]]:
        """Tokenise one cleaned line whose language tag is in front and whose spaces are still spaces.

        Returns:
            Ids, and the characters that the vocabulary does not know: each once, in order.
        """
        spaced = text.replace(" ", SPACE)
        encoding = self._tokenizer.encode(spaced)
        unknown: dict[str, None] = {}
        for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id == self.unknown_id:
                unknown.update(dict.fromkeys(spaced[start:stop]))
        return encoding.ids, list(unknown)
