import math
from collections import Counter

import pytest
import torch

from encoder_svc.model import lyric_encoder
from encoder_svc.model.lyric_encoder import LyricEncoder, LyricEncoderConfig, relative_positions, shift_to_keys

CONFIG = LyricEncoderConfig(vocab_size=50, hidden_size=16, attention_heads=2, linear_units=24, num_blocks=6)


@pytest.fixture
def model():
    torch.manual_seed(1)
    return LyricEncoder(CONFIG).eval().requires_grad_(False)


def naive_attention(attention, x, mask, query_factor=1.0):
    """Scores one by one, as the definition says."""
    batch, length, width = x.shape
    head_width = width // attention.heads
    q, k, v = (
        (linear(x)).view(batch, length, attention.heads, head_width)
        for linear in (attention.linear_q, attention.linear_k, attention.linear_v)
    )
    q = q * query_factor
    p = attention.linear_pos(relative_positions(length, width, x.device, x.dtype)).view(-1, attention.heads, head_width)
    out = torch.zeros(batch, length, attention.heads, head_width)
    for b in range(batch):
        keys = [key for key in range(length) if mask[b, key]]
        for head in range(attention.heads):
            for query in range(length):
                if not keys:
                    continue
                scores = torch.stack(
                    [
                        (q[b, query, head] + attention.pos_bias_u[head]) @ k[b, key, head]
                        + (q[b, query, head] + attention.pos_bias_v[head]) @ p[length - 1 - (query - key), head]
                        for key in keys
                    ]
                ) / math.sqrt(head_width)
                out[b, query, head] = scores.softmax(0) @ v[b, keys, head]
    return attention.linear_out(out.flatten(2))


@pytest.mark.parametrize("scores_per_piece", [1, 60, 1 << 22])
@pytest.mark.parametrize("query_factor", [1.0, 0.01])
def test_attention_equals_its_definition_whatever_the_pieces(model, monkeypatch, scores_per_piece, query_factor):
    monkeypatch.setattr(lyric_encoder, "SCORES_PER_PIECE", scores_per_piece)
    attention = model.lyric_encoder.encoders[0].self_attn
    x = torch.randn(2, 7, 16)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 1, 0, 0]])
    ours = attention(x, (mask == 0)[:, None, None, :], relative_positions(7, 16, x.device, x.dtype), query_factor)
    torch.testing.assert_close(ours, naive_attention(attention, x, mask, query_factor), rtol=1e-5, atol=1e-6)


def test_attention_without_any_key_gives_the_output_bias(model):
    attention = model.lyric_encoder.encoders[0].self_attn
    x = torch.randn(1, 4, 16)
    out = attention(x, torch.ones(1, 1, 1, 4, dtype=torch.bool), relative_positions(4, 16, x.device, x.dtype), 1.0)
    assert torch.equal(out, attention.linear_out.bias.expand(1, 4, 16))


def test_attention_has_gradients_in_pieces(monkeypatch):
    torch.manual_seed(2)
    attention = LyricEncoder(CONFIG).lyric_encoder.encoders[0].self_attn
    x, positions = torch.randn(1, 9, 16), relative_positions(9, 16, torch.device("cpu"), torch.float32)
    gradients = []
    for scores_per_piece in (1 << 22, 40):
        monkeypatch.setattr(lyric_encoder, "SCORES_PER_PIECE", scores_per_piece)
        attention.zero_grad()
        attention(x, None, positions, 1.0).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in attention.parameters()])
    assert all(
        gradient.abs().sum() > 0
        for name, gradient in zip(dict(attention.named_parameters()), gradients[0], strict=True)
        if name != "linear_k.bias"
    )
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


def test_shift_puts_offset_zero_on_the_diagonal():
    length = 5
    offsets = torch.arange(length - 1, -length, -1).expand(1, 1, length, -1)
    shifted = shift_to_keys(offsets, length)[0, 0]
    assert shifted.tolist() == [[query - key for key in range(length)] for query in range(length)]


def test_positions_are_sinusoids_from_the_largest_offset_down():
    table = relative_positions(3, 4, torch.device("cpu"), torch.float32)
    expected = [[math.sin(r), math.cos(r), math.sin(r / 100), math.cos(r / 100)] for r in (2, 1, 0, -1, -2)]
    torch.testing.assert_close(table, torch.tensor(expected))


