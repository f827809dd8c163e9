import json
import sys

import pytest
import soundfile

from training.corpus.__main__ import main
from training.corpus.arrangement import compose
from training.corpus.band import Wishes
from training.corpus.song import song_from_json


def run(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["training.corpus", *map(str, arguments)])
    return main()


@pytest.fixture(scope="module")
def corpus_tools(renderer, singer):
    """Skips where the machine lacks them."""
    return renderer, singer


ASKED = ("--songs", 3, "--seed", 4, "--seconds", 4, "--stem", "full", "--genre", "pop")


@pytest.mark.corpus
def test_a_song_is_four_files(tmp_path, monkeypatch, corpus_tools):
    assert run(monkeypatch, "--output", tmp_path, *ASKED) == 0
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        f"train-4-{index:06d}{suffix}" for index in range(3) for suffix in (".flac", ".json", "_prompt.txt", "_lyrics.txt")
    }
    song = song_from_json(json.loads((tmp_path / "train-4-000001.json").read_text()))
    assert (tmp_path / "train-4-000001_prompt.txt").read_text().strip() == ", ".join(song.tags)
    assert (tmp_path / "train-4-000001_lyrics.txt").read_text().strip() == song.lyrics
    assert song.notes == compose(4, 1, Wishes(genre="pop", stem="full", seconds=4)).notes
    waveform, sample_rate = soundfile.read(tmp_path / "train-4-000001.flac")
    assert (waveform.shape, sample_rate) == ((43 * 4096, 2), 44100)


@pytest.mark.corpus
def test_an_interrupted_run_goes_on_and_gives_the_same_bytes(tmp_path, monkeypatch, capsys, corpus_tools):
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert run(monkeypatch, "--output", once, *ASKED) == 0
    assert run(monkeypatch, "--output", twice, *ASKED, "--first", 1) == 0
    (twice / "train-4-000002.json").unlink()
    (twice / "train-4-000003.flac").unlink()
    assert run(monkeypatch, "--output", twice, *ASKED, "--songs", 4) == 0
    assert "3 songs written to" in capsys.readouterr().out
    assert len(list(once.glob("train-*"))) == 12
    for path in once.glob("train-*"):
        assert path.read_bytes() == (twice / path.name).read_bytes()


@pytest.mark.corpus
def test_other_wishes_do_not_pass_for_songs_that_are_there(tmp_path, monkeypatch, capsys, corpus_tools):
    assert run(monkeypatch, "--output", tmp_path, *ASKED, "--songs", 1) == 0
    assert run(monkeypatch, "--output", tmp_path, *ASKED, "--songs", 1, "--instrument", "sitar") == 1
    assert "train-4-000000.json is a song of other wishes" in capsys.readouterr().err


def test_a_missing_soundfont_ends_the_run_with_its_reason(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "--output", tmp_path, "--songs", 1, "--soundfont", tmp_path / "none.sf2") == 1
    assert "fluid-soundfont-gm" in capsys.readouterr().err
