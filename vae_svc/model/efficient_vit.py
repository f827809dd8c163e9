"""An EfficientViT block of diffusers' AutoencoderDC, run over a long image in pieces.

Its attention is global, but linear: all that one position needs of the others is the sum of v k^T over positions, a small matrix. So the
block runs piece after piece in three passes (sum, attention, gated convolution) and equals its own forward to rounding, while the wide
intermediate tensors (queries, keys and values at two scales, the 8-fold expansion) exist for one piece only.

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

    # value gets a row of ones, whose product is the normaliser
    scores = hidden_states.new_zeros((), dtype=torch.float32)  # [B, G, D + 1, D] after the first piece
    for start, stop in spans(width, piece_width):
        _, key, value = _query_key_value(attention, hidden_states, start, stop, margin)
        scores = scores + F.pad(value, (0, 0, 0, 1), value=1.0) @ key.transpose(-1, -2)

    attended = torch.empty_like(hidden_states)
    for start, stop in spans(width, piece_width):
        query, _, _ = _query_key_value(attention, hidden_states, start, stop, margin)
        weighted = scores @ query  # [B, G, D + 1, H * W']
        weighted = weighted[:, :, :-1] / (weighted[:, :, -1:] + attention.eps)
        weighted = weighted.to(hidden_states.dtype).reshape(hidden_states.shape[0], -1, height, stop - start)
        projected = attention.norm_out(attention.to_out(weighted.movedim(1, -1))).movedim(-1, 1)
        attended[..., start:stop] = projected + hidden_states[..., start:stop]

    output = torch.empty_like(hidden_states)
    for start, stop in spans(width, piece_width):
        low, high = max(start - GATED_CONV_MARGIN, 0), min(stop + GATED_CONV_MARGIN, width)
        output[..., start:stop] = block.conv_out(attended[..., low:high])[..., start - low : stop - low]
    return output


def spans(length: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive pieces; the last one may be shorter."""
    for start in range(0, length, size):
        yield start, min(start + size, length)


def _query_key_value(attention: Any, hidden_states: Tensor, start: int, stop: int, margin: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys (both after ReLU) and values of the columns start to stop, each [B, G, D, H * (stop - start)] float32."""
    low, high = max(start - margin, 0), min(stop + margin, hidden_states.shape[-1])
    rows = hidden_states[..., low:high].movedim(1, -1)
    qkv = torch.cat([attention.to_q(rows), attention.to_k(rows), attention.to_v(rows)], dim=-1).movedim(-1, 1)
    scales = torch.cat([qkv, *(scale(qkv) for scale in attention.to_qkv_multiscale)], dim=1)
    scales = scales[..., start - low : stop - low].float()
    query, key, value = scales.reshape(scales.shape[0], -1, 3 * attention.attention_head_dim, scales.shape[2] * scales.shape[3]).chunk(3, 2)
    return F.relu(query), F.relu(key), value
