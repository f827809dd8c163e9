import ast
import statistics
import sys
import time
from pathlib import Path

import pytest

from acestep_rpc.errors import InvalidRequest, Unimplemented
from encoder_svc import lyrics
from encoder_svc.lyrics import identifier, transliteration
from encoder_svc.lyrics.languages import LANGUAGES, TRANSLITERATED, LanguageReason, LyricRules, tag
from encoder_svc.lyrics.libraries import MissingLibrary
from encoder_svc.lyrics.lyric_tokenizer import LyricTokenizer, UnreadableLine
from tests.tiny_lyrics import MULTILINGUAL_ROWS


@pytest.fixture
def tokenizer(multilingual_vocabulary):
    return LyricTokenizer(multilingual_vocabulary, MULTILINGUAL_ROWS)


def tokens(tokenizer, ids):
    return [tokenizer.vocabulary._tokenizer.id_to_token(token_id) for token_id in ids]


@pytest.mark.parametrize(
    ("line", "language", "normalized"),
    [
        ("Streetlamps hum while the city sleeps", "en", "streetlamps hum while the city sleeps"),
        ("Der Regen fällt auf leere Straßen", "de", "der regen fällt auf leere straßen"),
        ("La rivière danse sous la lune pâle", "fr", "la rivière danse sous la lune pâle"),
        ("El viento canta en la montaña azul", "es", "el viento canta en la montaña azul"),
        ("Il mare brilla sotto le stelle d'agosto", "it", "il mare brilla sotto le stelle d'agosto"),
        ("O vento leva a saudade do meu coração", "pt", "o vento leva a saudade do meu coração"),
        ("Deszcz pada na puste ulice miasta", "pl", "deszcz pada na puste ulice miasta"),
        ("Gece yarısı İstanbul'da yürüyorum", "tr", "gece yarısı istanbul'da yürüyorum"),
        ("Ветер поёт над тёмной рекой", "ru", "ветер поёт над тёмной рекой"),
        ("Vítr zpívá nad řekou a já jdu domů", "cs", "vítr zpívá nad řekou a já jdu domů"),
        ("Ik heb 14% batterij en 50 vrienden", "nl", "ik heb veertien procent batterij en vijftig vrienden"),
        ("كان هناك 50 جنديًا في المدينة", "ar", "كان هناك خمسون جنديًا في المدينة"),
        ("风吹过空荡的街道", "zh", "feng1chui1guo4kong1dang4de5jie1dao4"),
        ("夜の街を一人で歩いてる", "ja", "yoru no machi wo hitori de aruiteru"),
        ("Szeretlek, amíg csak élek", "hu", "szeretlek, amíg csak élek"),
        ("그대 없는 밤은 너무 길어", "ko", "geudae eobsneun bam-eun neomu gil-eo"),
        ("दिल मेरा गाता है", "hi", "दिल मेरा गाता है"),
        # What the reference makes of these is no good, but it is what the model was trained on.
        ("99 problems", "zh", "jiu3shi2jiu3 problems"),
        ("12.5 seconds to midnight", "zh", "shi2er4dian3wu3 seconds to midnight"),
        ("La la la la", "es", "la la la la"),
        ("再见", "ja", "sai?"),
        ("東京", "zh", "dong1jing1"),
    ],
)
def test_lines_are_identified_and_written_as_the_model_knows_them(tokenizer, line, language, normalized):
    (encoded,) = tokenizer.encode(line).lines
    assert (encoded.language, encoded.normalized_text) == (language, normalized)
    assert encoded.detection.reason is LanguageReason.IDENTIFIED
    assert tokens(tokenizer, encoded.ids)[0] == tag(language)


def test_a_line_that_begins_with_a_bracket_is_english(tokenizer):
    (line,) = tokenizer.encode("[verse] 你好").lines
    assert (line.language, line.detection.reason) == ("en", LanguageReason.STRUCTURE_TAG)
    assert tokens(tokenizer, line.ids)[:2] == ["[en]", "[verse]"]
    assert line.unknown_characters == ("你", "好")


