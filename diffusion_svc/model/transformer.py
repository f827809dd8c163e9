"""The linear-attention diffusion transformer: latents, timestep and conditions to a velocity.

It knows neither schedules nor guidance nor requests. Conditions are projected once (`project_context`) and timesteps once
(`modulate`); an evaluation (`forward`) takes rows that each bring their own. Linear layers are called through `adapted`, so that each row
can have its own low-rank updates.

Rows of different lengths lie one after another on one token axis: linear layers see all tokens at once, and what runs over time (the
normalisation of the patch embedding, both attentions, the depthwise convolution) or differs from row to row goes group by group, a group
being neighbours of one length (`packing.py`). Nothing is padded, so nothing can leak from padding.

Letters: B rows, T latent frames (one token each), S tokens of all rows, L condition tokens, D width, H heads, d head width. Where a layer
takes groups, its [B, T, D] are [S, D] when there are several.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_svc.model.config import LATENT_CHANNELS, LATENT_HEIGHT, PATCH_WIDTH, TIMESTEP_WIDTH, TransformerConfig
from diffusion_svc.model.low_rank import RowUpdates, Updates, adapted, add_updates, on_all_rows
from diffusion_svc.model.packing import ONE_GROUP, Groups

ATTENTION_EPSILON = 1e-15
NORM_EPSILON = 1e-6
# Entropy-rectified guidance scales the queries of these blocks (end excluded). On the linear self-attention the factor cancels between
# numerator and denominator, so only the cross-attention is scaled.
WEAKENED_BLOCKS = range(15, 20)
WEAKENED_QUERY_SCALE = 0.01


@dataclass(frozen=True)
class Modulation:
    """What the timestep says to the network.

    Attributes:
        blocks: Shared shift, scale and gate of the blocks before their own tables are added, [6, D].
        final: Embedded timestep, for the final layer, [D].
    """

    blocks: Tensor
    final: Tensor


@dataclass(frozen=True)
class Context:
    """Conditions as the cross-attentions want them: rotated keys and values of each block, [1, H, L, d]."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@dataclass(frozen=True)
class Row:
    """One request at one step under one condition.

    Attributes:
        latents: [8, 16, T].
        modulation: Of the timestep.
        context: Of the condition.
        weakened: Weaken the cross-attention (entropy-rectified guidance).
        frame_mask: [T], 1 = real frame, 0 = padding; None: no padding. Inference never pads.
        control: Features added after the patch embedding, [T, D], and their scale.
        updates: Low-rank updates of the layers; None: none. The modulation and the context have been made under the same ones.
    """

    latents: Tensor
    modulation: Modulation
    context: Context
    weakened: bool = False
    frame_mask: Tensor | None = None
    control: Tensor | None = None
    control_scale: float = 1.0
    updates: Updates | None = None

    @property
    def num_frames(self) -> int:
        """T."""
        return self.latents.shape[-1]


