"""REPA: hidden states of the transformer are drawn towards features of self-supervised audio encoders.

B batch, T latent frames, D width, F feature frames, C feature channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FeatureBatch = Sequence[Tensor]
"""Features of one encoder for the items of a batch, [F, C] each; lengths differ."""


class Projector(nn.Sequential):
    """Three layers from the transformer's width to an encoder's. The checkpoint names them `projectors.{k}.0`, `.2` and `.4`.

    Args:
        width: D.
        channels: C.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__(
            nn.Linear(width, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, channels),
        )


def projection_losses(
    projectors: Sequence[Projector],
    names: Sequence[str],
    hidden_states: Sequence[Tensor],
    targets: Sequence[FeatureBatch | None],
    num_frames: Sequence[int] | None = None,
) -> list[tuple[str, Tensor]]:
    """One loss for each encoder that has targets. All arguments but the last have one entry per encoder, in the same order.

    Args:
        projectors: From the hidden states to the encoder's features.
        names: Of the encoders.
        hidden_states: After the encoder's block, [B, T, D].
        targets: None: the encoder is left out, its projector is not run.
        num_frames: Frames of each item before padding. None: every frame counts, as in the reference.
    Returns:
        Names and losses (scalars, float32), in the order of the encoders.
    """
    return [
        (name, cosine_loss(projector(states), features, num_frames))
        for projector, name, states, features in zip(projectors, names, hidden_states, targets, strict=True)
        if features is not None
    ]


def cosine_loss(projected: Tensor, targets: FeatureBatch, num_frames: Sequence[int] | None = None) -> Tensor:
    """Mean over items and feature frames of 1 - cosine, in float32.

    Args:
        projected: [B, T, C]; resampled along time to the length of each target (linear, corners not aligned).
        targets: B tensors [F, C].
        num_frames: Frames of each item before padding; None: T.
    """
    losses = []
    for index, (states, features) in enumerate(zip(projected.float(), targets, strict=True)):
        real = states if num_frames is None else states[: num_frames[index]]
        resampled = F.interpolate(real.T[None], size=len(features), mode="linear", align_corners=False)[0].T  # [F, C]
        cosines = (F.normalize(resampled, dim=-1) * F.normalize(features.float(), dim=-1)).sum(-1)
        losses.append((1 - cosines).mean())
    return torch.stack(losses).mean()
