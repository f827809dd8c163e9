import json

import datasets
import pytest

from training.convert import SourceError, convert, main
from training.records import Record, read_dataset


@pytest.fixture
def folder(tmp_path, write_tone):
    """One complete song of each format."""
    data = tmp_path / "data"
    for name in ("a.mp3", "b.wav", "c.flac", "d.ogg"):
        path = write_tone(data / name, seconds=0.2)
        (data / f"{path.stem}_prompt.txt").write_text("pop, slow\n", encoding="utf-8")
        (data / f"{path.stem}_lyrics.txt").write_text("[verse]\noh\n", encoding="utf-8")
    return data


def found(report):
    return [(problem.key, problem.field, problem.reason) for problem in report.problems]


def test_songs_of_every_format_are_read_with_their_texts(folder):
    records, report = convert(folder)
    assert records == [
        Record(name, str(folder / f"{name}.{suffix}"), ("pop", "slow"), "", "[verse]\noh")
        for name, suffix in (("a", "mp3"), ("b", "wav"), ("c", "flac"), ("d", "ogg"))
    ]
    assert (report.usable, report.problems) == (4, [])


def test_values_of_the_json_go_before_the_texts(folder):
    values = {"keys": "song-1", "tags": ["rock"], "speaker_emb_path": "voice.npy", "recaption": {"simplified": "rock"}}
    (folder / "b.json").write_text(json.dumps(values), encoding="utf-8")
    records, report = convert(folder)
    assert records[1] == Record(
        "song-1", str(folder / "b.wav"), ("rock",), str(folder / "voice.npy"), "[verse]\noh", {"simplified": "rock"}
    )
    assert report.problems == []


def test_json_of_another_kind_is_ignored_and_named(folder):
    (folder / "b.json").write_text('{"tempo": 120}', encoding="utf-8")
    records, report = convert(folder)
    assert len(records) == 4
    assert [(problem.kind, problem.key) for problem in report.problems] == [("ignored: b.json: not a record: no `keys`", "b")]


def test_nothing_of_a_folder_is_skipped_silently(folder, write_tone):
    (folder / "a_prompt.txt").unlink()
    (folder / "b_lyrics.txt").unlink()
    (folder / "c_prompt.txt").write_bytes(b"\xff\xfe")
    (folder / "d.json").write_text("{", encoding="utf-8")
    (folder / "e_prompt.txt").write_text("pop", encoding="utf-8")
    write_tone(folder / "f.wav", seconds=0.1)
    write_tone(folder / "f.flac", seconds=0.1)
    records, report = convert(folder)
    assert records == []
    assert found(report) == [
        ("a", "tags", "no text file"),
        ("b", "norm_lyrics", "no text file"),
        ("c", "files", "unreadable text"),
        ("d", "files", "unreadable text"),
        ("e", "filename", "prompt or lyrics without audio"),
        ("f", "filename", "several audio files of one name"),
    ]
    assert report.rejected == 6


def test_lines_of_jsonl_are_records_with_paths_from_their_folder(folder):
    lines = [
        json.dumps({"keys": "b", "tags": ["pop"], "norm_lyrics": "oh"}),
        json.dumps({"filename": "c.flac", "tags": "pop, slow"}),
        "",
        "{",
        "[1]",
        json.dumps({"keys": "x", "filename": "x.wav"}),
        json.dumps({"keys": "b", "filename": "a.mp3"}),
        json.dumps({"tags": []}),
    ]
    (folder / "songs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    records, report = convert(folder / "songs.jsonl")
    assert records == [
        Record("b", str(folder / "b.wav"), ("pop",), "", "oh"),
        Record("c", str(folder / "c.flac"), ("pop", "slow")),
    ]
    assert found(report) == [
        ("line 4", "line", "not JSON"),
        ("line 5", "line", "not an object"),
        ("x", "filename", "no such file"),
        ("line 7", "keys", "the key of another song"),
        ("line 8", "keys", "empty"),
        ("line 8", "filename", "empty"),
    ]


def test_rows_of_parquet_are_records(folder):
    rows = [{"keys": "b", "filename": "b.wav", "tags": ["pop"], "recaption": {"simplified": "tune", "expanded": None}}]
    datasets.Dataset.from_list(rows).to_parquet(folder / "songs.parquet")
    records, report = convert(folder / "songs.parquet")
    assert records == [Record("b", str(folder / "b.wav"), ("pop",), "", "", {"simplified": "tune"})]
    assert report.problems == []


def test_what_is_no_source_is_an_error(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    for path in (tmp_path / "missing", tmp_path / "bad.parquet"):
        with pytest.raises(SourceError, match=path.name):
            convert(path)


def test_the_command_writes_a_dataset_and_a_report_beside_it(folder, tmp_path, capsys):
    (folder / "a_prompt.txt").unlink()
    output = tmp_path / "dataset"
    assert main(["--data_dir", str(folder), "--repeat_count", "2", "--output_name", str(output)]) == 0
    assert len(datasets.load_from_disk(output)) == 6
    assert [record.key for record in read_dataset(output).records] == ["b", "c", "d"]
    report = json.loads((tmp_path / "dataset.report.json").read_text())
    assert (report["usable"], report["rejected"]) == (3, 1)
    assert report["reasons"] == {"rejected: tags: no text file": 1}
    assert report["songs"]["a"][0]["detail"] == str(folder / "a_prompt.txt")
    assert "  a: " in capsys.readouterr().out


def test_the_command_fails_with_the_reasons_when_nothing_can_be_used(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a_prompt.txt").write_text("pop", encoding="utf-8")
    assert main(["--data_dir", str(tmp_path / "data"), "--output_name", str(tmp_path / "dataset")]) == 1
    assert not (tmp_path / "dataset").exists()
    assert json.loads((tmp_path / "dataset.report.json").read_text())["rejected"] == 1
    printed = capsys.readouterr()
    assert "prompt or lyrics without audio (1)" in printed.out
    assert "nothing in" in printed.err


def test_an_existing_dataset_is_not_overwritten(folder, tmp_path):
    (tmp_path / "dataset").mkdir()
    with pytest.raises(SystemExit):
        main(["--data_dir", str(folder), "--output_name", str(tmp_path / "dataset")])
