import time

import pytest

from encoder_svc.lyrics.cleaner import DIGITS_STAY, CleanedLine, clean
from encoder_svc.lyrics.languages import LANGUAGES


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ALL the LIGHTS", "all the lights"),
        ('"quoted" \t words', "quoted words"),
        ("1,234,567 tears", "one million, two hundred and thirty-four thousand, five hundred and sixty-seven tears"),
        ("2.5 hearts", "two point five hearts"),
        ("the 3rd, 21st and 101st", "the third, twenty-first and one hundred and first"),
        ("007", "seven"),
        ("$5", "five dollars"),
        ("5$ or 1.50€", "five dollars or one euro, fifty cents"),
        ("£1,000.10", "one thousand pounds sterling, ten pence"),
        ("$ alone", "dollar alone"),
        ("Mr. and Mrs. Fox vs. Dr Who", "mister and misess fox vs. dr who"),
        ("5th St.", "fifth saint"),
        ("mr.dr. no", "misterdr. no"),
        ("you & me @ 10% #1", "you and me at ten percent hash one"),
        ("36°", "thirty-six degree"),
        ("&&", "and and"),
        ("", ""),
        ('"', ""),
    ],
)
def test_cleaning_spells_out(line, expected):
    assert clean(line, "en") == CleanedLine(expected)


@pytest.mark.parametrize(
    ("language", "line", "expected"),
    [
        ("es", "La Sra. Ruiz & el 2º día, 3,5 km", "la señora ruiz y el segundo día, tres punto cinco km"),
        ("es", "cuesta 20,15€", "cuesta veinte euros con quince céntimos"),
        ("fr", "La 2e fois, 30% et 7€", "la deuxième fois, trente pour cent et sept euros"),
        ("de", "Am 2. Tag 1.000 Sterne, 4,5 Meter", "am zweite tag eintausend sterne, vier Komma fünf meter"),
        ("it", "il 1° maggio, C#, Sig. Neri", "il primo maggio, c cancelletto , signore neri"),
        ("pt", "Sra. Lima @ 5%", "senhora lima arroba cinco por cento"),
        ("pl", "36.6° i 2€", "trzydzieści sześć przecinek sześć stopnie i dwa euro"),
        ("ru", "г-н Ли, 2-й раз & 14%", "господин ли, второй раз и четырнадцать процентов"),
        ("nl", "de 2de keer, Mevr. Bos", "de tweede keer, mevrouw bos"),
        ("tr", "İĞÖÜ 3üncü %14", "iğöü üçüncü yüzde ondört"),
        ("hu", "az 1. nap, 12,5 perc", "az első nap, tizenkettő egész öt tized perc"),
        ("ar", "50 قلب & 1ث", "خمسون قلب و اول"),
        ("ko", "1번째 사랑 14%", "cheos beon-jjae salang sibsa peosenteu"),
        ("ko", "밥을 Baby", "bab-eul baby"),
        ("ja", "雨の日に、ナイト！", "ame no hi ni, night!"),
        ("zh", "你好，“世界”！", "ni3hao3,,shi4jie4,,"),
        ("zh", "绿色 love 的°", "lv4se4 love de5 du4"),
        ("hi", "  HELLO \t दुनिया", " hello दुनिया"),
    ],
)
def test_every_language_has_its_own_words(language, line, expected):
    assert clean(line, language) == CleanedLine(expected)


@pytest.mark.parametrize(("language", "line"), [("ja", "100の星"), ("hi", "तुम 50 हो")])
def test_digits_that_stay_are_warned_of(language, line):
    assert clean(line, language).warnings == (DIGITS_STAY,)


def test_czech_numbers_stay_digits_as_they_did_in_training():
    assert clean("Za 12,5 vteřiny & P. Novák", "cs").text == "za 12,5 vteřiny a pan novák"


def test_whole_amounts_lose_their_cents():
    assert clean("20€", "nl").text == "twintig euro"
    assert clean("20,50€", "nl").text == "twintig euro, vijftig cent"


def test_an_amount_that_is_no_number_is_read_as_plain_numbers():
    cleaned = clean("$1.2.3 and £4", "en")
    text, warnings = cleaned.text, list(cleaned.warnings)
    assert text == "dollar one point two.three and four pounds sterling"
    assert warnings == ["an amount of money cannot be spelled and is read as a plain number"]


def test_numbers_stay_digits_when_one_cannot_be_spelled():
    digits = "9" * 400
    cleaned = clean(f"5 & {digits}", "en")
    text, warnings = cleaned.text, list(cleaned.warnings)
    assert text == f"5 and {digits}"
    assert warnings == ["a number cannot be spelled, so the numbers of this line stay digits"]


@pytest.mark.parametrize("language", [code for code in LANGUAGES if code not in ("ja", "ko", "hi")])
@pytest.mark.parametrize("unit", ["1", "1.", "1,", "$", "9.€", "[", "st.", "1年", "1/", "0-"])
def test_hostile_lines_take_linear_time(unit, language):
    started = time.process_time()
    clean(unit * 5_000, language)
    assert time.process_time() - started < 5
