import json

import pytest

from encoder_svc.known_tags import KnownTags
from encoder_svc.weights import CheckpointError

KNOWN = KnownTags(
    [["pop", "hip hop"], ["129 bpm", "92 bpm"], ["C minor", "Eb minor"], ["piano", "acoustic guitar"], ["drums"], ["upbeat"]],
    {"rap": "hip hop", "guitar": "acoustic guitar", "d# minor": "Eb minor"},
)


def test_known_tags_are_put_in_order_without_a_word():
    read = KNOWN.read("upbeat,  DRUMS, c minor,129 bpm , Hip Hop")
    assert (read.text, read.warnings) == ("hip hop, 129 bpm, C minor, drums, upbeat", ())


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("120 bpm", "129 bpm"),
        ("100bpm", "92 bpm"),
        ("rap", "hip hop"),
        ("pianos", "piano"),
        ("upbeat pop song with guitar", "pop, acoustic guitar, upbeat"),
        ("acoustic guitar solo", "acoustic guitar"),
        ("D# minor", "Eb minor"),
    ],
)
def test_a_tag_that_is_read_as_another_is_reported(given, text):
    read = KNOWN.read(given)
    assert read.text == text
    (warning,) = read.warnings
    assert repr(given) in warning


def test_an_unknown_tag_is_left_out_and_reported():
    read = KNOWN.read("pop, shoegaze")
    assert read.text == "pop"
    assert read.warnings == ("this checkpoint does not know the tag 'shoegaze'; it is left out",)


def test_nothing_is_nothing():
    assert KNOWN.read(" , ,").text == ""


def test_a_checkpoint_without_a_list_takes_every_text(tmp_path):
    assert KnownTags.load(tmp_path) is None


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"groups": [[1]], "synonyms": {}})])
def test_a_broken_list_stops_the_start(tmp_path, text):
    folder = tmp_path / "umt5-base"
    folder.mkdir()
    (folder / "known_tags.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"known_tags\.json cannot be read"):
        KnownTags.load(tmp_path)
