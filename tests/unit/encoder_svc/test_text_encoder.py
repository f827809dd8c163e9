from collections import Counter

import pytest
import torch
from transformers import UMT5Config

from encoder_svc.model.text_encoder import TextEncoder

SIZES = {"vocab_size": 60, "d_model": 24, "d_kv": 8, "d_ff": 32, "num_heads": 3, "feed_forward_proj": "gated-gelu"}
IDS = torch.tensor([[5, 6, 7, 8, 1], [9, 10, 1, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def build(num_layers):
    torch.manual_seed(3)
    model = TextEncoder(UMT5Config(num_layers=num_layers, **SIZES)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.3)
    return model


@pytest.mark.parametrize("mask", [MASK, torch.ones_like(MASK)])
def test_plain_states_equal_the_transformers_forward_bit_for_bit(mask):
    model = build(11)
    assert torch.equal(model(IDS, mask), model.umt5(IDS, mask).last_hidden_state)


def test_weakening_equals_a_smaller_query_output_in_two_layers():
    model = build(11)
    weakened = model(IDS, MASK, weakened=True)
    handles = [
        model.umt5.encoder.block[index].layer[0].SelfAttention.q.register_forward_hook(lambda module, inputs, output: output * 0.01)
        for index in (8, 9)
    ]
    expected = model.umt5(IDS, MASK).last_hidden_state
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(weakened, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(weakened, model(IDS, MASK), atol=1e-3)


def test_both_variants_equal_their_own_passes():
    model = build(11)
    plain, weakened = model.plain_and_weakened(IDS, MASK)
    assert torch.equal(plain, model(IDS, MASK))
    assert torch.equal(weakened, model(IDS, MASK, weakened=True))


def test_both_variants_run_the_layers_before_the_weakened_ones_once():
    model = build(11)
    calls = Counter()
    for index, block in enumerate(model.umt5.encoder.block):
        block.register_forward_hook(lambda *_, index=index: calls.update([index]))
    model.plain_and_weakened(IDS, MASK)
    assert calls == {**dict.fromkeys(range(8), 1), 8: 2, 9: 2, 10: 2}


def test_weakening_leaves_weights_and_hooks_as_they_were():
    model = build(11)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.plain_and_weakened(IDS, MASK)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_weakening_does_nothing_to_a_model_with_fewer_layers():
    plain, weakened = build(3).plain_and_weakened(IDS, MASK)
    assert torch.equal(plain, weakened)


def test_weakening_acts_on_the_layers_that_are_there():
    plain, weakened = build(9).plain_and_weakened(IDS, MASK)
    assert not torch.equal(plain, weakened)
