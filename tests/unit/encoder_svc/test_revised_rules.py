"""Every defect of the reference that the revised rules mend, and that the reference rules still have it."""

import pytest

from encoder_svc.lyrics.cleaner import clean
from encoder_svc.lyrics.languages import LanguageReason, LyricRules
from encoder_svc.lyrics.lyric_tokenizer import LyricTokenizer
from tests.tiny_lyrics import MULTILINGUAL_ROWS

REFERENCE, REVISED = LyricRules.REFERENCE, LyricRules.REVISED
ENGLISH_SONG = "Streetlamps hum while the city sleeps\nHold the line and let it ring\n"
SPANISH_SONG = "El viento canta en la montaña azul\nO me quedo contigo esta noche\n"
JAPANESE_SONG = "夜の街を一人で歩いてる\n雨の日に音楽を聴くのが好きです\n"


@pytest.fixture(scope="module")
def tokenizer(multilingual_vocabulary):
    return LyricTokenizer(multilingual_vocabulary, MULTILINGUAL_ROWS)


def last(tokenizer, lyrics, rules=REVISED):
    return tokenizer.encode(lyrics, rules=rules).lines[-1]


@pytest.mark.parametrize(
    ("line", "normalized"),
    [
        ("99 problems", "ninety-nine problems"),
        ("12.5 seconds to midnight", "twelve point five seconds to midnight"),
        ("36.6° in the shade", "thirty-six point six degree in the shade"),
        ("$20 in my pocket", "twenty dollars in my pocket"),
    ],
)
def test_a_number_at_the_start_makes_no_line_chinese(tokenizer, line, normalized):
    assert last(tokenizer, line, REFERENCE).language == "zh"
    assert (last(tokenizer, line).language, last(tokenizer, line).normalized_text) == ("en", normalized)


def test_a_line_of_numbers_is_read_as_the_lyrics_around_it(tokenizer):
    line = last(tokenizer, SPANISH_SONG + "1, 2, 3")
    assert (line.language, line.detection.reason, line.normalized_text) == ("es", LanguageReason.REST_OF_LYRICS, "uno, dos, tres")


def test_no_runner_up_takes_an_english_line(tokenizer):
    line = "So... where (where?) did we go -- tell me"
    assert last(tokenizer, line, REFERENCE).language == "es"
    assert last(tokenizer, line).language == "en"


def test_characters_that_only_their_language_reads_still_win(tokenizer):
    assert last(tokenizer, "Say 早上好 every morning when the sun comes up").language == "zh"
    assert last(tokenizer, "love 사랑 love").language == "ko"


def test_doubled_letters_are_not_collapsed(tokenizer):
    assert tokenizer.encode("hello world").lines[0].detection.detected == "xh"
    assert last(tokenizer, "hello world").detection.detected == "en"


@pytest.mark.parametrize("line", ["Ooh", "same line again", "windows line endings", "Yeah yeah yeah"])
def test_short_lines_that_say_nothing_are_english(tokenizer, line):
    assert last(tokenizer, line).detection.detected == "en"


@pytest.mark.parametrize(("line", "wrong", "right"), [("Corazón de niño", "gl", "es"), ("Perché non torni più da me, amore", "br", "it")])
def test_short_lines_are_not_in_a_language_without_a_tag(tokenizer, line, wrong, right):
    assert last(tokenizer, line, REFERENCE).detection.detected == wrong
    assert last(tokenizer, line).language == right


@pytest.mark.parametrize(("song", "language"), [(ENGLISH_SONG, "en"), (SPANISH_SONG, "es")])
@pytest.mark.parametrize("line", ["La la la la", "hello hello", "Ooh"])
def test_lines_that_say_little_are_in_the_language_around_them(tokenizer, song, language, line):
    assert last(tokenizer, song + line).language == language


def test_lyrics_around_a_line_settle_what_it_leaves_open(tokenizer):
    assert last(tokenizer, "Bésame mucho").language != "es"
    assert last(tokenizer, SPANISH_SONG + "Bésame mucho").language == "es"


def test_sure_lines_are_not_outvoted(tokenizer):
    assert last(tokenizer, SPANISH_SONG + "Streetlamps hum while the city sleeps").language == "en"


def test_short_chinese_lines_are_chinese(tokenizer):
    assert last(tokenizer, "再见", REFERENCE).language == "ja"
    assert (last(tokenizer, "再见").language, last(tokenizer, "再见").normalized_text) == ("zh", "zai4jian4")


def test_kanji_among_japanese_lines_are_japanese(tokenizer):
    assert last(tokenizer, JAPANESE_SONG + "東京", REFERENCE).language == "zh"
    line = last(tokenizer, JAPANESE_SONG + "東京")
    assert (line.language, line.detection.reason, line.normalized_text) == ("ja", LanguageReason.REST_OF_LYRICS, "tokyo")
    assert last(tokenizer, "東京").language == "zh"


def test_characters_that_japanese_lacks_stay_chinese_among_japanese_lines(tokenizer):
    assert last(tokenizer, JAPANESE_SONG + "再见").language == "zh"


def test_tags_in_a_chinese_line_are_kept(tokenizer):
    line = last(tokenizer, "[verse] 你好！")
    assert (line.language, line.normalized_text) == ("zh", "[verse] ni3hao3,")


@pytest.mark.parametrize(
    ("language", "text", "reference", "revised"),
    [
        ("cs", "50 vojáků za 12,5 vteřiny", "50 vojáků za 12,5 vteřiny", "padesát vojáků za dvanáct celá pět vteřiny"),
        ("cs", "20€ a $5", "20€ a dolar 5", "dvacet euro a pět dolarů"),
        ("ar", "20€ يا سيد", "عشرون ريالاً يا سيد", "عشرون يورو يا سيد"),
        ("ar", "في 12,5 ثانية", "في اثنا عشر , خمسون ثانية", "في اثنا عشر فاصلة خمسة ثانية"),
        ("ar", "٥٠ قلب", "٥٠ قلب", "خمسون قلب"),
        ("tr", "12,5 saniye", "oniki,beş saniye", "oniki virgül beş saniye"),
        ("tr", "20€", "yirmi€", "yirmi euro"),
        ("ko", "20€", "isib€", "isib yulo"),
        ("pt", "21€", "vinte", "vinte e um euros"),
        ("es", "0.125", "ciento veinticinco", "cero punto uno dos cinco"),
        ("en", "2024,100", "two million, twenty-four thousand, one hundred", "two thousand and twenty-four point one"),
        ("de", "1'000", "eins'null", "eintausend"),
    ],
)
def test_numbers_that_went_wrong_are_read(language, text, reference, revised):
    assert clean(text, language, REFERENCE).text == reference
    assert clean(text, language, REVISED).text == revised


def test_one_number_that_cannot_be_spelled_leaves_the_others_spelled():
    assert clean(f"5 & {'9' * 400}", "en", REVISED).text == f"five and {'9' * 400}"
