"""An EfficientViT block of diffusers' AutoencoderDC, run over a long image in pieces.

Its attention is global but linear: all that one position needs of the others is the sum of v k^T over positions, a small matrix. So keys
and values are kept for the whole image, and everything wider (queries, keys and values at all scales at once, the 8-fold expansion of the
gated convolution) exists for one piece only: five tensors of the input's size at the peak where the block's own forward has over twenty.

The result equals that forward to the last bit wherever matrix products and convolutions do not depend on the width of a piece. Sums whose
order does (the one over positions, the RMS norms) run on the whole image, in the memory layout that the block itself would use. That
matters because the vocoder magnifies a difference in the last bit to 1e-4.

B batch, C channels, H height, W width (time), G attention groups, D head width.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_dc import EfficientViTBlock
from torch import Tensor

GATED_CONV_MARGIN = 1  # its depthwise convolution is 3 wide


def run_in_pieces(block: EfficientViTBlock, hidden_states: Tensor, piece_width: int) -> Tensor:
    """The block's output for the whole image.

    Args:
        block: Attention, then gated convolution, both with residual and RMS norm.
        hidden_states: [B, C, H, W].
        piece_width: Columns at a time. An image that fits runs as it is: there lies the switch to quadratic attention of tiny images.
    Returns:
        [B, C, H, W]
    """
    height, width = hidden_states.shape[-2:]
    attention: Any = block.attn
    if width <= piece_width or height * width <= attention.attention_head_dim:
        output: Tensor = block(hidden_states)
        return output
    margin = max((scale.proj_in.kernel_size[1] // 2 for scale in attention.to_qkv_multiscale), default=0)

    num_groups = attention.to_out.in_features // attention.attention_head_dim
    keys = hidden_states.new_empty(hidden_states.shape[0], num_groups, attention.attention_head_dim, height, width, dtype=torch.float32)
    values = F.pad(torch.empty_like(keys), (0, 0, 0, 0, 0, 1), value=1.0)  # the row of ones gives the normaliser
    for start, stop in spans(width, piece_width):
        _, keys[..., start:stop], values[:, :, :-1, :, start:stop] = _query_key_value(attention, hidden_states, start, stop, margin)
    scores = values.flatten(3) @ keys.flatten(3).transpose(-1, -2)  # [B, G, D + 1, D]
    del keys, values

    projected = torch.empty_like(hidden_states, memory_format=torch.channels_last)
    for start, stop in spans(width, piece_width):
        query, _, _ = _query_key_value(attention, hidden_states, start, stop, margin)
        weighted = scores @ query.flatten(3)  # [B, G, D + 1, H * W']
        weighted = weighted[:, :, :-1] / (weighted[:, :, -1:] + attention.eps)
        weighted = weighted.to(hidden_states.dtype).reshape(hidden_states.shape[0], -1, height, stop - start)
        projected[..., start:stop] = attention.to_out(weighted.movedim(1, -1)).movedim(-1, 1)
    attended: Tensor = attention.norm_out(projected.movedim(1, -1)).movedim(-1, 1) + hidden_states

    gated: Any = block.conv_out
    for start, stop in spans(width, piece_width):
        low, high = max(start - GATED_CONV_MARGIN, 0), min(stop + GATED_CONV_MARGIN, width)
        expanded = gated.conv_depth(F.silu(gated.conv_inverted(attended[..., low:high])))
        value, gate = expanded[..., start - low : stop - low].chunk(2, dim=1)
        projected[..., start:stop] = gated.conv_point(value * F.silu(gate))
    normed: Tensor = gated.norm(projected.movedim(1, -1)).movedim(-1, 1)
    return normed + attended


def spans(length: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive pieces, as equal as can be and none above size.

    A sliver at the end would run through other kernels than the whole, whose rounding differs in the last bit.
    """
    count = -(-length // size)
    for index in range(count):
        yield index * length // count, (index + 1) * length // count


def _query_key_value(attention: Any, hidden_states: Tensor, start: int, stop: int, margin: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys (both after ReLU) and values of the columns start to stop, each [B, G, D, H, stop - start] float32."""
    low, high = max(start - margin, 0), min(stop + margin, hidden_states.shape[-1])
    rows = hidden_states[..., low:high].movedim(1, -1)
    qkv = torch.cat([attention.to_q(rows), attention.to_k(rows), attention.to_v(rows)], dim=-1).movedim(-1, 1)
    scales = torch.cat([qkv, *(scale(qkv) for scale in attention.to_qkv_multiscale)], dim=1)
    scales = scales[..., start - low : stop - low].float()
    batch, _, height, width = scales.shape
    query, key, value = scales.reshape(batch, -1, 3 * attention.attention_head_dim, height, width).chunk(3, dim=2)
    return F.relu(query), F.relu(key), value
