import builtins
import sys

import numpy as np
import pytest

from training.corpus.arrangement import compose
from training.corpus.band import Wishes
from training.corpus.render import Renderer, mix
from training.corpus.song import FRAME_SAMPLES

SHORT = Wishes(seconds=6, stem="full", genre="rock", beat_frames=5)


@pytest.mark.corpus
def test_sound_depends_on_the_song_alone(renderer):
    first, other = (compose(0, index, SHORT) for index in (0, 1))
    alone = renderer.render(first)
    renderer.render(other)
    np.testing.assert_array_equal(renderer.render(first), alone)


@pytest.mark.corpus
def test_a_song_is_stereo_and_as_long_and_loud_as_meant(renderer):
    waveform = renderer.render(compose(0, 0, SHORT))
    assert waveform.shape == (2, 65 * FRAME_SAMPLES)
    assert waveform.dtype == np.float32
    assert np.sqrt((waveform**2).mean()) == pytest.approx(0.09, abs=1e-3)


@pytest.mark.corpus
def test_drums_sound_on_the_beat(renderer):
    song = compose(0, 3, Wishes(genre="electronic", stem="drums", beat_frames=5, seconds=8))
    power = (renderer.render(song) ** 2).sum(0)
    beat = 5 * FRAME_SAMPLES
    beats = [power[start : start + 4000].sum() for start in range(beat, len(power) - beat, beat)]
    quarters_later = [power[start + beat // 4 : start + beat // 4 + 4000].sum() for start in range(beat, len(power) - beat, beat)]
    assert np.median(beats) > 4 * np.median(quarters_later)


def test_a_voice_stands_above_the_instruments():
    rng = np.random.default_rng(0)
    instruments = (0.09 * rng.standard_normal((2, 44100))).astype(np.float32)
    mixed = mix(instruments, rng.standard_normal(44100).astype(np.float32))
    assert np.abs(mixed).max() <= 0.9701
    np.testing.assert_array_equal(mix(0.1 * instruments, None), 0.1 * instruments)


def test_a_missing_soundfont_is_named(tmp_path):
    with pytest.raises(RuntimeError, match=r"nowhere\.sf2.*fluid-soundfont-gm"):
        Renderer(tmp_path / "nowhere.sf2")


def test_a_missing_synthesiser_is_named(tmp_path, monkeypatch):
    soundfont = tmp_path / "some.sf2"
    soundfont.touch()
    real_import = builtins.__import__

    def import_without_fluidsynth(name, *rest, **options):
        if name == "fluidsynth":
            raise ImportError("Couldn't find the FluidSynth library.")
        return real_import(name, *rest, **options)

    monkeypatch.delitem(sys.modules, "fluidsynth", raising=False)
    monkeypatch.setattr(builtins, "__import__", import_without_fluidsynth)
    with pytest.raises(RuntimeError, match="libfluidsynth3.*'corpus'"):
        Renderer(soundfont)


@pytest.mark.corpus
def test_a_file_that_is_no_soundfont_is_an_error(renderer, tmp_path):
    broken = tmp_path / "broken.sf2"
    broken.write_bytes(b"not a soundfont")
    with pytest.raises(RuntimeError, match=r"broken\.sf2 is no soundfont"):
        Renderer(broken)
