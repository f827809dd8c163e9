"""A tiny lyric vocabulary of every language for tests."""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from encoder_svc.lyrics.languages import LANGUAGES, tag
from encoder_svc.lyrics.vocabulary import STRUCTURE_TAGS

MULTILINGUAL_ROWS = 200
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789!'(),-.?áßãôœłşıčřéñабвгдеёжзийклмнопрстуфхцчшщъыьэюяابتثجحخدذرزسشصضطظعغفقكلمنهويىةहिनदीमत"


def write_multilingual_vocabulary(path: Path) -> None:
    """Write a lyric vocabulary with all language tags, letters of several scripts and a piece that is no English."""
    specials = ["[STOP]", "[UNK]", "[SPACE]", "[START]", *(tag(language) for language in LANGUAGES), *STRUCTURE_TAGS]
    vocabulary = {name: index for index, name in enumerate([*specials, *_LETTERS, "ño"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("ñ", "o")], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in specials])
    tokenizer.save(str(path))
