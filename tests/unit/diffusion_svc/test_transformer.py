import pytest
import torch

from benchmarks.plain_transformer import plain_velocity
from diffusion_svc.model.transformer import Context, Row, Transformer, normalize_control
from tests import tiny

# Same numbers in another order of float32 operations; outputs are of order 1 to 10.
REORDERED = 2e-5


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def row(model: Transformer, frames: int = 7, tokens: int = 6, timestep: float = 500.0, seed: int = 0, **fields) -> Row:
    (modulation,) = model.modulate(torch.tensor([timestep]))
    context = model.project_context(drawn(tokens, model.config.inner_dim, seed=seed + 100))
    return Row(drawn(8, 16, frames, seed=seed), modulation, context, **fields)


@pytest.mark.parametrize(("frames", "tokens"), [(1, 1), (2, 5), (31, 12)])
def test_equals_a_plain_evaluation_of_the_specification(frames, tokens):
    model = tiny.transformer(num_layers=3)
    latents, conditions = drawn(1, 8, 16, frames), drawn(1, tokens, model.config.inner_dim, seed=1)
    timestep = torch.tensor([321.5])
    ours = model([Row(latents[0], model.modulate(timestep)[0], model.project_context(conditions[0]))])[0]
    plain = plain_velocity(model, latents, conditions, torch.ones(1, tokens), timestep)[0]
    assert (ours - plain).abs().max() < REORDERED


def test_masked_condition_tokens_are_as_if_they_had_minus_infinity():
    model = tiny.transformer()
    latents, conditions, timestep = drawn(1, 8, 16, 9), drawn(1, 6, model.config.inner_dim, seed=1), torch.tensor([700.0])
    mask = torch.tensor([1, 1, 0, 1, 0, 1])
    ours = model([Row(latents[0], model.modulate(timestep)[0], model.project_context(conditions[0], mask))])[0]
    plain = plain_velocity(model, latents, conditions, mask[None].float(), timestep)[0]
    assert (ours - plain).abs().max() < REORDERED


def test_without_any_condition_token_the_cross_attention_gives_its_bias():
    model = tiny.transformer()
    context = model.project_context(drawn(3, model.config.inner_dim), torch.zeros(3))
    block = model.transformer_blocks[0]
    tables = model.rotary.tables(torch.arange(4), torch.float32)
    out = block.cross_attn(drawn(1, 4, 16), [(context.keys[0], context.values[0])], model.rotary, tables, None, None)
    assert torch.equal(out, block.cross_attn.to_out[0].bias.expand(1, 4, -1))


def test_rows_together_give_the_bits_of_rows_alone():
    model = tiny.transformer()
    rows = [row(model, tokens=tokens, timestep=100.0 * tokens, seed=tokens) for tokens in (2, 5, 9, 4)]
    together = model(rows)
    for one, result in zip(rows, together, strict=True):
        assert torch.equal(model([one])[0], result)


def test_shared_products_agree_with_rows_alone():
    model = tiny.transformer(num_layers=17)
    rows = [row(model, tokens=tokens, timestep=90.0 * tokens, seed=tokens, weakened=tokens == 5) for tokens in (2, 5, 9)]
    for shared, alone in zip(model(rows, share_products=True), model(rows, share_products=False), strict=True):
        assert (shared - alone).abs().max() < REORDERED


def test_weakening_scales_the_cross_queries_of_blocks_15_to_19_only():
    short, deep = tiny.transformer(num_layers=15), tiny.transformer(num_layers=16)
    for model, differs in ((short, False), (deep, True)):
        plain, weakened = model([row(model), row(model, weakened=True)])
        assert torch.equal(plain, weakened) is not differs


