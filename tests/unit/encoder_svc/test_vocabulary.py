import pytest

from encoder_svc.lyrics.vocabulary import STRUCTURE_TAGS, LyricVocabulary
from encoder_svc.weights import CheckpointError


def test_special_ids_are_found_by_name(checkpoint):
    vocabulary = LyricVocabulary(checkpoint / "lyric_vocab.json", 120)
    assert (vocabulary.start_id, vocabulary.space_id) == (4, 2)
    assert vocabulary.structure_tags == STRUCTURE_TAGS


def test_unknown_characters_are_listed_once_in_order(checkpoint):
    vocabulary = LyricVocabulary(checkpoint / "lyric_vocab.json", 120)
    ids, unknown = vocabulary.encode("[en]a+ b= +😀")
    assert unknown == ["+", "=", "😀"]
    assert ids.count(1) == 4


def test_only_tags_of_the_file_are_structure_tags(tmp_path, write_lyric_vocabulary):
    write_lyric_vocabulary(tmp_path / "vocabulary.json", without=("[hook]",))
    vocabulary = LyricVocabulary(tmp_path / "vocabulary.json", 120)
    assert "[hook]" not in vocabulary.structure_tags
    assert not vocabulary.is_special("[hook]")
    assert vocabulary.is_special("[verse]")


@pytest.mark.parametrize("name", ["[START]", "[SPACE]", "[UNK]", "[en]"])
def test_a_missing_special_token_stops_the_start(tmp_path, write_lyric_vocabulary, name):
    write_lyric_vocabulary(tmp_path / "vocabulary.json", without=(name,))
    with pytest.raises(CheckpointError, match=rf"has no token \[{name.strip('[]')}\]"):
        LyricVocabulary(tmp_path / "vocabulary.json", 120)


def test_an_id_without_an_embedding_stops_the_start(checkpoint):
    LyricVocabulary(checkpoint / "lyric_vocab.json", 55)
    with pytest.raises(CheckpointError, match=r"gives 'la' id 54, the lyric embedding has 54 rows"):
        LyricVocabulary(checkpoint / "lyric_vocab.json", 54)


@pytest.mark.parametrize("content", [None, "", "{}"])
def test_an_unreadable_file_stops_the_start(tmp_path, content):
    path = tmp_path / "vocabulary.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CheckpointError, match=r"vocabulary\.json"):
        LyricVocabulary(path, 120)