def rms_norm(x: Tensor) -> Tensor:
    """Divide by the root mean square over the last axis, in float32, without a weight."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + NORM_EPSILON)).to(x.dtype)


def timestep_features(timesteps: Tensor) -> Tensor:
    """Sinusoids of timesteps on the 0..1000 scale, [N] -> [N, 256], cosines first, float32."""
    half = TIMESTEP_WIDTH // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Rotary(nn.Module):
    """The position code of the released weights.

    The tables are laid out as two halves but applied to interleaved pairs, so the two members of a pair turn by different angles. That is
    no rotation, and no standard kernel gives it; the weights were trained with it.

    Args:
        head_dim: Head width d.
        theta: Base of the frequencies.
    """

    def __init__(self, head_dim: int, theta: float) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.theta = theta

    def tables(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines at positions [P], [P, d] each: rounded to dtype, kept in float32."""
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=positions.device) / self.head_dim
        angles = positions.float()[:, None] * (1.0 / self.theta**exponents)  # [P, d/2]
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(dtype).float(), angles.sin().to(dtype).float()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Apply tables [P, d], or the start of longer ones, to x [..., P, d] in float32; the result is float32.

        out[2j] = x[2j] cos[2j] - x[2j+1] sin[2j];  out[2j+1] = x[2j+1] cos[2j+1] + x[2j] sin[2j+1]
        """
        if len(cos) > x.shape[-2]:
            cos, sin = cos[: x.shape[-2]], sin[: x.shape[-2]]
        wide = x.float()
        even, odd = wide[..., 0::2], wide[..., 1::2]
        turned = torch.stack([-odd, even], dim=-1).flatten(-2)
        return torch.addcmul(wide * cos, turned, sin)


class SelfAttention(nn.Module):
    """Linear attention over frames with a ReLU kernel.

    Args:
        width: D.
        heads: H.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        tables: tuple[Tensor, Tensor],
        frame_mask: Tensor | None,
        row_updates: RowUpdates = (),
        groups: Groups = ONE_GROUP,
    ) -> Tensor:
        """[B, T, D] -> [B, T, D]; a padded frame (frame_mask [B, T] is 0) gives the output bias."""
        query, key, value = (adapted(projection, x, row_updates) for projection in (self.to_q, self.to_k, self.to_v))
        by_group = zip(groups.split(query), groups.split(key), groups.split(value), groups.split_or_none(frame_mask), strict=True)
        parts = [self._attend(query, key, value, rotary, tables, mask) for query, key, value, mask in by_group]
        return adapted(self.to_out[0], groups.join(parts), row_updates)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, rotary: Rotary, tables: tuple[Tensor, Tensor], frame_mask: Tensor | None
    ) -> Tensor:
        dtype = query.dtype
        query, key, value = (torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))  # [B, H, T, d]
        if frame_mask is not None:
            mask = frame_mask[:, None, :, None].to(dtype)
            query, key, value = query * mask, key * mask, value * mask
        query = F.relu(rotary(query, *tables))
        key = F.relu(rotary(key, *tables))
        # Sums over frames first: [d, d] a head instead of [T, T]. They stay in float32 under a trainer's autocast too.
        with torch.autocast(query.device.type, enabled=False):
            state = key.transpose(-1, -2) @ value.float()  # [B, H, d, d]
            total = key.sum(dim=-2).unsqueeze(-1)  # [B, H, d, 1]
            out = (query @ state) / (query @ total + ATTENTION_EPSILON)
        return out.transpose(1, 2).flatten(-2).to(dtype)


class CrossAttention(nn.Module):
    """Softmax attention from frames to the conditions.

    Args:
        width: D.
        heads: H.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def project(
        self, context: Tensor, rotary: Rotary, tables: tuple[Tensor, Tensor], row_updates: RowUpdates = ()
    ) -> tuple[Tensor, Tensor]:
        """Rotated keys and values [1, H, L, d] of conditions [1, L, D]."""
        key = torch.unflatten(adapted(self.to_k, context, row_updates), -1, (self.heads, -1)).transpose(1, 2)
        value = torch.unflatten(adapted(self.to_v, context, row_updates), -1, (self.heads, -1)).transpose(1, 2)
        return rotary(key, *tables).to(context.dtype), value.contiguous()

    def forward(
        self,
        x: Tensor,
        keys_values: Sequence[tuple[Tensor, Tensor]],
        rotary: Rotary,
        tables: tuple[Tensor, Tensor],
        query_scale: Tensor | None,
        frame_mask: Tensor | None,
        key_mask: Tensor | None = None,
        row_updates: RowUpdates = (),
        groups: Groups = ONE_GROUP,
    ) -> Tensor:
        """[B, T, D] -> [B, T, D], each row attending to its own keys and values; a pair [G, H, L, d] serves the next G rows.

        Inference masks nothing: condition tokens that must not be seen are absent from the keys, a row without any gives the output bias,
        and so does a padded frame. Training pads the conditions of a batch into one pair and masks them (key_mask [B, 1, 1, L], 1 = see).
        """
        query = adapted(self.to_q, x, row_updates)
        if query_scale is not None:
            query = query * query_scale
        parts = [
            self._attend(part, pairs, rotary, tables, key_mask)
            for part, pairs in zip(groups.split(query), groups.split_rows(keys_values), strict=True)
        ]
        merged = groups.join(parts)
        if frame_mask is not None:
            merged = merged * frame_mask[..., None].to(x.dtype)
        return adapted(self.to_out[0], merged, row_updates)

    def _attend(
        self,
        x: Tensor,
        keys_values: Sequence[tuple[Tensor, Tensor]],
        rotary: Rotary,
        tables: tuple[Tensor, Tensor],
        key_mask: Tensor | None,
    ) -> Tensor:
        query = torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)  # [B, H, T, d]
        query = rotary(query, *tables).to(x.dtype)
        rows = [
            F.scaled_dot_product_attention(some, key, value, key_mask) if key.shape[-2] else torch.zeros_like(some)
            for some, (key, value) in zip(query.split([key.shape[0] for key, _ in keys_values]), keys_values, strict=True)
        ]
        return torch.cat(rows).transpose(1, 2).flatten(-2)


class _Convolution(nn.Module):
    """A 1-D convolution under the name `conv`, as the checkpoint nests it."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.conv = conv


