import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.quality import listener
from benchmarks.quality.evaluation import listener_songs
from benchmarks.quality.listener import FRAMES_PER_SECOND, GENRE_NAMES, SOUNDS, WINDOW_FRAMES, Listener
from training.corpus.arrangement import compose
from training.corpus.band import Wishes
from training.corpus.song import DRUMS, Song

SONGS = listener_songs(160, seed=0)


def painted(song: Song) -> NDArray[np.float32]:
    """A log-mel in which each genre and each sound has a band of its own."""
    mel = np.random.default_rng([*song.key.encode()]).normal(-4, 0.3, (128, WINDOW_FRAMES))
    mel[GENRE_NAMES.index(song.genre)] += 3
    for name in listener.heard(song, 0, song.seconds):
        mel[20 + 2 * SOUNDS.index(name)] += 3
    return mel.astype(np.float32)


@pytest.fixture(scope="module")
def trained() -> Listener:
    return Listener([painted(song) for song in SONGS], SONGS)


@pytest.fixture(scope="module")
def held_out() -> list[Song]:
    return [compose(9, index, Wishes(split="held_out", stem="full", seconds=10)) for index in range(30)]


def test_genres_are_told_apart_and_shuffled_pairs_are_near_chance(trained, held_out):
    heard = [trained.judge(painted(song)).genre for song in held_out]
    right = np.mean([genre == song.genre for genre, song in zip(heard, held_out, strict=True)])
    shuffled = np.mean([genre == song.genre for genre, song in zip(heard[7:] + heard[:7], held_out, strict=True)])
    assert right > 0.9
    assert shuffled < 0.4


def test_drums_are_heard_where_they_play(trained, held_out):
    right = [(trained.judge(painted(song)).sounds[DRUMS] > 0.5) == (DRUMS in song.parts) for song in held_out]
    assert np.mean(right) > 0.9


def test_an_instrument_that_plays_ranks_above_one_that_does_not(trained, held_out):
    judged = [(song, trained.judge(painted(song))) for song in held_out]
    there = [trained.rank(judgement, name) for song, judgement in judged for name in song.instruments]
    absent = [trained.rank(judgement, "violin") for song, judgement in judged if "violin" not in song.instruments]
    assert np.mean(there) > 0.8
    assert np.mean(absent) < 0.7


def test_a_long_song_is_judged_by_windows_of_ten_seconds():
    assert listener.windows(round(30 * FRAMES_PER_SECOND)) == [(0, 861), (861, 1722), (1723, 2584)]
    assert listener.windows(400) == [(0, 400)]


def test_only_what_sounds_in_a_stretch_is_heard_there():
    song = next(
        song for song in (compose(0, index, Wishes(stem="full", genre="pop")) for index in range(50)) if song.sections[0].name == "intro"
    )
    starts = [note.start_seconds for note in song.notes if note.part == "drums"]
    end = song.sections[0].end_seconds - 0.01  # players are a millisecond early or late
    assert DRUMS in listener.heard(song, 0, song.seconds)
    assert (DRUMS in listener.heard(song, 0, end)) == (min(starts) < end)


def test_a_listener_is_the_same_every_time(trained, held_out):
    again = Listener([painted(song) for song in SONGS], SONGS)
    mel = painted(held_out[0])
    assert again.judge(mel) == trained.judge(mel)
