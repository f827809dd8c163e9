import pytest
import torch
from torch import nn

from training.projection_losses import Projector, cosine_loss, projection_losses


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_projector_has_the_checkpoints_names_and_widths():
    shapes = {name: tuple(tensor.shape) for name, tensor in Projector(4, 3).state_dict().items()}
    assert shapes == {
        "0.weight": (8, 4), "0.bias": (8,), "2.weight": (8, 8), "2.bias": (8,), "4.weight": (3, 8), "4.bias": (3,),
    }  # fmt: skip


@pytest.mark.parametrize(("scale", "loss"), [(3.0, 0.0), (-0.5, 2.0)])
def test_loss_is_of_directions_only(scale, loss):
    states = draw(1, 6, 5)
    assert cosine_loss(states, [scale * states[0]]).item() == pytest.approx(loss, abs=1e-6)


def test_projection_is_resampled_to_the_features_with_half_pixel_centres():
    states = draw(1, 2, 3)
    first, last = states[0]
    target = torch.stack([first, 0.75 * first + 0.25 * last, 0.25 * first + 0.75 * last, last])
    assert cosine_loss(states, [target]).item() == pytest.approx(0, abs=1e-6)


def test_items_of_any_length_weigh_the_same():
    states, features = draw(2, 6, 5), [draw(9, 5), draw(2, 5)]
    each = [cosine_loss(states[index : index + 1], [features[index]]) for index in range(2)]
    torch.testing.assert_close(cosine_loss(states, features), torch.stack(each).mean())


def test_padding_is_left_out_when_frame_counts_are_given():
    states, features = draw(1, 8, 5), [draw(4, 5)]
    torch.testing.assert_close(cosine_loss(states, features, [6]), cosine_loss(states[:, :6], features))
    assert cosine_loss(states, features, [6]) != cosine_loss(states, features)


def test_encoder_without_targets_is_skipped():
    projectors = [nn.Linear(4, 3), nn.Linear(4, 2)]
    states = [draw(1, 5, 4), draw(1, 6, 4)]
    (only,) = projection_losses(projectors, ("mert", "m-hubert"), states, [None, [draw(7, 2)]])
    assert only[0] == "m-hubert"
    torch.testing.assert_close(only[1], cosine_loss(projectors[1](states[1]), [draw(7, 2)]))
    assert projection_losses(projectors, ("mert", "m-hubert"), states, [None, None]) == []


def test_loss_is_in_float32_whatever_the_network():
    assert cosine_loss(draw(1, 4, 3).bfloat16(), [draw(5, 3).bfloat16()]).dtype == torch.float32
