import numpy as np
import pytest

from benchmarks.quality import notes
from tests.unit.benchmarks.sounds import mel_of, melody, noise

C_MAJOR = [60, 62, 64, 65, 67, 69, 71, 72]


def test_a_scale_is_in_its_key_and_out_of_the_one_a_tritone_away():
    shares = notes.chroma(melody(C_MAJOR).astype(np.float32))
    assert notes.in_key_mass(shares, 0, "major") > 0.85
    assert notes.key_margin(melody(C_MAJOR).astype(np.float32), 0, "major") > 0.3
    assert notes.key_margin(melody(C_MAJOR).astype(np.float32), 6, "major") < -0.3


def test_a_scale_is_in_the_relative_minor_too():
    shares = notes.chroma(melody(C_MAJOR).astype(np.float32))
    assert notes.in_key_mass(shares, 9, "minor") == pytest.approx(notes.in_key_mass(shares, 0, "major"))


def test_noise_and_silence_are_in_no_key():
    assert abs(notes.key_margin(noise(5).astype(np.float32), 0, "major")) < 0.05
    assert notes.key_margin(np.zeros(200_000, np.float32), 0, "major") == pytest.approx(0)


def test_noise_fails_the_check_for_notes_that_melodies_pass():
    melodies = [mel_of(melody([pitch + shift for pitch in C_MAJOR])) for shift in range(-5, 6)]
    real = notes.note_structure(melodies)
    inside = [real.persistence[0] <= notes.persistence(mel) <= real.persistence[1] for mel in melodies]
    assert np.mean(inside) >= 0.7
    hiss = mel_of(noise(3))
    assert notes.persistence(hiss) < real.persistence[0]
    assert notes.flatness(hiss) > real.flatness[1]


def test_texture_of_the_right_colour_does_not_hold_its_partials():
    held = mel_of(melody(C_MAJOR))
    frames = np.random.default_rng(0).permutation(held.shape[1])
    bands = np.random.default_rng(1).standard_normal(held.shape)
    texture = (held[:, frames].mean(axis=1, keepdims=True) + bands).astype(np.float32)
    assert notes.persistence(texture) < 0.6 * notes.persistence(held)
