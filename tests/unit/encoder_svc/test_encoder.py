from collections import Counter

import pytest
import torch

from acestep_rpc.errors import InvalidRequest, StageError
from encoder_svc.encoder import NullCondition, PromptEncoder

IDS = [4, 3, 20, 2, 30, 2]


def expected_lyrics(encoder, ids, mask, weakened=False):
    with torch.inference_mode():
        return encoder.lyric_encoder(torch.tensor([ids]), torch.tensor([mask]), weakened)[0]


def expected_text(encoder, tags, weakened=False):
    ids = torch.tensor([encoder.text_tokenizer.encode(tags)])
    with torch.inference_mode():
        return encoder.text_encoder(ids, torch.ones_like(ids), weakened)[0]


@pytest.mark.parametrize("null_condition", NullCondition)
def test_the_full_condition_does_not_depend_on_the_null_branch(prompt_encoder, null_condition):
    conditioning = prompt_encoder.encode("pop", IDS, null_condition)
    assert torch.equal(conditioning.text_hidden_states, expected_text(prompt_encoder, "pop"))
    assert torch.equal(conditioning.lyric_hidden_states, expected_lyrics(prompt_encoder, IDS, [1] * 6))
    assert conditioning.lyric_attention_mask.tolist() == [True] * 6


def test_without_a_null_branch_there_are_no_null_states(prompt_encoder):
    conditioning = prompt_encoder.encode("pop", IDS, NullCondition.NONE)
    assert conditioning.null_text_hidden_states is None
    assert conditioning.null_lyric_hidden_states is None
    assert conditioning.null_lyric_attention_mask is None


def test_zeros_encodes_ids_0_under_the_same_mask(prompt_encoder):
    conditioning = prompt_encoder.encode("pop", IDS, NullCondition.ZEROS)
    assert conditioning.null_text_hidden_states is None
    assert conditioning.null_lyric_attention_mask is None
    expected = expected_lyrics(prompt_encoder, [0] * 6, [1] * 6)
    torch.testing.assert_close(conditioning.null_lyric_hidden_states, expected, rtol=1e-5, atol=1e-6)


def test_masked_encodes_ids_0_under_an_empty_mask(prompt_encoder):
    conditioning = prompt_encoder.encode("pop", IDS, NullCondition.MASKED)
    assert conditioning.null_text_hidden_states is None
    assert conditioning.null_lyric_attention_mask.tolist() == [False] * 6
    expected = expected_lyrics(prompt_encoder, [0] * 6, [0] * 6)
    torch.testing.assert_close(conditioning.null_lyric_hidden_states, expected, rtol=1e-5, atol=1e-6)
    zeros = prompt_encoder.encode("pop", IDS, NullCondition.ZEROS)
    assert not torch.allclose(conditioning.null_lyric_hidden_states, zeros.null_lyric_hidden_states)


def test_weakened_lyrics_leaves_the_tags_zero(prompt_encoder):
    conditioning = prompt_encoder.encode("pop", IDS, NullCondition.WEAKENED_LYRICS)
    assert conditioning.null_text_hidden_states is None
    assert torch.equal(conditioning.null_lyric_hidden_states, expected_lyrics(prompt_encoder, IDS, [1] * 6, weakened=True))


def test_weakened_weakens_tags_and_lyrics(prompt_encoder):
    conditioning = prompt_encoder.encode("pop", IDS, NullCondition.WEAKENED)
    assert torch.equal(conditioning.null_text_hidden_states, expected_text(prompt_encoder, "pop", weakened=True))
    assert torch.equal(conditioning.null_lyric_hidden_states, expected_lyrics(prompt_encoder, IDS, [1] * 6, weakened=True))


@pytest.mark.parametrize("null_condition", NullCondition)
def test_no_lyrics_are_one_masked_token(prompt_encoder, null_condition):
    conditioning = prompt_encoder.encode("", [], null_condition)
    assert conditioning.text_hidden_states.shape == (1, 24)
    assert torch.equal(conditioning.lyric_hidden_states, expected_lyrics(prompt_encoder, [0], [0]))
    assert conditioning.lyric_attention_mask.tolist() == [False]


def test_weakened_text_is_computed_only_when_asked_for(prompt_encoder):
    calls = Counter()
    prompt_encoder.text_encoder.umt5.encoder.block[9].register_forward_hook(lambda *_: calls.update(["block"]))
    prompt_encoder.encode("pop", IDS, NullCondition.WEAKENED_LYRICS)
    assert calls["block"] == 1
    prompt_encoder.encode("pop", IDS, NullCondition.WEAKENED)
    assert calls["block"] == 3


def test_the_zero_lyrics_cost_one_token(prompt_encoder):
    lengths = []
    prompt_encoder.lyric_encoder.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
    prompt_encoder.encode("pop", IDS, NullCondition.ZEROS)
    assert lengths == [6, 1]


def test_bfloat16_weights_give_bfloat16_states(checkpoint):
    encoder = PromptEncoder.load(checkpoint, torch.device("cpu"), torch.bfloat16)
    conditioning = encoder.encode("pop", IDS, NullCondition.WEAKENED)
    assert conditioning.text_hidden_states.dtype == conditioning.null_lyric_hidden_states.dtype == torch.bfloat16
    assert conditioning.lyric_attention_mask.dtype == torch.bool


def test_the_cache_returns_the_same_result_for_the_same_content_only(checkpoint):
    encoder = PromptEncoder.load(checkpoint, torch.device("cpu"), torch.float32, cache_bytes=1 << 20)
    first = encoder.encode("pop", IDS, NullCondition.ZEROS)
    assert encoder.encode("pop", list(IDS), NullCondition.ZEROS) is first
    assert encoder.encode("pop", IDS, NullCondition.NONE) is not first
    assert encoder.encode("rock", IDS, NullCondition.ZEROS) is not first
    assert encoder.encode("pop", IDS[:-1], NullCondition.ZEROS) is not first


def test_states_that_are_not_finite_are_an_error_and_not_kept(checkpoint):
    encoder = PromptEncoder.load(checkpoint, torch.device("cpu"), torch.float32, cache_bytes=1 << 20)
    bias = encoder.lyric_encoder.lyric_encoder.after_norm.bias
    bias[0] = float("nan")
    for _ in range(2):
        with pytest.raises(StageError, match="not finite"):
            encoder.encode("pop", IDS, NullCondition.NONE)


def test_tags_that_are_too_long_are_refused(prompt_encoder):
    with pytest.raises(InvalidRequest, match=r"prompt\.tags"):
        prompt_encoder.encode("a" * 300, IDS, NullCondition.NONE)
