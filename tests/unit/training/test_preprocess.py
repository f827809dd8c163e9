import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.preparation import Settings
from training.preprocess import NothingUsable, main, preprocess
from training.records import Record, Records, read_dataset, write_dataset
from training.shards import ShardedDataset
from training.songs import Limits

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def records(tmp_path, write_tone):
    """Five good songs and two bad ones."""
    names = ["a", "b", "c", "d", "e"]
    tones = [write_tone(tmp_path / "audio" / f"{name}.wav", hertz=220.0 * (1 + n)) for n, name in enumerate(names)]
    songs = [Record(name, str(tone), ("pop", name), norm_lyrics="hello") for name, tone in zip(names, tones, strict=True)]
    silent = write_tone(tmp_path / "audio" / "silent.wav", gain=0.0)
    songs[1:1] = [Record("silent", str(silent)), Record("missing", str(tmp_path / "no.wav"))]
    return songs


@pytest.fixture
def settings(full_checkpoint):
    return Settings(full_checkpoint, Limits(max_seconds=4))


def make(records, output, settings, **more):
    return preprocess(Records(tuple(records), (), 0), output, settings, songs_per_shard=2, **more)


def shard_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")} | {"manifest": (folder / "manifest.json").read_bytes()}


def test_good_songs_become_a_dataset_and_bad_ones_are_named(records, settings, tmp_path):
    report = make(records, tmp_path / "out", settings)
    dataset = ShardedDataset(tmp_path / "out")
    assert dataset.keys == ("a", "b", "c", "d", "e")
    assert dataset.read(1, 0, 0, 100).captions == ("pop, b",)
    assert (report.usable, report.rejected) == (5, 2)
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {key: problems[0]["reason"] for key, problems in stored["songs"].items()} == {"silent": "silent", "missing": "no such file"}
    assert dataset.about["features"] == {"mert": None, "m-hubert": None}


def test_same_inputs_give_same_bytes_in_any_number_of_processes(records, settings, tmp_path):
    make(records, tmp_path / "one", settings)
    make(records, tmp_path / "two", settings, workers=2)
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "two")


def test_nodes_write_the_dataset_that_one_writes_and_the_last_one_its_manifest(records, settings, tmp_path):
    make(records, tmp_path / "one", settings)
    for node in (2, 0):
        assert make(records, tmp_path / "three", settings, node=node, num_nodes=3) is None
    assert not (tmp_path / "three" / "manifest.json").exists()
    assert make(records, tmp_path / "three", settings, node=1, num_nodes=3).usable == 5
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "three")


def test_a_node_does_not_join_parts_of_other_settings(records, settings, full_checkpoint, tmp_path):
    other = Settings(full_checkpoint, Limits(max_seconds=5))
    assert make(records, tmp_path / "out", other, node=0, num_nodes=2) is None
    assert make(records, tmp_path / "out", settings, node=1, num_nodes=2) is None
    assert not (tmp_path / "out" / "manifest.json").exists()


def written(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}


def test_a_second_run_makes_only_what_changed(records, settings, tmp_path, write_tone):
    make(records, tmp_path / "out", settings)
    before = written(tmp_path / "out")
    make(records, tmp_path / "out", settings)
    assert written(tmp_path / "out") == before
    write_tone(Path(records[-1].filename), hertz=100.0)
    make(records, tmp_path / "out", settings)
    after = written(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1
    listed = {shard["file"] for shard in json.loads((tmp_path / "out" / "manifest.json").read_text())["shards"]}
    assert len(listed) == len(before)
    assert listed != set(before)


def test_a_file_that_turns_up_is_taken_in(records, settings, tmp_path, write_tone):
    make(records, tmp_path / "out", settings)
    write_tone(Path(records[2].filename))
    assert make(records, tmp_path / "out", settings).usable == 6


def test_a_damaged_shard_is_made_again(records, settings, tmp_path):
    make(records, tmp_path / "out", settings)
    whole = shard_bytes(tmp_path / "out")
    path = next((tmp_path / "out").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    make(records, tmp_path / "out", settings)
    assert shard_bytes(tmp_path / "out") == whole


def test_nothing_usable_stops_with_the_reasons(records, settings, tmp_path):
    with pytest.raises(NothingUsable) as caught:
        make(records[1:3], tmp_path / "out", settings)
    assert "rejected: filename: silent (1)" in str(caught.value)
    assert "rejected: filename: no such file (1)" in str(caught.value)
    assert not (tmp_path / "out" / "manifest.json").exists()


def arguments(dataset, checkpoint, output, *more):
    paths = ["--dataset_path", str(dataset), "--checkpoint_dir", str(checkpoint), "--output_dir", str(output)]
    return [*paths, "--max_seconds", "4", "--songs_per_shard", "1", "--device", "cpu", *more]


def test_a_killed_run_goes_on_where_it_stopped(records, full_checkpoint, tmp_path):
    write_dataset(tmp_path / "dataset", records)
    command = [sys.executable, "-m", "training", "preprocess", *arguments(tmp_path / "dataset", full_checkpoint, tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(4)]
        process.send_signal(signal.SIGKILL)
    assert [line.split(":")[0] for line in lines] == [f"unit {n} of 7" for n in (1, 2, 3, 4)]
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "manifest.json").exists()
    kept = written(tmp_path / "out")
    assert 2 <= len(kept) < 5
    (tmp_path / "out" / ".shard-1.part").write_bytes(b"half")
    time.sleep(0.01)
    assert main(arguments(tmp_path / "dataset", full_checkpoint, tmp_path / "out")) == 0
    assert {name: written(tmp_path / "out")[name] for name in kept} == kept
    assert main(arguments(tmp_path / "dataset", full_checkpoint, tmp_path / "uninterrupted")) == 0
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "uninterrupted")
    assert not list((tmp_path / "out").glob(".shard-*"))


def test_the_command_reports_songs_and_rows(records, full_checkpoint, tmp_path, capsys):
    write_dataset(tmp_path / "dataset", [*records[:3], Record("a/b", records[0].filename)], repeat_count=2)
    assert main(arguments(tmp_path / "dataset", full_checkpoint, tmp_path / "out")) == 0
    printed = capsys.readouterr().out
    assert "1 songs usable, 3 rejected\nrepeated rows: 3\n" in printed
    assert "rejected: keys: has a slash or a control character (2)" in printed
    assert read_dataset(tmp_path / "dataset").repeats == 3


def test_the_command_fails_in_one_line_on_what_is_no_songs_fault(records, full_checkpoint, tmp_path, capsys):
    write_dataset(tmp_path / "dataset", records)
    good = tmp_path / "dataset", full_checkpoint
    cases = [
        arguments(tmp_path / "no", full_checkpoint, tmp_path / "out"),
        arguments(tmp_path / "dataset", tmp_path / "no", tmp_path / "out"),
        arguments(*good, tmp_path / "out", "--mhubert", str(tmp_path)),
    ]
    capsys.readouterr()
    for case in cases:
        assert main(case) == 1
        assert capsys.readouterr().err.startswith("acestep-train preprocess: ")


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b"])
def test_a_part_that_does_not_exist_is_refused(text, full_checkpoint, tmp_path):
    with pytest.raises(SystemExit):
        main(arguments(tmp_path, full_checkpoint, tmp_path, "--shard", text))
