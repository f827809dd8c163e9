"""Low-rank updates beside a layer's weight (LoRA): W x + scale * B (A x), never merged into W. It knows neither files nor names.

r rank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class LowRankUpdate:
    """One adapter's update of one layer.

    Attributes:
        down: A, [r, in].
        up: B, [out, r].
        scale: Factor of the product.
    """

    down: Tensor
    up: Tensor
    scale: float


Updates = Mapping[nn.Module, Sequence[LowRankUpdate]]
"""By the layer that they belong to; several add up."""


def adapted(layer: nn.Module, x: Tensor, updates: Updates | None) -> Tensor:
    """A linear layer with its updates: [..., in] -> [..., out]."""
    out: Tensor = layer(x)
    for update in updates.get(layer, ()) if updates else ():
        out.add_(F.linear(F.linear(x, update.down), update.up), alpha=update.scale)
    return out