def test_self_attention_is_the_quadratic_formula():
    model = tiny.transformer()
    attn, x = model.transformer_blocks[0].attn, drawn(1, 6, 16)
    tables = model.rotary.tables(torch.arange(6), torch.float32)
    q, k, v = (layer(x).view(6, 2, 8).transpose(0, 1) for layer in (attn.to_q, attn.to_k, attn.to_v))
    q, k = model.rotary(q, *tables).relu(), model.rotary(k, *tables).relu()
    scores = q @ k.transpose(-1, -2)
    expected = attn.to_out[0]((scores @ v / (scores.sum(-1, keepdim=True) + 1e-15)).transpose(0, 1).reshape(1, 6, 16))
    assert torch.allclose(attn(x, model.rotary, tables, None), expected, atol=REORDERED)


def test_rotary_mixes_halved_tables_with_interleaved_pairs():
    model = tiny.transformer()
    d, theta, position = 8, model.config.rope_theta, 5
    cos, sin = model.rotary.tables(torch.arange(6), torch.float32)
    x = drawn(6, d)
    out = model.rotary(x, cos, sin)[position]
    angle = [position * theta ** (-2 * (k % (d // 2)) / d) for k in range(d)]
    for j in range(d // 2):
        a, b = torch.tensor(angle[2 * j]), torch.tensor(angle[2 * j + 1])
        assert out[2 * j] == pytest.approx((x[position, 2 * j] * a.cos() - x[position, 2 * j + 1] * a.sin()).item(), abs=1e-5)
        assert out[2 * j + 1] == pytest.approx((x[position, 2 * j + 1] * b.cos() + x[position, 2 * j] * b.sin()).item(), abs=1e-5)


def test_the_frame_before_depends_on_the_length_of_the_song():
    # why songs are never padded or cut: the normalisation of the patch embedding runs over all frames
    model = tiny.transformer()
    latents = drawn(1, 8, 16, 6)
    assert (model.proj_in(latents)[:, :3] - model.proj_in(latents[..., :3])).abs().max() > 1e-3


def test_padded_frames_change_no_attention_of_the_others():
    model = tiny.transformer()
    attn, x = model.transformer_blocks[0].attn, drawn(1, 6, 16)
    mask = torch.tensor([[1.0, 1, 1, 1, 0, 0]])
    tables = model.rotary.tables(torch.arange(6), torch.float32)
    short = model.rotary.tables(torch.arange(4), torch.float32)
    masked = attn(x, model.rotary, tables, mask)
    assert torch.allclose(masked[:, :4], attn(x[:, :4], model.rotary, short, None), atol=REORDERED)
    assert torch.equal(masked[:, 4:], attn.to_out[0].bias.expand(1, 2, -1))


def test_control_features_take_the_mean_and_spread_of_the_hidden_states():
    hidden, control = 3 + 2 * drawn(1, 9, 16), 5 * drawn(1, 9, 16, seed=1) - 7
    adapted = normalize_control(control, hidden)
    assert adapted.mean() == pytest.approx(hidden.mean().item(), abs=1e-5)
    assert adapted.std() == pytest.approx(hidden.std().item(), rel=1e-5)


def test_control_moves_a_row_and_scale_0_does_not():
    model = tiny.transformer()
    control = drawn(7, 16, seed=3)
    plain, off, on = model([row(model), row(model, control=control, control_scale=0.0), row(model, control=control)])
    assert torch.equal(plain, off)
    assert not torch.equal(plain, on)


def test_bfloat16_runs_and_stays_near_float32():
    model = tiny.transformer()
    expected = model([row(model)])[0]
    half = tiny.transformer().to(torch.bfloat16)
    conditions = drawn(6, 16, seed=100).to(torch.bfloat16)
    (modulation,) = half.modulate(torch.tensor([500.0]))
    out = half([Row(drawn(8, 16, 7), modulation, half.project_context(conditions))])[0]
    assert out.dtype is torch.float32
    assert (out - expected).norm() / expected.norm() < 0.05


def test_context_holds_one_pair_a_block():
    model = tiny.transformer(num_layers=3)
    context = model.project_context(drawn(6, 16))
    assert isinstance(context, Context)
    assert [key.shape for key in context.keys] == [(1, 2, 6, 8)] * 3
