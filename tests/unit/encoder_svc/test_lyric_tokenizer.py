from concurrent.futures import ThreadPoolExecutor

import pytest

from acestep_rpc.errors import InvalidRequest
from encoder_svc.lyrics import cleaner
from encoder_svc.lyrics.languages import LanguageReason
from encoder_svc.lyrics.lyric_tokenizer import LyricTokenizer

START, SPACE, EN, UNKNOWN = 4, 2, 3, 1


@pytest.fixture
def tokenizer(checkpoint):
    return LyricTokenizer(checkpoint / "lyric_vocab.json", 120)


def tokens(tokenizer, lyrics):
    return [tokenizer.vocabulary._tokenizer.id_to_token(token_id) for token_id in tokenizer.encode(lyrics).ids]


def test_lyrics_are_a_start_token_and_lines_that_end_with_a_break(tokenizer):
    assert tokens(tokenizer, "[Verse]\noh la") == ["[START]", "[en]", "[verse]", "[SPACE]", "[en]", "oh", "[SPACE]", "la", "[SPACE]"]


def test_empty_lyrics_have_no_ids_and_no_lines(tokenizer):
    encoded = tokenizer.encode("")
    assert (encoded.ids, encoded.lines) == ([], [])


def test_blank_lines_are_breaks(tokenizer):
    assert tokenizer.encode("\n \n\r\n").ids == [START, SPACE, SPACE, SPACE, SPACE]


def test_lines_are_stripped(tokenizer):
    assert tokenizer.encode("  oh \r\n\tla ").ids == tokenizer.encode("oh\nla").ids


def test_structure_tags_are_tokens_anywhere_and_in_any_case(tokenizer):
    assert tokens(tokenizer, "oh [CHORUS]") == ["[START]", "[en]", "oh", "[SPACE]", "[chorus]", "[SPACE]"]
    assert tokenizer.encode("oh [CHORUS]").lines[0].warnings == ()


def test_every_line_is_accounted_for(tokenizer):
    encoded = tokenizer.encode("[verse]\n\nI'm 2!\nla + la\n")
    assert [(line.language, line.normalized_text) for line in encoded.lines] == [
        ("en", "[verse]"),
        ("", ""),
        ("en", "i'm two!"),
        ("en", "la + la"),
        ("", ""),
    ]
    assert encoded.lines[3].unknown_characters == ("+",)
    assert 1 + sum(len(line.ids) + 1 for line in encoded.lines) == len(encoded.ids)


def test_a_vocabulary_of_english_pieces_reads_everything_as_english(tokenizer):
    assert tokenizer.languages == ("en",)
    (line,) = tokenizer.encode("La la la").lines
    assert (line.language, line.detection.reason) == ("en", LanguageReason.ONLY_LANGUAGE)


def test_unknown_structure_tags_are_warned_of_with_the_nearest(tokenizer):
    (line,) = tokenizer.encode("[Verse 1] oh [mumbling]").lines
    assert line.warnings[0] == "'[Verse 1]' is not a structure tag that the model knows; the nearest known one is [verse]"
    assert "'[mumbling]' is not a structure tag that the model knows; known: [start] [intro]" in line.warnings[1]
    assert line.unknown_characters == ("[", "]")


def test_latin_letters_of_the_vocabulary_are_english(tokenizer):
    assert tokenizer.encode("Señor Café").lines[0].unknown_characters == ()


@pytest.mark.parametrize("text", ["Ветер", "风吹过", "comme çi", "hello мир", "Łzy", "[主歌]", "ｆｕｌｌ"])
def test_other_letters_are_refused_with_line_and_text(tokenizer, text):
    with pytest.raises(InvalidRequest) as caught:
        tokenizer.encode(f"oh\n{text}")
    ((field, description),) = caught.value.violations
    assert field == "prompt.lyrics"
    assert description.startswith(f"line 2, {text!r}: letters ")
    assert description.endswith("cannot be read as English; languages built: en")


def test_letters_of_another_script_are_refused_even_if_the_vocabulary_knows_them(tmp_path, write_lyric_vocabulary):
    write_lyric_vocabulary(tmp_path / "vocabulary.json", more_letters="аб")
    with pytest.raises(InvalidRequest, match="letters 'а', 'б'"):
        LyricTokenizer(tmp_path / "vocabulary.json", 120).encode("аб")


def test_symbols_are_kept_as_unknown_tokens(tokenizer):
    encoded = tokenizer.encode("oh 😀")
    assert encoded.ids == [START, EN, *encoded.lines[0].ids[1:], SPACE]
    assert encoded.ids.count(UNKNOWN) == 1
    assert encoded.lines[0].unknown_characters == ("😀",)


def test_several_bad_lines_are_reported_at_once_up_to_a_bound(tokenizer):
    with pytest.raises(InvalidRequest) as caught:
        tokenizer.encode("мир\noh\nда")
    assert [description.split(",")[0] for _, description in caught.value.violations] == ["line 1", "line 3"]
    with pytest.raises(InvalidRequest) as caught:
        tokenizer.encode("мир\n" * 1000)
    assert len(caught.value.violations) == 16


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x7f"])
def test_control_characters_are_refused(tokenizer, character):
    with pytest.raises(InvalidRequest, match="line 1.*control characters"):
        tokenizer.encode(f"a{character}b")


def test_tabs_are_spaces(tokenizer):
    assert tokenizer.encode("oh\tla").ids == tokenizer.encode("oh la").ids


def test_4096_tokens_pass_and_one_more_is_refused(tokenizer):
    assert len(tokenizer.encode("\n" * 4094).ids) == 4096
    with pytest.raises(InvalidRequest, match=r"prompt\.lyrics: '4097 tokens' is not allowed; allowed: at most 4096 tokens"):
        tokenizer.encode("\n" * 4095)


def test_too_many_characters_are_refused_at_once(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "encode_line", lambda text: pytest.fail("work was spent"))
    with pytest.raises(InvalidRequest, match=r"prompt\.lyrics: '65537 characters' is not allowed"):
        tokenizer.encode(" " * 65537)


def test_many_unknown_tags_are_counted(tokenizer):
    (line,) = tokenizer.encode(" ".join(f"[{'a' * count}]" for count in range(1, 21))).lines
    assert len(line.warnings) == 9
    assert line.warnings[-1] == "12 more unknown structure tags"


def test_repeated_lines_are_cleaned_once(tokenizer, monkeypatch):
    cleaned = []
    clean = cleaner.clean
    monkeypatch.setattr(cleaner, "clean", lambda text, *rest: (cleaned.append(text), clean(text, *rest))[1])
    tokenizer.encode("oh\nla\noh\n  oh")
    tokenizer.encode("la")
    assert cleaned == ["oh", "la"]


def test_long_lines_are_not_kept(tokenizer):
    tokenizer.encode("a" * 257)
    assert tokenizer._encode_cached.cache_info().currsize == 0
    tokenizer.encode("a" * 256)
    assert tokenizer._encode_cached.cache_info().currsize == 1


def test_threads_get_the_same_ids(tokenizer):
    lyrics = [f"[verse]\noh la {number}" for number in range(20)]
    expected = [tokenizer.encode(text).ids for text in lyrics]
    tokenizer._encode_cached.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda text: tokenizer.encode(text).ids, lyrics)) == expected