class FeedForward(nn.Module):
    """Gated feed-forward with a depthwise convolution over time.

    In [B, T, channels] the 1x1 convolutions of the checkpoint are matrix products and the depthwise one is three shifted multiply-adds.

    Args:
        width: D.
        hidden: Width of the gated half.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inverted_conv = _Convolution(nn.Conv1d(width, 2 * hidden, 1))
        self.depth_conv = _Convolution(nn.Conv1d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden))
        self.point_conv = _Convolution(nn.Conv1d(hidden, width, 1, bias=False))

    def forward(self, x: Tensor, frame_mask: Tensor | None = None, row_updates: RowUpdates = (), groups: Groups = ONE_GROUP) -> Tensor:
        """[B, T, D] -> [B, T, D]; frames that frame_mask [B, T] leaves out do not reach their neighbours."""
        inverted, depth, point = self.inverted_conv.conv, self.depth_conv.conv, self.point_conv.conv
        hidden = F.silu(add_updates(F.linear(x, inverted.weight[..., 0], inverted.bias), inverted, x, row_updates))
        if frame_mask is not None:
            hidden = hidden * frame_mask[..., None].to(hidden.dtype)
        assert depth.bias is not None
        before, here, after = depth.weight[:, 0].unbind(-1)
        mixed = torch.addcmul(depth.bias, hidden, here)
        for part, source in zip(groups.split(mixed), groups.split(hidden), strict=True):  # a row's ends have no neighbours
            part[:, 1:].addcmul_(source[:, :-1], before)
            part[:, :-1].addcmul_(source[:, 1:], after)
        content, gate = mixed.chunk(2, dim=-1)
        gated = content * F.silu(gate)
        return add_updates(F.linear(gated, point.weight[..., 0]), point, gated, row_updates)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward; the first and the last modulated by the timestep.

    Args:
        config: Sizes.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.inner_dim
        self.scale_shift_table = nn.Parameter(torch.zeros(6, width))
        self.attn = SelfAttention(width, config.num_attention_heads)
        self.cross_attn = CrossAttention(width, config.num_attention_heads)
        self.ff = FeedForward(width, config.mlp_dim)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        keys_values: Sequence[tuple[Tensor, Tensor]],
        rotary: Rotary,
        tables: tuple[Tensor, Tensor],
        query_scale: Tensor | None = None,
        frame_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        convolution_mask: Tensor | None = None,
        row_updates: RowUpdates = (),
        groups: Groups = ONE_GROUP,
    ) -> Tensor:
        """[B, T, D] -> [B, T, D] with modulation [B, 6, D], query_scale [B, 1, 1] and, in training, frame_mask for the convolution too.

        Tables are those of the longest row.
        """
        shift_attn, scale_attn, gate_attn, shift_ff, scale_ff, gate_ff = (self.scale_shift_table + modulation).unsqueeze(2).unbind(1)
        hidden = _modulated(rms_norm(x), scale_attn, shift_attn, groups)
        x = _gated(x, gate_attn, self.attn(hidden, rotary, tables, frame_mask, row_updates, groups), groups)
        x = x + self.cross_attn(x, keys_values, rotary, tables, query_scale, frame_mask, key_mask, row_updates, groups)
        hidden = _modulated(rms_norm(x), scale_ff, shift_ff, groups)
        return _gated(x, gate_ff, self.ff(hidden, convolution_mask, row_updates, groups), groups)


def _modulated(x: Tensor, scale: Tensor, shift: Tensor, groups: Groups) -> Tensor:
    """Scale and shift tokens [B, T, D] by their row's [B, 1, D]."""
    if not groups.packed:
        return x * (1 + scale) + shift
    by_group = zip(groups.split(x), groups.split_rows(scale), groups.split_rows(shift), strict=True)
    return groups.join([part * (1 + scales) + shifts for part, scales, shifts in by_group])


