import json

import pytest

from training.records import Record, read_dataset, write_dataset
from training.songs import Limits
from training.validate import main, validate


@pytest.fixture
def dataset(tmp_path, write_tone):
    good = str(write_tone(tmp_path / "good.wav"))
    long = str(write_tone(tmp_path / "long.wav", seconds=3))
    records = [
        Record("good", good, norm_lyrics="hello"),
        Record("long", long),
        Record("foreign", good, norm_lyrics="Ветер"),
        Record("missing", str(tmp_path / "no.wav"), speaker_emb_path="no.npy"),
        Record("a/b", good),
    ]
    write_dataset(tmp_path / "dataset", records, repeat_count=2)
    return tmp_path / "dataset"


def arguments(dataset, checkpoint, *more):
    return ["--dataset_path", str(dataset), "--checkpoint_dir", str(checkpoint), "--max_seconds", "2", *more]


def test_every_song_is_accounted_for(dataset, full_checkpoint, capsys):
    assert main(arguments(dataset, full_checkpoint)) == 0
    report = json.loads(dataset.with_name("dataset.validation.json").read_text())
    assert (report["usable"], report["rejected"], report["counts"]) == (2, 3, {"repeated rows": 4})
    assert report["reasons"] == {
        "rejected: keys: has a slash or a control character": 2,
        "clipped: filename: longer than 2 seconds": 1,
        "rejected: norm_lyrics: cannot be read in any language that is built": 1,
        "rejected: filename: no such file": 1,
        "rejected: speaker_emb_path: no such file": 1,
    }
    assert sorted(report["songs"]) == ["a/b", "foreign", "long", "missing"]
    assert "2 songs usable, 3 rejected" in capsys.readouterr().out


def test_long_audio_is_rejected_if_so_configured(dataset, full_checkpoint, tmp_path):
    target = tmp_path / "report.json"
    assert main(arguments(dataset, full_checkpoint, "--long_audio", "reject", "--report", str(target))) == 0
    assert json.loads(target.read_text())["usable"] == 1


def test_workers_find_the_same(dataset, full_checkpoint):
    records = read_dataset(dataset)
    assert validate(records, Limits(), full_checkpoint, workers=2) == validate(records, Limits(), full_checkpoint)


def test_nothing_usable_fails_with_the_reasons(tmp_path, full_checkpoint, capsys):
    write_dataset(tmp_path / "dataset", [Record("missing", str(tmp_path / "no.wav"))])
    assert main(arguments(tmp_path / "dataset", full_checkpoint)) == 1
    printed = capsys.readouterr()
    assert "rejected: filename: no such file (1)" in printed.out
    assert "nothing in" in printed.err


def test_a_bad_checkpoint_or_dataset_is_no_songs_fault(dataset, full_checkpoint, tmp_path, capsys):
    assert main(arguments(dataset, tmp_path / "no")) == 1
    assert main(arguments(tmp_path / "no", full_checkpoint)) == 1
    assert capsys.readouterr().err.count("acestep-train validate: ") == 2
