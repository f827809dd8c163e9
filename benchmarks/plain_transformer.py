"""A plain eager evaluation of the transformer, as the specification reads: the yardstick of the benchmarks.

Nothing is prepared or shared: conditions are projected and timesteps embedded in every evaluation, masks of ones are applied,
convolutions run as convolutions on [B, D, T]. It borrows the weights of a `Transformer`, so both compute the same numbers.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_svc.model.transformer import Transformer, TransformerBlock, timestep_features


def plain_velocity(model: Transformer, latents: Tensor, conditions: Tensor, context_mask: Tensor, timestep: Tensor) -> Tensor:
    """Velocity of latents [B, 8, 16, T] under conditions [B, L, D] at timesteps [B]."""
    frames, tokens = latents.shape[-1], conditions.shape[1]
    embedded = model.timestep_embedder(timestep_features(timestep).to(latents.dtype))
    modulation = model.t_block(embedded).view(len(latents), 6, -1)
    x = model.proj_in.early_conv_layers(latents).squeeze(2).transpose(1, 2)
    frame_mask = torch.ones(len(latents), frames)
    for block in model.transformer_blocks:
        assert isinstance(block, TransformerBlock)
        x = _block(model, block, x, modulation, conditions, frame_mask, context_mask, frames, tokens)
    shift, scale = (model.final_layer.scale_shift_table[None] + embedded[:, None]).chunk(2, dim=1)
    out = model.final_layer.linear(_rms(x) * (1 + scale) + shift)
    return out.view(len(latents), frames, 16, 8).permute(0, 3, 2, 1)


def _block(
    model: Transformer,
    block: TransformerBlock,
    x: Tensor,
    modulation: Tensor,
    conditions: Tensor,
    frame_mask: Tensor,
    context_mask: Tensor,
    frames: int,
    tokens: int,
) -> Tensor:
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (block.scale_shift_table[None] + modulation).chunk(6, dim=1)
    h = _rms(x) * (1 + scale_a) + shift_a
    x = x + gate_a * _self_attention(model, block, h, frame_mask, frames)
    x = x + _cross_attention(model, block, x, conditions, frame_mask, context_mask, frames, tokens)
    h = (_rms(x) * (1 + scale_m) + shift_m).transpose(1, 2)
    h = F.silu(block.ff.inverted_conv.conv(h))
    content, gate = block.ff.depth_conv.conv(h).chunk(2, dim=1)
    h = block.ff.point_conv.conv(content * F.silu(gate)).transpose(1, 2)
    return x + gate_m * h


def _self_attention(model: Transformer, block: TransformerBlock, h: Tensor, frame_mask: Tensor, frames: int) -> Tensor:
    attn = block.attn
    mask = frame_mask[:, None, :, None]
    q, k, v = (_heads(layer(h), attn.heads) for layer in (attn.to_q, attn.to_k, attn.to_v))
    q, k, v = _rope(model, q, frames) * mask, _rope(model, k, frames) * mask, v * mask
    q, k = F.relu(q).float(), F.relu(k).float()
    v = F.pad(v.float().transpose(-1, -2), (0, 0, 0, 1), value=1.0)  # [B, H, d + 1, T]
    out = (v @ k) @ q.transpose(-1, -2)
    out = (out[:, :, :-1] / (out[:, :, -1:] + 1e-15)).transpose(-1, -2)
    return attn.to_out[0](out.transpose(1, 2).flatten(2).to(h.dtype))


def _cross_attention(
    model: Transformer,
    block: TransformerBlock,
    x: Tensor,
    conditions: Tensor,
    frame_mask: Tensor,
    context_mask: Tensor,
    frames: int,
    tokens: int,
) -> Tensor:
    attn = block.cross_attn
    q = _rope(model, _heads(attn.to_q(x), attn.heads), frames)
    k = _rope(model, _heads(attn.to_k(conditions), attn.heads), tokens)
    v = _heads(attn.to_v(conditions), attn.heads)
    allowed = frame_mask[:, :, None] * context_mask[:, None, :]
    mask = torch.where(allowed == 1, 0.0, -torch.inf)[:, None].expand(-1, attn.heads, -1, -1).to(x.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attn.to_out[0](out.transpose(1, 2).flatten(2))


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def _rope(model: Transformer, x: Tensor, length: int) -> Tensor:
    cos, sin = model.rotary.tables(torch.arange(length), x.dtype)
    real, imaginary = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack([-imaginary, real], dim=-1).flatten(3)
    return (x.float() * cos + turned.float() * sin).to(x.dtype)


def _rms(x: Tensor) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