def _gated(x: Tensor, gate: Tensor, update: Tensor, groups: Groups) -> Tensor:
    """Add an update of tokens [B, T, D], weighted by their row's gate [B, 1, D]."""
    if not groups.packed:
        return x + gate * update
    by_group = zip(groups.split(x), groups.split_rows(gate), groups.split(update), strict=True)
    return groups.join([part + gates * change for part, gates, change in by_group])


class PatchEmbedding(nn.Module):
    """One token per latent frame.

    The statistics of the normalisation run over all frames, so the result at one frame depends on the length of the song: latents cannot be
    embedded in pieces or padded.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.early_conv_layers = nn.Sequential(
            nn.Conv2d(LATENT_CHANNELS, PATCH_WIDTH, (LATENT_HEIGHT, 1), stride=(LATENT_HEIGHT, 1)),
            nn.GroupNorm(32, PATCH_WIDTH, eps=1e-6),
            nn.Conv2d(PATCH_WIDTH, width, 1),
        )

    def forward(self, latents: Tensor, row_updates: RowUpdates = ()) -> Tensor:
        """[B, 8, 16, T] -> [B, T, D]."""
        early, norm, late = self.early_conv_layers
        assert isinstance(early, nn.Conv2d)
        assert isinstance(norm, nn.GroupNorm)
        assert isinstance(late, nn.Conv2d)
        # Both convolutions are matrix products: the first kernel covers the whole height, the second is 1x1.
        patches = latents.flatten(1, 2).transpose(1, 2)  # [B, T, 128]
        hidden = add_updates(F.linear(patches, early.weight.flatten(1), early.bias), early, patches, row_updates)  # [B, T, 2048]
        hidden = norm(hidden.transpose(1, 2)).transpose(1, 2)
        return add_updates(F.linear(hidden, late.weight.flatten(1), late.bias), late, hidden, row_updates)


class FinalLayer(nn.Module):
    """Tokens back to latent frames.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.zeros(2, width))
        self.linear = nn.Linear(width, LATENT_CHANNELS * LATENT_HEIGHT)

    def forward(self, x: Tensor, embedded_timestep: Tensor, row_updates: RowUpdates = ()) -> Tensor:
        """[B, T, D] and [B, D] -> [B, 8, 16, T]."""
        shift, scale = (self.scale_shift_table + embedded_timestep[:, None]).unsqueeze(2).unbind(1)
        out = adapted(self.linear, rms_norm(x) * (1 + scale) + shift, row_updates)  # [B, T, 16 * 8], channel fastest
        return torch.unflatten(out, -1, (LATENT_HEIGHT, LATENT_CHANNELS)).permute(0, 3, 2, 1)


