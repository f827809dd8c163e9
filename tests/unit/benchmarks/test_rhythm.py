import numpy as np
import pytest

from benchmarks.quality import rhythm
from tests.unit.benchmarks.sounds import clicks, mel_of, noise
from training.corpus.genres import BEAT_FRAMES, GENRES, tempi


@pytest.mark.parametrize("beat_frames", [4.5, 5.0, 8.0])
def test_clicks_keep_their_own_tempo_and_no_other(beat_frames):
    envelope = rhythm.onset_envelope(mel_of(clicks(beat_frames, 12)))
    assert rhythm.beat_margin(envelope, beat_frames) > 0.7
    unrelated = [other for other in BEAT_FRAMES if other / beat_frames not in (0.5, 1, 1.5, 2, 3) and abs(other - beat_frames) >= 1]
    assert max(rhythm.beat_margin(envelope, other) for other in unrelated) < 0.15


def test_noise_keeps_no_tempo():
    envelope = rhythm.onset_envelope(mel_of(noise(10)))
    assert max(abs(rhythm.beat_margin(envelope, beat)) for beat in BEAT_FRAMES) < 0.15


def test_a_clip_that_does_not_move_has_no_tempo():
    assert rhythm.beat_margin(np.zeros(800), 5) == 0


def test_a_beat_that_stops_is_missed_in_the_last_third_alone():
    waveform = clicks(5, 15)
    waveform[len(waveform) * 6 // 10 :] = noise(6, 3)
    first, _, last = rhythm.thirds(rhythm.onset_envelope(mel_of(waveform)))
    assert rhythm.beat_margin(first, 5) > 0.7
    assert rhythm.beat_margin(last, 5) < 0.2


def test_onsets_on_the_beat_lie_on_half_beats_and_not_between():
    envelope = rhythm.onset_envelope(mel_of(clicks(6, 12)))
    assert rhythm.half_beat_share(envelope, 6) > 0.7
    assert rhythm.half_beat_share(envelope, 6, 0.25) < 0.1


def test_onsets_a_quarter_beat_late_are_told_from_those_on_time():
    envelope = rhythm.onset_envelope(mel_of(clicks(6, 12, shift_beats=0.25)))
    assert rhythm.half_beat_share(envelope, 6) < 0.1
    assert rhythm.half_beat_share(envelope, 6, 0.25) > 0.7


@pytest.mark.parametrize("genre", GENRES)
def test_a_swapped_tempo_is_another_one_that_the_genre_was_trained_with(genre):
    for beat in tempi(genre, "held_out"):
        other = rhythm.swapped_beat(genre, beat)
        assert other in tempi(genre, "train")
        assert abs(other - beat) >= 1
        assert other / beat not in (0.5, 2)
