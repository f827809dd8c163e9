"""Rows of different lengths in one forward, trap by trap: each row must come out as it does alone, whatever its neighbours are."""

from dataclasses import replace

import pytest
import torch

from diffusion_svc.adapters import AdapterStore
from diffusion_svc.model.packing import Groups
from diffusion_svc.model.transformer import Row, Transformer
from tests import tiny
from tests.unit.diffusion_svc.test_adapters import low_rank, write

# The same numbers in another order of float32 operations; values are of order 1 to 10.
REORDERED = 1e-5
LENGTHS = (1, 2, 2, 31)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def row(model: Transformer, frames: int, tokens: int = 6, seed: int = 0, **fields) -> Row:
    (modulation,) = model.modulate(torch.tensor([100.0 + 50 * seed]))
    context = model.project_context(drawn(tokens, model.config.inner_dim, seed=seed + 100))
    return Row(drawn(8, 16, frames, seed=seed), modulation, context, **fields)


def packed(model: Transformer, rows: list[Row]) -> list[torch.Tensor]:
    return model(rows, share_products=True)


def assert_as_alone(model: Transformer, rows: list[Row]) -> None:
    for own, together in zip(rows, packed(model, rows), strict=True):
        assert (together - model([own])[0]).abs().max() < REORDERED


def tokens_of(lengths=LENGTHS, width=16) -> tuple[list[torch.Tensor], torch.Tensor]:
    parts = [drawn(frames, width, seed=index) for index, frames in enumerate(lengths)]
    return parts, torch.cat(parts)


@pytest.mark.parametrize("lengths", [(7,), (7, 7), (5, 7), (1, 2, 2, 31), (31, 2, 7, 2, 1, 31)])
def test_rows_of_all_lengths_come_out_as_alone_and_in_their_order(lengths):
    model = tiny.transformer(num_layers=3)
    assert_as_alone(model, [row(model, frames, tokens=2 + index, seed=index) for index, frames in enumerate(lengths)])


def test_the_statistics_of_the_patch_embedding_are_those_of_one_song():
    model = tiny.transformer(num_layers=0)  # the patch embedding and the final layer alone
    short, long = row(model, 9), row(model, 30, seed=1)
    assert_as_alone(model, [short, long])
    loud = replace(long, latents=100 * long.latents)
    assert (packed(model, [short, loud])[0] - packed(model, [short, long])[0]).abs().max() < REORDERED


def test_the_depthwise_convolution_does_not_reach_over_the_ends_of_a_song():
    feed_forward = tiny.transformer().transformer_blocks[0].ff
    parts, tokens = tokens_of()
    together = feed_forward(tokens, groups=Groups.of(LENGTHS)).split(LENGTHS)
    for own, result in zip(parts, together, strict=True):
        assert (feed_forward(own[None])[0] - result).abs().max() < REORDERED
    wrong = feed_forward(tokens[None])[0].split(LENGTHS)  # as if all were one song
    assert (wrong[1] - together[1]).abs().max() > 1e-2


def test_the_sums_of_the_self_attention_are_those_of_one_song():
    model = tiny.transformer()
    attention, (parts, tokens) = model.transformer_blocks[0].attn, tokens_of()
    tables = model.rotary.tables(torch.arange(31), torch.float32)
    together = attention(tokens, model.rotary, tables, None, groups=Groups.of(LENGTHS)).split(LENGTHS)
    for own, result in zip(parts, together, strict=True):
        short = model.rotary.tables(torch.arange(len(own)), torch.float32)  # positions start at 0 for every song
        assert (attention(own[None], model.rotary, short, None)[0] - result).abs().max() < REORDERED


def test_the_positions_of_conditions_do_not_depend_on_the_length_of_others():
    model = tiny.transformer()
    rows = [row(model, frames, tokens, seed=tokens) for frames, tokens in ((9, 3), (9, 40), (4, 12), (20, 1))]
    assert_as_alone(model, rows)


def test_a_row_without_any_condition_token_is_as_alone():
    model = tiny.transformer()
    empty = model.project_context(drawn(3, model.config.inner_dim), torch.zeros(3))
    assert_as_alone(model, [row(model, 4), replace(row(model, 9, seed=1), context=empty), row(model, 9, seed=2)])


def test_weakened_rows_weaken_no_others():
    model = tiny.transformer(num_layers=16)  # block 15 is a weakened one
    rows = [row(model, frames, seed=index, weakened=index % 2 == 0) for index, frames in enumerate((9, 4, 4, 20))]
    assert_as_alone(model, rows)
    strong = [replace(own, weakened=False) for own in rows]
    changed = [not torch.equal(*pair) for pair in zip(packed(model, rows), packed(model, strong), strict=True)]
    assert changed == [True, False, True, False]


def test_rows_under_different_adapters_and_lengths_come_out_as_alone(tmp_path):
    model = tiny.transformer()
    for name, seed in (("a", 1), ("b", 2)):
        write(tmp_path, name, low_rank(model, seed=seed))
    store = AdapterStore(tmp_path, model, max_loaded=2)
    rap, jazz = (store.select([(name, 1.0)]).updates for name in "ab")
    rows = [row(model, frames, seed=index) for index, frames in enumerate((9, 9, 4, 20, 4, 9))]
    rows = [replace(own, updates=updates) for own, updates in zip(rows, (rap, rap, None, jazz, rap, jazz), strict=True)]
    assert_as_alone(model, rows)
    plain = packed(model, [replace(own, updates=None) for own in rows])
    changed = [(adapted - base).abs().max() > 1e-3 for adapted, base in zip(packed(model, rows), plain, strict=True)]
    assert changed == [True, True, False, True, True, True]


def test_masks_and_controls_stay_with_their_rows():
    model = tiny.transformer()
    mask = torch.tensor([1.0] * 6 + [0.0] * 3)
    rows = [row(model, 9, frame_mask=mask), row(model, 9, seed=1), row(model, 4, seed=2, control=drawn(4, 16)), row(model, 20, seed=3)]
    assert_as_alone(model, rows)


def test_bfloat16_packs_too():
    model = tiny.transformer().to(torch.bfloat16)
    contexts = [model.project_context(drawn(6, 16, seed=seed).to(torch.bfloat16)) for seed in range(3)]
    (modulation,) = model.modulate(torch.tensor([500.0]))
    rows = [Row(drawn(8, 16, frames, seed=frames), modulation, context) for frames, context in zip((7, 7, 12), contexts, strict=True)]
    for own, together in zip(rows, packed(model, rows), strict=True):
        alone = model([own])[0]
        assert (together - alone).norm() / alone.norm() < 0.02
