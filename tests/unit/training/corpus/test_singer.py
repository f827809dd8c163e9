import numpy as np
import pytest

from training.corpus.arrangement import compose
from training.corpus.band import Wishes
from training.corpus.lyrics import all_lines
from training.corpus.singer import Singer, split_syllables, without_overlaps
from training.corpus.song import PHONES, SAMPLE_RATE, VOWELS, Phone

SUNG = Wishes(stem="a cappella", genre="pop", beat_frames=5, seconds=10)


def spoken(*symbols: str) -> tuple[Phone, ...]:
    return tuple(Phone(symbol, float(number), float(number + 1)) for number, symbol in enumerate(symbols))


def test_consonants_belong_to_the_vowel_after_them():
    syllables = split_syllables(spoken("pau", "l", "ay", "t", "iy", "aa", "n", "d", "pau"))
    assert [[phone.symbol for phone in syllable] for syllable in syllables] == [["l", "ay"], ["t", "iy"], ["aa", "n", "d"]]


def test_phones_end_where_the_next_begins():
    phones = [Phone("ay", 0.0, 0.5), Phone("t", 0.4, 0.6), Phone("s", 0.6, 0.7)]
    assert without_overlaps(phones) == [Phone("ay", 0.0, 0.4), Phone("t", 0.4, 0.6), Phone("s", 0.6, 0.7)]


@pytest.mark.corpus
def test_vowels_begin_with_their_notes(singer):
    song, voice = singer.sing(compose(0, 0, SUNG))
    assert voice is not None
    assert len(voice) == round(song.seconds * SAMPLE_RATE)
    vowels = [phone.start_seconds for phone in song.phones if phone.symbol in VOWELS]
    notes = [note.start_seconds for note in song.notes]
    assert len(vowels) == len(notes)
    # Nothing sounds before the song: at its very start the first consonants take their time from the vowel.
    assert np.abs(np.array(vowels) - np.array(notes))[1:].max() < 0.005
    assert vowels[0] - notes[0] < 0.3
    assert {phone.symbol for phone in song.phones} <= set(PHONES)
    assert all(before.end_seconds <= after.start_seconds for before, after in zip(song.phones, song.phones[1:], strict=False))


@pytest.mark.corpus
def test_the_voice_sings_the_pitch_of_its_notes(singer):
    import pyworld

    song, voice = singer.sing(compose(0, 1, SUNG))
    pitch, times = pyworld.harvest(voice.astype(np.float64), SAMPLE_RATE)
    right = []
    for note in song.notes:
        inside = (times > note.start_seconds + 0.1) & (times < note.start_seconds + 0.6 * note.duration_seconds) & (pitch > 0)
        if inside.sum() > 5:
            right.append(abs(69 + 12 * np.log2(np.median(pitch[inside]) / 440) - note.pitch) < 0.5)
    assert len(right) > 8
    assert np.mean(right) > 0.9


@pytest.mark.corpus
def test_the_cache_gives_back_what_was_analysed(singer):
    song = compose(0, 0, SUNG)
    _, fresh = singer.sing(song)
    _, cached = Singer(singer._cache).sing(song)
    np.testing.assert_array_equal(fresh, cached)


@pytest.mark.corpus
def test_an_instrumental_is_not_sung(singer):
    song = compose(0, 0, Wishes(stem="drums"))
    assert singer.sing(song) == (song, None)


@pytest.mark.corpus
@pytest.mark.parametrize("voice", ["slt", "rms"])
def test_lines_have_the_syllables_they_are_listed_with(singer, voice):
    for syllables, text in all_lines()[::12]:
        assert len(split_syllables(singer.speak(text, voice).phones)) == syllables, text


def test_a_missing_flite_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="Debian package flite"):
        Singer(tmp_path / "voices")
