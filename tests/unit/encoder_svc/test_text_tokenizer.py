import json

import pytest

from acestep_rpc.errors import InvalidRequest
from encoder_svc.text_tokenizer import TextTokenizer
from encoder_svc.weights import CheckpointError

END = 1


def test_an_empty_prompt_is_the_end_token(checkpoint):
    assert TextTokenizer(checkpoint, 100).encode("") == [END]


def test_a_prompt_ends_with_one_end_token_and_is_not_padded(checkpoint):
    ids = TextTokenizer(checkpoint, 100).encode("pop")
    assert len(ids) == 1 + 3 + 1
    assert ids.count(END) == 1
    assert ids[-1] == END


def test_a_prompt_of_256_tokens_passes_and_one_more_is_refused(checkpoint):
    tokenizer = TextTokenizer(checkpoint, 100)
    assert len(tokenizer.encode("a" * 254)) == 256
    with pytest.raises(InvalidRequest, match=r"prompt\.tags: '257 tokens' is not allowed; allowed: at most 256 tokens"):
        tokenizer.encode("a" * 255)


def test_too_many_characters_are_refused(checkpoint):
    with pytest.raises(InvalidRequest, match=r"prompt\.tags: '16385 characters' is not allowed"):
        TextTokenizer(checkpoint, 100).encode(" " * 16385)


def test_ids_without_an_embedding_stop_the_start(checkpoint):
    with pytest.raises(CheckpointError, match="ids, the text encoder 10"):
        TextTokenizer(checkpoint, 10)


def test_a_tokenizer_without_an_end_token_stops_the_start(checkpoint):
    path = checkpoint / "umt5-base" / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))
    with pytest.raises(CheckpointError, match="end token alone"):
        TextTokenizer(checkpoint, 100)


def test_a_missing_tokenizer_stops_the_start(checkpoint):
    for path in (checkpoint / "umt5-base").glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="umt5-base"):
        TextTokenizer(checkpoint, 100)