def test_a_line_without_letters_is_chinese_by_default(tokenizer):
    (line,) = tokenizer.encode("123").lines
    assert (line.language, line.detection.reason, line.detection.score) == ("zh", LanguageReason.DEFAULT, None)
    assert line.normalized_text == "yi1bai3er4shi2san1"


def test_a_language_without_a_tag_is_read_as_english_and_named(tokenizer):
    (line,) = tokenizer.encode("Angin bernyanyi di atas laut malam ini").lines
    assert (line.language, line.detection.detected) == ("en", "id")
    assert line.warnings == ("the line seems to be in 'id', which the model has no tag for: it is read as 'en'",)


def test_the_identifiers_score_is_told(tokenizer):
    (line,) = tokenizer.encode("Ветер поёт\nSame").lines[:1]
    assert line.detection.score == 1.0
    assert tokenizer.encode("hello").lines[0].detection.score == pytest.approx(0.169)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_requested_language_holds_for_every_line(tokenizer, language):
    lines = tokenizer.encode("love\n[verse]", language).lines
    assert {line.language for line in lines} == {language}
    assert {line.detection.reason for line in lines} == {LanguageReason.REQUESTED}


def test_a_region_is_dropped(tokenizer):
    assert tokenizer.encode("Amor", "pt-BR").ids == tokenizer.encode("Amor", "pt").ids


def test_a_language_that_nobody_knows_cannot_be_requested(tokenizer):
    with pytest.raises(InvalidRequest, match=r"lyric_options\.language: 'xx' is not allowed; allowed: en, de, .*hi, af, .*zu"):
        tokenizer.encode("la", "xx")


def test_control_characters_name_their_line(tokenizer):
    with pytest.raises(InvalidRequest, match=r"line 2, 'a\\x00b': control characters '\\x00'"):
        tokenizer.encode("oh\na\0b")
    with pytest.raises(UnreadableLine):
        tokenizer.encode_line("\ud800")


def test_the_same_line_under_other_settings_is_not_taken_from_the_cache(tokenizer):
    ids = [tokenizer.encode("99 problems", language, rules).ids for language in (None, "de", "en") for rules in LyricRules]
    assert len({tuple(given) for given in ids}) == 3  # Chinese, German, English; the revised rules make English of it


def test_a_missing_library_names_line_and_extra(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "pypinyin", None)
    with pytest.raises(
        Unimplemented, match=r"line 2, '风吹过空荡的街道': Chinese needs the library pypinyin.*pip install 'acestep-serving\[lyrics\]'"
    ):
        tokenizer.encode("oh\n风吹过空荡的街道")


@pytest.mark.parametrize(
    ("module", "language", "text"), [("unidic_lite", "Japanese", "夜"), ("cutlet", "Japanese", "夜"), ("hangul_romanize", "Korean", "사랑")]
)
def test_every_missing_library_is_named(monkeypatch, module, language, text):
    monkeypatch.setitem(sys.modules, module, None)
    transliteration._cutlet.cache_clear()
    transliteration._korean.cache_clear()
    write = transliteration.romaja if language == "Korean" else transliteration.romaji
    with pytest.raises(MissingLibrary, match=f"{language} needs the library {module}"):
        write(text)