def normalize_control(control: Tensor, hidden: Tensor) -> Tensor:
    """Give control features [B, T, D] the mean and spread of the hidden states, jointly over frames and channels."""
    dims = (1, 2)
    mean, std = control.mean(dims, keepdim=True), control.std(dims, keepdim=True)
    return (control - mean) * hidden.std(dims, keepdim=True) / (std + 1e-12) + hidden.mean(dims, keepdim=True)


class TimestepEmbedder(nn.Module):
    """Two linear layers on the sinusoids of the timestep.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(TIMESTEP_WIDTH, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: Tensor, row_updates: RowUpdates = ()) -> Tensor:
        """[N, 256] -> [N, D]."""
        return adapted(self.linear_2, F.silu(adapted(self.linear_1, features, row_updates)), row_updates)


class Transformer(nn.Module):
    """The network with its input layers. Attribute names are the checkpoint's.

    Args:
        config: Sizes.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.inner_dim
        self.config = config
        self.rotary = Rotary(config.attention_head_dim, config.rope_theta)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.num_layers))
        self.timestep_embedder = TimestepEmbedder(width)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.speaker_embedder = nn.Linear(config.speaker_embedding_dim, width)
        self.genre_embedder = nn.Linear(config.text_embedding_dim, width)
        self.lyric_proj = nn.Linear(config.lyric_hidden_size, width)
        self.proj_in = PatchEmbedding(width)
        self.final_layer = FinalLayer(width)

    @property
    def dtype(self) -> torch.dtype:
        """Compute type."""
        return self.final_layer.linear.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.final_layer.linear.weight.device

    def embed_conditions(self, text: Tensor, lyrics: Tensor, speaker: Tensor | None = None, updates: Updates | None = None) -> Tensor:
        """Concatenate speaker, text and lyrics.

        Args:
            text: [B, L_t, W_t].
            lyrics: [B, L_l, W_l].
            speaker: [B, 512]. None: zeros, all that the released weights know.
            updates: Low-rank updates of the layers; None: none.
        Returns:
            [B, 1 + L_t + L_l, D].
        """
        if speaker is None:
            speaker = text.new_zeros(text.shape[0], self.config.speaker_embedding_dim)
        sources = ((self.speaker_embedder, speaker), (self.genre_embedder, text), (self.lyric_proj, lyrics))
        speaker, text, lyrics = (adapted(layer, states, on_all_rows(updates)) for layer, states in sources)
        return torch.cat([speaker[:, None], text, lyrics], dim=1)

    def project_context(self, conditions: Tensor, mask: Tensor | None = None, updates: Updates | None = None) -> Context:
        """Keys and values of every block, once per request and condition.

        Args:
            conditions: [L, D].
            mask: [L], true = attend. Tokens that are not attended are dropped; the others keep their position numbers.
            updates: Low-rank updates of the layers; None: none.
        """
        positions = torch.arange(conditions.shape[0], device=conditions.device)
        if mask is not None:
            kept = mask.to(torch.bool)
            positions, conditions = positions[kept], conditions[kept]
        tables = self.rotary.tables(positions, conditions.dtype)
        pairs = [
            block.cross_attn.project(conditions[None], self.rotary, tables, on_all_rows(updates))  # type: ignore[union-attr,operator]
            for block in self.transformer_blocks
        ]
        return Context(keys=tuple(key for key, _ in pairs), values=tuple(value for _, value in pairs))

    def modulate(self, timesteps: Tensor, updates: Updates | None = None) -> list[Modulation]:
        """Modulations of timesteps [N] on the 0..1000 scale, once per schedule and low-rank updates."""
        row_updates = on_all_rows(updates)
        embedded = self.timestep_embedder(timestep_features(timesteps).to(self.dtype), row_updates)
        shared = add_updates(self.t_block(embedded), self.t_block[1], F.silu(embedded), row_updates)
        blocks = torch.unflatten(shared, -1, (6, -1))
        return [Modulation(blocks=block, final=final) for block, final in zip(blocks, embedded, strict=True)]

    def forward(self, rows: Sequence[Row], share_products: bool | None = None) -> list[Tensor]:
        """Evaluate rows together.

        Args:
            rows: With the same dtype and device; latents and conditions of any lengths.
            share_products: Put all rows into the same matrix products. Default: not on a CPU, where that gains nothing (the products are
                compute-bound at one row) and the library's blocking would let neighbours change the last bits of a row.
        Returns:
            Velocities (noise minus data), [8, 16, T] for each row, float32.
        """
        if share_products is None:
            share_products = self.device.type != "cpu"
        if not share_products:
            return [velocity for row in rows for velocity in self._evaluate([row])]
        order = sorted(range(len(rows)), key=lambda index: rows[index].num_frames)
        velocities = dict(zip(order, self._evaluate([rows[index] for index in order]), strict=True))
        return [velocities[index] for index in range(len(rows))]

    def _evaluate(self, rows: list[Row]) -> list[Tensor]:
        """Velocities of rows in the order of their lengths."""
        groups = Groups.of([row.num_frames for row in rows])
        by_group = groups.split_rows(rows)
        x = groups.join([self._embed(group) for group in by_group])
        frame_mask = None
        if any(row.frame_mask is not None for row in rows):
            frame_mask = groups.join([torch.stack([_frame_mask(row, x) for row in group]) for group in by_group])
        query_scale = None
        if any(row.weakened for row in rows):
            query_scale = groups.spread(x.new_tensor([WEAKENED_QUERY_SCALE if row.weakened else 1.0 for row in rows])[:, None, None])
        tables = self.rotary.tables(torch.arange(rows[-1].num_frames, device=x.device), x.dtype)
        modulation = torch.stack([row.modulation.blocks for row in rows])
        row_updates = _row_updates(rows, groups)
        for index, block in enumerate(self.transformer_blocks):
            keys_values = [(row.context.keys[index], row.context.values[index]) for row in rows]
            scale = query_scale if index in WEAKENED_BLOCKS else None
            x = block(x, modulation, keys_values, self.rotary, tables, scale, frame_mask, row_updates=row_updates, groups=groups)
        return [velocity for part, group in zip(groups.split(x), by_group, strict=True) for velocity in self._finish(part, group)]

    def _embed(self, rows: Sequence[Row]) -> Tensor:
        x = self.proj_in(torch.stack([row.latents for row in rows]).to(self.dtype), _row_updates(rows))
        if any(row.control is not None for row in rows):
            x = torch.stack([_add_control(hidden, row) for hidden, row in zip(x, rows, strict=True)])
        return x  # type: ignore[no-any-return]

    def _finish(self, x: Tensor, rows: Sequence[Row]) -> Sequence[Tensor]:
        velocities = self.final_layer(x, torch.stack([row.modulation.final for row in rows]), _row_updates(rows))
        # Row-major: sums over a song add in the order of its memory, and a song that goes on from a snapshot must add in the same.
        return velocities.float().contiguous().unbind(0)  # type: ignore[no-any-return]


def _row_updates(rows: Sequence[Row], groups: Groups = ONE_GROUP) -> RowUpdates:
    """Neighbours under the same updates, as the branches of a song are, share their products."""
    if not any(row.updates for row in rows):
        return ()
    spans: list[tuple[slice, Updates]] = []
    start = 0
    for _, group in itertools.groupby(rows, key=lambda row: id(row.updates)):
        first, *others = group
        stop = start + 1 + len(others)
        if first.updates:
            spans.append((groups.tokens_of(slice(start, stop)), first.updates))
        start = stop
    return spans


def _frame_mask(row: Row, x: Tensor) -> Tensor:
    return x.new_ones(row.num_frames) if row.frame_mask is None else row.frame_mask.to(x.dtype)


def _add_control(hidden: Tensor, row: Row) -> Tensor:
    if row.control is None:
        return hidden
    return hidden + row.control_scale * normalize_control(row.control[None], hidden[None])[0]
