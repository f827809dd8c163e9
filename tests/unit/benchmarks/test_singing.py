import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.quality.listener import FRAMES_PER_SECOND
from benchmarks.quality.singing import DISTRACTORS, PhoneListener, distractors, line_score, phone_labels
from training.corpus.arrangement import compose
from training.corpus.band import Wishes
from training.corpus.lyrics import lines_by_syllables
from training.corpus.song import PHONES, SILENCE, Phone

SECONDS = 4.0
FRAMES = round(SECONDS * FRAMES_PER_SECOND)


def spoken(seed: int) -> list[Phone]:
    """Phones of 0.1 s with silence around them."""
    symbols = np.random.default_rng(seed).choice(PHONES[1:], 30)
    return [Phone(str(symbol), 0.5 + 0.1 * number, 0.6 + 0.1 * number) for number, symbol in enumerate(symbols)]


def painted(phones: list[Phone], seed: int) -> NDArray[np.float32]:
    """A log-mel in which each phone has bands of its own."""
    mel = np.random.default_rng(seed).normal(-4, 0.5, (128, FRAMES))
    for phone in phones:
        band = 3 * PHONES.index(phone.symbol)
        mel[band : band + 3, round(phone.start_seconds * FRAMES_PER_SECOND) : round(phone.end_seconds * FRAMES_PER_SECOND)] += 4
    return mel.astype(np.float32)


@pytest.fixture(scope="module")
def trained() -> PhoneListener:
    songs = [spoken(seed) for seed in range(16)]
    return PhoneListener([painted(phones, seed) for seed, phones in enumerate(songs)], songs, epochs=24)


def test_a_sung_line_fits_better_than_every_other_one(trained):
    first = 0
    for seed in range(100, 110):
        evidence = trained.evidence(painted(spoken(seed), seed))
        lines = [[phone.symbol for phone in spoken(other)[8:20]] for other in (seed, 200, 201, 202, 203, 204)]
        scores = [line_score(evidence, line) for line in lines]
        first += scores[0] > max(scores[1:])
    assert first == 10


def test_a_clip_shorter_than_a_line_does_not_hold_it():
    assert line_score(np.zeros((3, len(PHONES))), ["aa"] * 4) == -np.inf


def test_the_order_of_phones_counts():
    evidence = np.full((8, len(PHONES)), -3.0)
    evidence[:4, PHONES.index("aa")] = evidence[4:, PHONES.index("s")] = 3.0
    assert line_score(evidence, ["aa", "s"]) > line_score(evidence, ["s", "aa"])


def test_steps_are_labelled_by_what_is_sung_in_them():
    labels = phone_labels([Phone("aa", 0.1, 0.2)], 20)
    assert [PHONES[label] for label in (labels[0], labels[6], labels[19])] == [SILENCE, "aa", SILENCE]


def test_distractors_have_as_many_syllables_and_are_not_in_the_song():
    song = compose(0, 1, Wishes(stem="a cappella", seconds=30))
    for line in song.lyric_lines:
        others = distractors(line.text, song)
        assert len(others) == DISTRACTORS
        assert not set(others) & {own.text for own in song.lyric_lines}
        assert any({line.text, *others} <= set(texts) for texts in lines_by_syllables().values())
