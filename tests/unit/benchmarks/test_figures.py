import numpy as np
import pytest

from benchmarks.quality import figures
from benchmarks.quality.evaluation import held_out_songs
from tests.unit.benchmarks.sounds import mel_of, noise
from training.corpus.arrangement import compose
from training.corpus.band import Wishes
from training.corpus.genres import held_out


@pytest.mark.parametrize(("genre", "stem", "expected"), [("rock", "full", True), ("funk", "full", False), ("rock", "lead", False)])
def test_a_beat_is_asked_for_where_onsets_tell_it(genre, stem, expected):
    songs = [compose(0, index, Wishes(genre=genre, stem=stem, seconds=10)) for index in range(5)]
    assert {figures.has_a_beat(song) for song in songs} == {expected}


def test_every_prompt_is_a_pair_that_training_never_saw():
    songs = held_out_songs(40, 10, seed=0)
    assert all(held_out(song.genre, song.beat_frames) for song in songs)
    assert len({song.genre for song in songs}) == 10
    assert songs == held_out_songs(40, 10, seed=0)


def test_strangers_differ_and_a_clip_does_not_differ_from_itself():
    first, second = mel_of(noise(3, 0)), mel_of(noise(3, 1))
    assert figures.difference(first, first) == pytest.approx(0, abs=1e-6)
    assert figures.difference(first, first + 1) == pytest.approx(0, abs=1e-6)
    assert figures.difference(first, second) == pytest.approx(1, abs=0.1)
    assert len(figures.diversity([first, second, first])) == 3


def test_a_clip_that_kept_the_old_tempo_is_not_taken_for_the_new_one():
    beats = np.zeros((128, 900), np.float32)
    beats[:, ::40] = 3
    kept = figures.measure_swapped(beats, new=6, old=5)
    followed = figures.measure_swapped(beats, new=5, old=6)
    assert kept[figures.SWAP_OLD] > 0.7 > 0.1 > kept[figures.SWAP_NEW]
    assert followed[figures.SWAP_NEW] > 0.7 > 0.1 > followed[figures.SWAP_OLD]
