import math
from dataclasses import replace

import numpy as np
import pytest

from training.corpus.arrangement import compose
from training.corpus.band import Wishes
from training.corpus.labels import BEAT_COLUMN, PHASE_COLUMN, SCORE_COLUMNS, SECTION_COLUMN, phone_features, score_features
from training.corpus.song import FRAME_SECONDS, PHONES, SONG_FRAMES, Note, Phone


def column(name: str) -> int:
    return SCORE_COLUMNS.index(name)


def frames_of(features, name: str) -> list[int]:
    return np.flatnonzero(features[:, column(name)]).tolist()


@pytest.fixture
def song():
    return compose(0, 0, Wishes(genre="rock", stem="full", beat_frames=4.5))


def test_columns_are_named_where_they_lie():
    assert len(set(SCORE_COLUMNS)) == len(SCORE_COLUMNS) == 52
    assert [column(name) for name in ("kick", "beat", "beat phase sin", "intro")] == [36, BEAT_COLUMN, PHASE_COLUMN, SECTION_COLUMN]
    assert len(set(PHONES)) == len(PHONES) == 41


def test_beats_of_half_frames_alternate(song):
    features = score_features(song, 40)
    assert frames_of(features, "beat") == [0, 4, 9, 13, 18, 22, 27, 31, 36]
    assert frames_of(features, "downbeat") == [0, 18, 36]
    assert frames_of(features, "half beat") == [math.floor(2.25 * beat) for beat in range(18)]


@pytest.mark.parametrize("beat_frames", [4, 4.5, 6.5, 10])
def test_phases_return_with_the_bar(beat_frames):
    song = compose(0, 0, Wishes(genre="pop", beat_frames=beat_frames))
    phases = score_features(song, SONG_FRAMES)[:, PHASE_COLUMN:SECTION_COLUMN]
    bar = int(4 * beat_frames)
    np.testing.assert_allclose(phases[bar:], phases[:-bar], atol=1e-6)
    np.testing.assert_allclose(phases[0], [0.5, 1, 0.5, 1], atol=1e-6)
    assert len({tuple(row) for row in phases[:bar, 2:].round(4).tolist()}) == bar


def test_each_frame_is_in_one_section_until_the_song_ends(song):
    sections = score_features(song, SONG_FRAMES + 10)[:, SECTION_COLUMN:]
    assert sections[:SONG_FRAMES].sum(1).tolist() == [1] * SONG_FRAMES
    assert not sections[SONG_FRAMES:].any()


def test_notes_are_marked_where_they_sound(song):
    notes = (
        Note(0.0, 4 * FRAME_SECONDS, "chords", 60, 80),
        Note(2 * FRAME_SECONDS, 0.01, "bass", 33, 80),
        Note(3 * FRAME_SECONDS, 2 * FRAME_SECONDS, "lead", 74, 80),
        Note(6 * FRAME_SECONDS, 2 * FRAME_SECONDS, "voice", 62, 80),
        Note(0.0005, 0.1, "drums", 36, 80),
        Note(2.25 * FRAME_SECONDS, 0.1, "drums", 42, 80),
        Note(4.5 * FRAME_SECONDS, 0.1, "drums", 38, 80),
        Note(6.9 * FRAME_SECONDS, 0.1, "drums", 49, 80),
    )
    features = score_features(replace(song, notes=notes), 12)
    expected = {
        "chords C": [0, 1, 2, 3],
        "bass A": [2],
        "melody D": [3, 4, 6, 7],
        "kick": [0],
        "hat": [2],
        "snare": [4],
        "other drum": [7],
    }
    assert {name: frames_of(features, name) for name in expected} == expected


def test_phones_fill_their_frames_and_the_rest_is_silence(song):
    phones = (Phone("l", 1.6 * FRAME_SECONDS, 2.2 * FRAME_SECONDS), Phone("ay", 2.2 * FRAME_SECONDS, 4.6 * FRAME_SECONDS))
    features = phone_features(replace(song, phones=phones), 7)
    assert [PHONES[index] for index in features.argmax(1)] == ["pau", "pau", "ay", "ay", "ay", "pau", "pau"]
    assert features.sum(1).tolist() == [1] * 7


def test_labels_may_be_shorter_than_the_song(song):
    np.testing.assert_array_equal(score_features(song, 50), score_features(song, SONG_FRAMES)[:50])
