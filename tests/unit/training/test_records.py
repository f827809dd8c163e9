import datasets
import pytest

from training.records import FEATURES, Record, RecordError, parse_record, read_dataset, write_dataset
from training.report import Outcome

ROW = {
    "keys": "1ce52937",
    "filename": "a.flac",
    "tags": ["pop", "acoustic"],
    "speaker_emb_path": "",
    "norm_lyrics": "[verse]\noh",
    "recaption": {
        "simplified": "pop",
        "expanded": "pop, acoustic, calm",
        "descriptive": "a calm song",
        "use_cases": "",
        "analysis": {"genre": "pop", "tempo": "medium"},
        "lyrical_rap_check": False,
    },
}


def problems_of(**changes):
    record, problems = parse_record({**ROW, **changes}, "line 3")
    return record, [(problem.key, problem.field, problem.reason) for problem in problems]


def test_the_users_json_form_is_a_record_whose_captions_are_its_strings():
    record, problems = parse_record(ROW, "line 1")
    captions = {"simplified": "pop", "expanded": "pop, acoustic, calm", "descriptive": "a calm song"}
    assert record == Record("1ce52937", "a.flac", ("pop", "acoustic"), "", "[verse]\noh", captions)
    assert problems == []


def test_nulls_and_missing_columns_are_empty():
    record, problems = parse_record({"keys": "a", "filename": "a.wav", "tags": None, "recaption": None, "norm_lyrics": None}, "line 1")
    assert record == Record("a", "a.wav")
    assert problems == []


def test_one_string_of_tags_is_split_at_commas():
    assert parse_record({**ROW, "tags": "pop, slow , "}, "line 1")[0].tags == ("pop", "slow")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"keys": None}, ("line 3", "keys", "empty")),
        ({"keys": 7}, ("line 3", "keys", "not a string")),
        ({"keys": "a/b"}, ("a/b", "keys", "has a slash or a control character")),
        ({"filename": ""}, ("1ce52937", "filename", "empty")),
        ({"filename": ["a"]}, ("1ce52937", "filename", "not a string")),
        ({"tags": [1]}, ("1ce52937", "tags", "not a list of strings")),
        ({"tags": {"a": 1}}, ("1ce52937", "tags", "not a list of strings")),
        ({"speaker_emb_path": 1}, ("1ce52937", "speaker_emb_path", "not a string")),
        ({"norm_lyrics": ["oh"]}, ("1ce52937", "norm_lyrics", "not a string")),
        ({"recaption": "pop"}, ("1ce52937", "recaption", "not an object")),
    ],
)
def test_what_is_no_record_is_rejected_by_name(changes, problem):
    record, problems = problems_of(**changes)
    assert record is None
    assert problem in problems


def test_a_caption_of_an_unknown_name_is_reported_and_left_out():
    record, problems = parse_record({**ROW, "recaption": {"simplified": "pop", "mine": "rock"}}, "line 1")
    assert record.recaption == {"simplified": "pop"}
    assert [(problem.reason, problem.detail, problem.outcome) for problem in problems] == [
        ("a caption of an unknown name", "mine", Outcome.IGNORED)
    ]


def test_written_records_are_read_back_once_each(tmp_path):
    records = [Record("a", "a.wav", ("pop",), "", "oh", {"synonyms": "tune"}), Record("b", "b.wav")]
    write_dataset(tmp_path / "dataset", records, repeat_count=3)
    stored = datasets.load_from_disk(tmp_path / "dataset")
    assert (stored.features, len(stored)) == (FEATURES, 6)
    read = read_dataset(tmp_path / "dataset")
    assert (list(read.records), read.problems, read.repeats) == (records, (), 4)


def test_two_songs_of_one_key_are_not_confused(tmp_path):
    write_dataset(tmp_path / "dataset", [Record("a", "a.wav"), Record("a", "b.wav")])
    read = read_dataset(tmp_path / "dataset")
    assert read.records == (Record("a", "a.wav"),)
    assert [(problem.key, problem.reason, problem.detail) for problem in read.problems] == [("row 1", "the key of another song", "a")]


def test_a_dataset_of_the_reference_is_read(tmp_path):
    rows = [{"keys": "a", "filename": "a.mp3", "tags": ["pop"], "speaker_emb_path": "", "norm_lyrics": "oh", "recaption": {}}]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "dataset")
    assert read_dataset(tmp_path / "dataset").records == (Record("a", "a.mp3", ("pop",), "", "oh"),)


def test_a_folder_without_a_dataset_is_an_error(tmp_path):
    with pytest.raises(RecordError, match=str(tmp_path)):
        read_dataset(tmp_path)
    rows = datasets.Dataset.from_list([Record("a", "a.wav").to_row()], features=FEATURES)
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "splits")
    with pytest.raises(RecordError, match="train, test"):
        read_dataset(tmp_path / "splits")