def test_a_missing_identifier_is_named(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    identifier._model.cache_clear()
    identifier.identify.cache_clear()
    with pytest.raises(Unimplemented, match="needs the library py3langid"):
        tokenizer.encode("hello")


def test_no_language_library_is_imported_at_start():
    libraries = {"py3langid", "pypinyin", "cutlet", "fugashi", "unidic_lite", "hangul_romanize", "num2words"}
    for path in Path(lyrics.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert libraries.isdisjoint(name.partition(".")[0] for name in names), path


def test_long_repetitive_text_does_not_overflow_the_identifier():
    language, score = identifier.identify("the " * 70_000)
    assert (language, score) == ("en", 1.0)


def test_a_line_takes_less_than_a_millisecond_in_the_median(tokenizer):
    lines = [
        "Streetlamps hum while the city sleeps",
        "J'ai perdu mon cœur dans les rues de Lyon",
        "风吹过空荡的街道",
        "夜の街を一人で歩いてる",
        "그대 없는 밤은 너무 길어",
    ]
    for line in lines:
        tokenizer.encode_line(line)
    tokenizer._encode_cached.cache_clear()
    identifier.identify.cache_clear()
    seconds = []
    for line in lines * 3:  # the first five are new, the others come from the cache
        started = time.process_time()
        tokenizer.encode_line(line)
        seconds.append(time.process_time() - started)
    assert statistics.median(seconds) < 0.001


def test_a_line_can_name_its_language(tokenizer):
    lines = tokenizer.encode("hello\n[lang:fr] hello\n[lang:zh-CN]ni3 hao3", rules=LyricRules.REVISED).lines
    assert [line.language for line in lines] == ["en", "fr", "zh"]
    assert [line.normalized_text for line in lines] == ["hello", "hello", "ni3 hao3"]
    assert lines[1].detection.reason is LanguageReason.REQUESTED


@pytest.mark.parametrize(
    ("line", "words"), [("[lang:xx] hello", r"\[lang:xx\] is not one of en, de"), ("[lang:ja]", "nothing stands behind")]
)
def test_a_language_that_does_not_exist_or_has_no_words_is_named(tokenizer, line, words):
    with pytest.raises(InvalidRequest, match=f"line 2, .*{words}"):
        tokenizer.encode(f"hello\n{line}")


@pytest.mark.parametrize(
    ("language", "line", "text"),
    [("el", "Καλημέρα κόσμε", "kalimera kosme"), ("th", "รัก", "rak"), ("vi", "Xin chào", "xin chao"), ("sv", "Å så skönt", "a sa skont")],
)
def test_a_language_without_a_tag_is_written_in_latin_letters(tokenizer, language, line, text):
    assert language in tokenizer.transliterated_languages
    (encoded,) = tokenizer.encode(line, language).lines
    assert (encoded.language, encoded.detection.detected, encoded.normalized_text) == ("en", language, text)
    assert any(f"no tag for {language!r}" in warning for warning in encoded.warnings)


def test_a_script_without_a_tag_is_found_and_written_in_latin_letters(tokenizer):
    (revised,) = tokenizer.encode("Καλημέρα κόσμε", rules=LyricRules.REVISED).lines
    assert (revised.normalized_text, revised.unknown_characters) == ("kalimera kosme", ())
    (reference,) = tokenizer.encode("Καλημέρα κόσμε").lines
    assert reference.normalized_text == "καλημέρα κόσμε"


def test_every_language_of_the_identifier_is_read_somehow():
    assert sorted(LANGUAGES + TRANSLITERATED) == sorted(identifier.languages())


def test_unreadable_lines_are_left_out_on_request(tokenizer):
    lyrics = tokenizer.encode("one\ntw\x07o\nthree", skip_unreadable=True)
    assert [line.token_count > 0 for line in lyrics.lines] == [True, False, True]
    assert lyrics.lines[1].warnings[0].startswith("left out: ")
    assert lyrics.ids == tokenizer.encode("one\nthree").ids
    with pytest.raises(InvalidRequest, match="line 2"):
        tokenizer.encode("one\ntw\x07o\nthree")


def test_structure_tags_are_normalised_on_request(tokenizer):
    written = "[Verse 1]\nla [chrous]  [Chorus] la\n[verse]\n\n[VERSE]\n[zzzz]"
    lines = tokenizer.encode(written, normalize_tags=True).lines
    assert [line.normalized_text for line in lines] == ["[verse]", "la [chorus] la", "[verse]", "", "", "[zzzz]"]
    assert lines[0].warnings == ("'[Verse 1]' is read as [verse]",)
    assert "a repeated structure tag is read once" in lines[1].warnings
    assert lines[4].warnings == ("repeats [verse] above: read as a blank line",)
    assert "not a structure tag" in lines[5].warnings[0]
