import pytest

from encoder_svc.lyrics.languages import LyricRules
from encoder_svc.lyrics.lyric_tokenizer import LyricTokenizer
from tests.tiny_lyrics import MULTILINGUAL_ROWS, write_multilingual_vocabulary
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


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "lyric_vocab.json"
    write_multilingual_vocabulary(path)
    return LyricTokenizer(path, MULTILINGUAL_ROWS)


def encoded(tokenizer, *lines):
    """Ids of lines, each a text and its language."""
    ids = [tokenizer.vocabulary.start_id]
    for text, language in lines:
        ids += [*tokenizer.encode_line(text, language).ids, tokenizer.vocabulary.space_id]
    return ids


def test_lines_are_encoded_in_the_language_of_the_whole_lyrics(multilingual):
    lyrics = "[verse]\n风吹过空荡的街道\n我在雨里等你回来\n等你 baby 等你"
    assert ids(lyrics, multilingual) == encoded(
        multilingual,
        ("[verse]", "en"),
        ("", "en"),  # the segment's end
        ("风吹过空荡的街道", "zh"),
        ("我在雨里等你回来", "zh"),
        ("等你 ", "zh"),
        ("baby ", "zh"),
        ("等你", "zh"),
    )


def test_a_piece_that_the_majority_language_cannot_spell_is_encoded_in_its_own(multilingual):
    assert ids("Streetlamps hum while the city sleeps\n사랑해요", multilingual) == encoded(
        multilingual, ("Streetlamps hum while the city sleeps", "en"), ("", "en"), ("사랑해요", "ko")
    )


def test_the_detector_takes_upper_case_tags_apart(multilingual):
    assert ids("[VERSE]", multilingual) == encoded(multilingual, ("[V E R S E]", "en"))
    assert ids("[VERSE]", multilingual) != encoded(multilingual, ("[verse]", "en"))


def test_only_the_first_tag_of_a_segment_is_english(multilingual):
    lyrics = "[intro]\n[verse]\nLa rivière danse sous la lune pâle"
    found = encoded(multilingual, ("[intro]", "en"), ("[verse]", "fr"), ("", "en"), ("La rivière danse sous la lune pâle", "fr"))
    assert ids(lyrics, multilingual) == found


def test_lyrics_in_a_language_without_a_tag_are_refused(multilingual):
    with pytest.raises(UnsupportedLanguage, match="'sv'; languages built: en, de"):
        training_lyric_ids("Vinden sjunger över havet i natt", multilingual)


def test_control_characters_are_refused_with_their_line(multilingual):
    with pytest.raises(UnsupportedLanguage, match="control characters"):
        training_lyric_ids("hello\na\0b", multilingual)


def test_revised_training_ids_are_those_of_a_request(multilingual):
    lyrics = "[VERSE]\n99 problems\nJ'ai perdu mon cœur dans les rues de Lyon"
    found = training_lyric_ids(lyrics, multilingual, rules=LyricRules.REVISED)
    assert list(found.ids) == multilingual.encode(lyrics, rules=LyricRules.REVISED).ids
