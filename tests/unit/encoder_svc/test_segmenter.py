import time

import pytest

from encoder_svc.lyrics.segmenter import segment, segment_line


def cut(line):
    return [(piece.language, piece.text) for piece in segment_line(line).segments]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("I counted 3000 stars above the bay", [("en", "I counted  3000  stars above the bay ")]),
        ("iPhone 15 on the DJ's table", [("en", "i Phone  15  on the D J's table ")]),
        ("99 problems", [("en", "99 problems ")]),
        ("love 사랑 love", [("en", "love  "), ("ko", "사랑 "), ("en", "love ")]),
        ("I said привет to you", [("en", "I said  "), ("ru", "привет "), ("en", "to you ")]),
        ("So... where (where?) did we go -- tell me", [("en", "So...  where (where? "), ("es", ") did we go -- tell me")]),
        ("<ja>東京</ja>", [("ja", "東京")]),
        ("<xx>hello</xx>", [("xx", "hello")]),
        ("<number>12</number>", [("zh", "十二")]),
        ("ฝนตก", [("th", "ฝนตก")]),
        ("⑥00000000⑥", []),
        (" \t ", []),
    ],
)
def test_lines_are_cut_where_the_language_changes(line, expected):
    assert cut(line) == expected


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ("99 problems", {"zh": 6, "en": 12}),
        ("[verse]", {"zh": 2, "en": 8}),
        ("你好 hello こんにちは 안녕", {"zh": 6, "en": 7, "ja": 6, "ko": 2}),
        ("1등이 되고", {"zh": 2, "ko": 6}),
    ],
)
def test_chinese_counts_double_and_swallowed_numbers_stay_counted(line, counts):
    assert segment_line(line).counts == counts


def test_short_chinese_with_a_low_score_is_japanese_unless_it_is_one_character_at_the_end():
    assert cut("再见") == [("ja", "再见")]
    assert cut("爱") == [("zh", "爱")]


def test_many_different_tags_take_linear_time():
    started = time.process_time()
    segment_line("".join(f"<{first}{second}{third}>" for first in "abcdefghij" for second in "klmnopqrst" for third in "uvwxyzabcd") * 5)
    assert time.process_time() - started < 5


def test_quotations_are_one_piece():
    assert [language for language, _ in cut("«»'עברית שפה יפה'")] == ["he"]


def test_lines_of_one_language_are_one_segment_with_their_breaks():
    pieces = [
        (piece.language, piece.text) for piece in segment("\n\n[verse]\nhold the line\n\n风吹过空荡的街道\n我在雨里等你回来\n").segments
    ]
    assert pieces == [("en", "[verse]\n hold the line\n\n "), ("zh", "风吹过空荡的街道\n我在雨里等你回来\n")]


def test_a_number_is_not_swallowed_across_lines():
    assert [piece.language for piece in segment("风吹过空荡的街道\n1, 2, 3, 4\n[verse]").segments] == ["zh", "en"]


@pytest.mark.parametrize("unit", ["a", "a ", "'", '"', "(", "!", "1", "1 ", "在", "<a>", "。", "é.", "ü", "\u0301", "사", "[a] ", " ."])
def test_hostile_lines_take_linear_time(unit):
    started = time.process_time()
    segment_line(unit * 5_000)
    assert time.process_time() - started < 5
