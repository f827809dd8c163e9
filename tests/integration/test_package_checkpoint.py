"""The checkpoint that comes with the package, as a new user meets it."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from clients.cli.checkpoint import EMBEDDED_CHECKPOINT

SECONDS = 6.0


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    folder = tmp_path_factory.mktemp("songs")
    words = ["--tags", "reggae, 90 bpm, A minor, organ, bass, drums, bagpipes", "--lyrics", "[inst]"]
    command = [sys.executable, "-m", "clients.cli.main", "generate", *words, "--duration", str(SECONDS), "--seed", "0", "-o", "song.wav"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    (folder / "warnings.txt").write_text(done.stderr)
    return folder


def test_it_makes_a_song_without_being_named(song):
    samples, rate = soundfile.read(song / "song.wav")
    assert rate == 48_000
    assert abs(len(samples) / rate - SECONDS) < 0.1
    level = np.sqrt((samples**2).mean())
    assert 0.02 < level < 0.5


def test_its_own_sampling_is_the_default(song):
    receipt = json.loads((song / "song_input_params.json").read_text())
    sampling = json.loads((EMBEDDED_CHECKPOINT / "sampling.json").read_text())
    assert receipt["infer_step"] == sampling["infer_step"]
    assert receipt["guidance_scale"] == sampling["guidance_scale"]
    assert receipt["use_erg_lyric"] is sampling["use_erg_lyric"]


def test_tags_it_does_not_know_are_named(song):
    warnings = (song / "warnings.txt").read_text()
    assert "'90 bpm' is read as '92 bpm'" in warnings
    assert "'bagpipes'" in warnings


def test_songs_from_songs_take_its_sampling_as_far_as_they_have_a_place_for_it(song):
    words = ["--from", "song.wav", "--tags", "reggae", "--target-tags", "jazz", "--steps", "2", "-o", "jazz.wav"]
    subprocess.run([sys.executable, "-m", "clients.cli.main", "edit", *words], cwd=song, check=True, capture_output=True)
    receipt = json.loads((song / "jazz_input_params.json").read_text())
    assert json.loads((EMBEDDED_CHECKPOINT / "sampling.json").read_text())["cfg_type"] == "CFG_TYPE_CFG"
    assert receipt["cfg_type"] == "apg"
    assert soundfile.info(song / "jazz.wav").frames == soundfile.info(song / "song.wav").frames


def test_it_is_small_and_says_what_it_is():
    assert sum(path.stat().st_size for path in EMBEDDED_CHECKPOINT.rglob("*") if path.is_file()) < 40_000_000
    card = (EMBEDDED_CHECKPOINT / "README.md").read_text()
    for heading in ("## What it is, and what it isn't", "## Training", "## Figures", "## Licence"):
        assert heading in card
    log = np.genfromtxt(io.StringIO((EMBEDDED_CHECKPOINT / "training_log.csv").read_text()), delimiter=",", names=True)
    assert log["denoising_loss"][-1] < 0.5 * log["denoising_loss"][0]
