import pytest
import torch
from diffusers.models.autoencoders.autoencoder_dc import EfficientViTBlock

from vae_svc.model.efficient_vit import run_in_pieces, spans

ROUNDING = 1e-5  # of values about 10: sums in another order on processors whose kernels depend on the width


@pytest.fixture(scope="module", params=[(), (5,), (3, 5)], ids=["one scale", "two scales", "three scales"])
def block(request) -> EfficientViTBlock:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return (
            EfficientViTBlock(32, attention_head_dim=16, qkv_multiscales=request.param, norm_type="rms_norm").eval().requires_grad_(False)
        )


@pytest.mark.parametrize("width", [1, 2, 31, 32, 33, 100, 257])
@torch.inference_mode()
def test_pieces_equal_the_blocks_own_forward(block, width):
    hidden_states = torch.randn(1, 32, 16, width, generator=torch.Generator().manual_seed(width))
    torch.testing.assert_close(run_in_pieces(block, hidden_states, 32), block(hidden_states), atol=ROUNDING, rtol=0)


@torch.inference_mode()
def test_attention_is_global(block):
    hidden_states = torch.randn(1, 32, 16, 100, generator=torch.Generator().manual_seed(0))
    other = hidden_states.clone()
    other[..., 99] += 5.0
    difference = (run_in_pieces(block, hidden_states, 32) - run_in_pieces(block, other, 32))[..., 0].abs().max()
    assert float(difference) > 100 * ROUNDING


@pytest.mark.parametrize(("length", "size"), [(1, 128), (128, 128), (129, 128), (257, 128), (2583, 128), (7, 2)])
def test_spans_cover_the_length_in_nearly_equal_parts(length, size):
    pieces = list(spans(length, size))
    assert [start for start, _ in pieces] == [0, *(stop for _, stop in pieces[:-1])]
    assert pieces[-1][1] == length
    widths = [stop - start for start, stop in pieces]
    assert max(widths) <= size
    assert max(widths) - min(widths) <= 1
