"""Low-rank updates beside a layer's weight (LoRA): W x + scale * B (A x), never merged into W.

Rows of one forward may have different updates, or none. It knows neither files nor names.

B rows, r rank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class LowRankUpdate:
    """One adapter's update of one layer.

    Attributes:
        down: A, [r, in]; of a convolution with its kernel flattened.
        up: B, [out, r].
        scale: Factor of the product.
    """

    down: Tensor
    up: Tensor
    scale: float


Updates = Mapping[nn.Module, Sequence[LowRankUpdate]]
"""By the layer that they belong to; several add up."""
RowUpdates = Sequence[tuple[slice, Updates]]
"""Which rows of a forward have which updates. Rows that no slice covers have none."""


def on_all_rows(updates: Updates | None) -> RowUpdates:
    """The same updates, or none, for whatever rows there are."""
    return ((slice(None), updates),) if updates else ()


def add_updates(out: Tensor, layer: nn.Module, x: Tensor, row_updates: RowUpdates) -> Tensor:
    """Add, in place, the updates of a layer to what it made of x: out [B, ..., out], x [B, ..., in]."""
    for rows, updates in row_updates:
        for update in updates.get(layer, ()):
            out[rows].add_(F.linear(F.linear(x[rows], update.down), update.up), alpha=update.scale)
    return out


def adapted(layer: nn.Module, x: Tensor, row_updates: RowUpdates) -> Tensor:
    """A linear layer with each row's own updates: [B, ..., in] -> [B, ..., out]."""
    return add_updates(layer(x), layer, x, row_updates)