def test_masked_tokens_do_not_influence_others(model):
    ids, mask = torch.tensor([[3, 4, 5, 6]]), torch.tensor([[1, 1, 0, 0]])
    changed = torch.tensor([[3, 4, 9, 1]])
    assert torch.equal(model(ids, mask)[:, :2], model(changed, mask)[:, :2])
    assert not torch.equal(model(ids, torch.ones_like(mask))[:, :2], model(changed, torch.ones_like(mask))[:, :2])


def test_attention_looks_ahead(model):
    mask = torch.ones(1, 4)
    assert not torch.equal(model(torch.tensor([[3, 4, 5, 6]]), mask)[:, 0], model(torch.tensor([[3, 4, 5, 7]]), mask)[:, 0])


def test_a_row_is_the_same_alone_and_padded_in_a_batch(model):
    alone = model(torch.tensor([[3, 4, 5]]), torch.ones(1, 3))
    batch = model(torch.tensor([[3, 4, 5, 0, 0], [7, 8, 9, 10, 11]]), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]))
    torch.testing.assert_close(batch[:1, :3], alone, rtol=1e-5, atol=1e-6)


def test_both_variants_equal_their_own_passes_and_differ(model):
    ids, mask = torch.tensor([[3, 4, 5, 6]]), torch.ones(1, 4)
    plain, weakened = model.plain_and_weakened(ids, mask)
    assert torch.equal(plain, model(ids, mask))
    assert torch.equal(weakened, model(ids, mask, weakened=True))
    assert not torch.allclose(plain, weakened)


def test_both_variants_run_the_blocks_before_the_weakened_ones_once(model):
    calls = Counter()
    for index, block in enumerate(model.lyric_encoder.encoders):
        block.register_forward_hook(lambda *_, index=index: calls.update([index]))
    model.plain_and_weakened(torch.tensor([[3, 4]]), torch.ones(1, 2))
    assert calls == {0: 1, 1: 1, 2: 1, 3: 1, 4: 2, 5: 2}


def test_weakening_does_nothing_to_a_model_with_fewer_blocks():
    model = LyricEncoder(LyricEncoderConfig(50, 16, 2, 24, num_blocks=4)).eval()
    plain, weakened = model.plain_and_weakened(torch.tensor([[3, 4, 5]]), torch.ones(1, 3))
    assert torch.equal(plain, weakened)


def test_weakening_shrinks_the_queries_with_their_bias_in_two_blocks(model):
    shrunk = LyricEncoder(CONFIG).eval().requires_grad_(False)
    shrunk.load_state_dict(model.state_dict())
    for block in shrunk.lyric_encoder.encoders[4:6]:
        block.self_attn.linear_q.weight *= 0.01
        block.self_attn.linear_q.bias *= 0.01
    ids, mask = torch.tensor([[3, 4, 5, 6]]), torch.ones(1, 4)
    torch.testing.assert_close(model(ids, mask, weakened=True), shrunk(ids, mask))


def test_dropout_acts_in_training_only(model):
    ids, mask = torch.tensor([[3, 4, 5, 6]]), torch.ones(1, 4)
    assert torch.equal(model(ids, mask), model(ids, mask))
    model.train()
    assert not torch.equal(model(ids, mask), model(ids, mask))


def test_config_reads_flat_keys_and_falls_back_to_the_official_sizes():
    official = LyricEncoderConfig.from_transformer_config({"lyric_encoder_vocab_size": 6693, "lyric_hidden_size": 1024})
    assert official == LyricEncoderConfig(6693, 1024, 16, 4096, 6)
    flat = {"lyric_hidden_size": 32, "lyric_encoder_attention_heads": 4, "lyric_encoder_linear_units": 56, "lyric_encoder_num_blocks": 3}
    assert LyricEncoderConfig.from_transformer_config(flat) == LyricEncoderConfig(6681, 32, 4, 56, 3)


def test_config_reads_nested_overrides():
    nested = {
        "lyric_hidden_size": 32,
        "lyric_encoder_overrides": {"output_size": 32, "attention_heads": 2, "linear_units": 48, "num_blocks": 2},
    }
    assert LyricEncoderConfig.from_transformer_config(nested) == LyricEncoderConfig(6681, 32, 2, 48, 2)


@pytest.mark.parametrize(
    "config",
    [
        {"lyric_hidden_size": 32, "lyric_encoder_overrides": {"output_size": 16}},
        {"lyric_hidden_size": 30, "lyric_encoder_attention_heads": 4},
        {"lyric_encoder_num_blocks": 0},
        {"lyric_encoder_linear_units": "56"},
    ],
)
def test_config_refuses_sizes_that_do_not_fit(config):
    with pytest.raises(ValueError, match="lyric"):
        LyricEncoderConfig.from_transformer_config(config)
