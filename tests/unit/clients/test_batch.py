"""What a file of songs asks for."""

from pathlib import Path

import pytest

from clients.cli.batch import read_items
from clients.cli.failures import CommandFailed

JSONL = r"""{"id": "a", "tags": "funk", "lyrics": "[verse]\nla", "duration_seconds": 3, "seeds": [1, 2], "infer_step":8,"use_erg_tag":false}
{"tags": "jazz", "audio_format": "flac"}
"""
CSV = """id,tags,lyrics,duration_seconds,seeds,infer_step,use_erg_tag,audio_format
a,funk,"[verse]
la",3,1 2,8,false,
0002,jazz,,,,,,flac
"""


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_json_lines_and_csv_say_the_same(tmp_path):
    items = read_items(write(tmp_path, "songs.jsonl", JSONL))
    assert [item.name for item in items] == ["a", "0002"]
    assert items == read_items(write(tmp_path, "songs.csv", CSV))
    request = items[0].request
    assert (request.prompt.lyrics, list(request.seeds), request.text_to_music.duration_seconds) == ("[verse]\nla", [1, 2], 3)
    assert (request.sampling.infer_step, request.sampling.use_erg_tag) == (8, False)


def test_the_name_of_a_job_is_that_of_what_it_asks_for(tmp_path):
    first, second = (item.request.request_id for item in read_items(write(tmp_path, "songs.jsonl", JSONL)))
    assert first != second
    changed = read_items(write(tmp_path, "songs.jsonl", JSONL.replace("funk", "soul")))
    assert changed[0].request.request_id not in (first, second)
    assert changed[1].request.request_id == second


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"tags": "a", "steps": 3}', "unknown fields: steps"),
        ('{"tags": "a", "seeds": "x"}', "line 2: "),
        ('{"tags": "a", "cfg_type": "x"}', "cfg_type: 'x' is none of"),
        ('{"id": "../a", "tags": "a"}', "id: '../a' is no name"),
        ('{"id": "first", "tags": "a"}', "id: 'first' is there twice"),
        ('{"tags": "a", "lyrics_file": "none.txt"}', "none.txt"),
        ('{"prompt": "a"}', "audio_duration is missing"),
        ("[]", "line 2 is no JSON object"),
        ("{", "songs.jsonl: "),
    ],
)
def test_wrong_lines_are_named_before_anything_is_made(tmp_path, line, said):
    path = write(tmp_path, "songs.jsonl", '{"id": "first", "tags": "a"}\n' + line + "\n")
    with pytest.raises(CommandFailed, match=said):
        read_items(path)


@pytest.mark.parametrize(("name", "cell"), [("infer_step", "many"), ("use_erg_tag", "yes"), ("seeds", "1 a"), ("duration_seconds", "x")])
def test_cells_that_are_no_values_are_refused_by_column(tmp_path, name, cell):
    with pytest.raises(CommandFailed, match=f"{name}: '{cell}' cannot be read"):
        read_items(write(tmp_path, "songs.csv", f"tags,{name}\nfunk,{cell}\n"))
