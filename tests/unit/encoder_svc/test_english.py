import time

import pytest

from encoder_svc.lyrics import english


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
    assert english.clean(line) == (expected, [])


def test_an_amount_that_is_no_number_is_read_as_plain_numbers():
    text, warnings = english.clean("$1.2.3 and £4")
    assert text == "dollar one point two.three and four pounds sterling"
    assert warnings == ["an amount of money cannot be spelled and is read as a plain number"]


def test_numbers_stay_digits_when_one_cannot_be_spelled():
    digits = "9" * 400
    text, warnings = english.clean(f"5 & {digits}")
    assert text == f"5 and {digits}"
    assert warnings == ["a number cannot be spelled, so the numbers of this line stay digits"]


@pytest.mark.parametrize("unit", ["1", "1.", "1,", "$", "9.€", "[", "st."])
def test_hostile_lines_take_linear_time(unit):
    started = time.process_time()
    english.clean(unit * 20_000)
    assert time.process_time() - started < 5
