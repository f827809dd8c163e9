import pytest

from encoder_svc.lyrics.lyric_tokenizer import LyricTokenizer
from training.init_tokenizers import LYRIC_VOCABULARY_SIZE
from training.lyric_ids import UnsupportedLanguage, training_lyric_ids

START, SPACE = 261, 2


@pytest.fixture
def tokenizer(full_checkpoint):
    return LyricTokenizer(full_checkpoint / "lyric_vocab.json", LYRIC_VOCABULARY_SIZE)


def ids(lyrics, tokenizer):
    return list(training_lyric_ids(lyrics, tokenizer).ids)


@pytest.mark.parametrize("lyrics", ["[verse]\nhold on to me\n\n[chorus]\nwe were dancing\n", "hello world", "[inst]"])
def test_plain_english_has_the_ids_of_a_request(lyrics, tokenizer):
    assert ids(lyrics, tokenizer) == tokenizer.encode(lyrics).ids


@pytest.mark.parametrize("lyrics", ["", " \n\n ", "Write a happy song that genre is pop, please"])
def test_no_lyrics_are_one_zero(lyrics, tokenizer):
    assert training_lyric_ids(lyrics, tokenizer).ids == (0,)


def test_whitespace_before_the_first_line_is_no_line(tokenizer):
    assert ids(" \n\n[verse]  \n  hello\n\n", tokenizer) == tokenizer.encode("[verse]\nhello\n\n").ids


def test_inner_capitals_start_words_but_tags_stay(tokenizer):
    assert ids("[CHORUS] heLLo McLove", tokenizer) == tokenizer.encode("[chorus] he l lo mc love").ids


def test_outer_hyphens_are_dropped(tokenizer):
    assert ids("-oh - oh-", tokenizer) == tokenizer.encode("oh - oh").ids


def test_long_lyrics_keep_their_beginning_and_say_how_long_they_were(tokenizer):
    whole = training_lyric_ids("\n".join(["hello"] * 40), tokenizer)
    first = training_lyric_ids("\n".join(["hello"] * 40), tokenizer, max_tokens=50)
    assert (first.ids, first.total) == (whole.ids[:50], len(whole.ids))
    long = training_lyric_ids("x" + "\n" * 10_000, tokenizer)
    assert (len(long.ids), long.total > 10_000) == (4096, True)


def test_a_single_endless_line_is_clipped_too(tokenizer):
    endless = training_lyric_ids("hello " * 20_000, tokenizer)
    assert (len(endless.ids), endless.total > 20_000) == (4096, True)


def test_another_language_is_refused_with_its_line(tokenizer):
    with pytest.raises(UnsupportedLanguage, match="line 2: letters"):
        training_lyric_ids("hello\n风吹过空荡的街道", tokenizer)
