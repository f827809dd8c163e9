import pytest

from training.corpus.genres import BEAT_FRAMES, GENRES, INSTRUMENTS, bpm_of, held_out, tempi

PAIRS = [(name, beat) for name, genre in GENRES.items() for beat in genre.beat_frames]


def test_tempi_are_those_of_the_frame_grid():
    assert [bpm_of(beat) for beat in BEAT_FRAMES] == [161, 144, 129, 117, 108, 99, 92, 86, 81, 72, 65]
    assert {beat for _, beat in PAIRS} == set(BEAT_FRAMES)


@pytest.mark.parametrize("name", GENRES)
def test_each_genre_holds_out_a_tempo_and_trains_on_several(name):
    assert set(tempi(name, "train")).isdisjoint(tempi(name, "held_out"))
    assert set(tempi(name, "train")) | set(tempi(name, "held_out")) == set(GENRES[name].beat_frames)
    assert len(tempi(name, "held_out")) >= 1
    assert len(tempi(name, "train")) >= 3


def test_each_tempo_is_trained_with_some_genre():
    assert {beat for name, beat in PAIRS if not held_out(name, beat)} == set(BEAT_FRAMES)


def test_about_one_pair_in_eight_is_held_out():
    assert 1 / 10 <= sum(held_out(*pair) for pair in PAIRS) / len(PAIRS) <= 1 / 6


def test_instruments_are_named():
    for genre in GENRES.values():
        names = {name for name, _ in genre.chords} | set(genre.leads) | ({genre.bass[0]} if genre.bass else set())
        assert names <= INSTRUMENTS.keys()
