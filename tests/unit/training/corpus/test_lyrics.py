import re

from training.corpus.lyrics import all_lines, lines_by_syllables


def test_there_are_at_least_320_different_lines():
    texts = [text for _, text in all_lines()]
    assert len(texts) == len(set(texts)) >= 320


def test_lines_are_plain_words_of_six_to_nine_syllables():
    assert set(lines_by_syllables()) == {6, 7, 8, 9}
    assert all(re.fullmatch(r"[a-z]+( [a-z]+){2,8}", text) for _, text in all_lines())
