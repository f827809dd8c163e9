import pytest
import torch

from training.checkpoint import load_trainable
from training.optimizers import Muon, MuonAdamW, is_block_matrix, orthogonalized


@pytest.mark.parametrize("shape", [(8, 8), (24, 6), (6, 24)])
def test_an_orthogonalised_matrix_has_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonalized(matrix))
    assert singular.min() > 0.6
    assert singular.max() < 1.3


def test_muon_descends():
    target = torch.randn(6, 4, 1, generator=torch.Generator().manual_seed(0))
    weight = torch.nn.Parameter(torch.zeros(6, 4, 1))
    optimizer = Muon([weight], lr=0.05)
    for _ in range(120):
        optimizer.zero_grad()
        (weight - target).square().sum().backward()
        optimizer.step()
    assert (weight - target).square().mean() < 0.05 * target.square().mean()


def test_every_parameter_has_one_optimiser(checkpoint):
    model = load_trainable(checkpoint)
    optimizer = MuonAdamW(model, 1e-3, 1e-2, (0.9, 0.95), 0.01)
    parts = [{id(parameter) for group in part.param_groups for parameter in group["params"]} for part in optimizer.parts]
    assert parts[0].isdisjoint(parts[1])
    assert parts[0] | parts[1] == {id(parameter) for parameter in model.parameters()}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in parts[0]}
    assert "transformer_blocks.0.attn.to_q.weight" in names
    assert "transformer_blocks.0.ff.inverted_conv.conv.weight" in names
    assert not any("depth_conv" in name or "scale_shift" in name or "bias" in name or "lyric" in name for name in names)


def test_a_learning_rate_set_outside_reaches_both_parts(checkpoint):
    optimizer = MuonAdamW(load_trainable(checkpoint), 1e-3, 1e-2, (0.9, 0.95), 0.01)
    optimizer.load_state_dict(optimizer.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    assert all(group["lr"] == 0.5 for part in optimizer.parts for group in part.param_groups)


def test_tables_and_depthwise_convolutions_are_no_matrices():
    weight = torch.zeros(2, 2)
    assert not is_block_matrix("transformer_blocks.0.scale_shift_table", weight)
    assert not is_block_matrix("transformer_blocks.0.ff.depth_conv.conv.weight", weight)
    assert not is_block_matrix("final_layer.linear.weight", weight)
