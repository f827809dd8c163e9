"""The lyric encoder: token ids to states, before the transformer's input projection.

A pre-norm transformer with relative positions. Attributes carry the checkpoint's names, so that the state dict of `LyricEncoder` is the
`lyric_embs.*` and `lyric_encoder.*` part of the transformer's file. It knows no tokenizer and no guidance. Linear layers are called through
`adapted`, so that a call can have low-rank updates.

B batch, N tokens, D width, H heads, d head width, C query rows of one piece.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from encoder_svc.model.low_rank import Updates, adapted

WEAKENED_BLOCKS = range(4, 6)
"""Blocks whose queries the weakened variant shrinks. A smaller model has fewer of them, or none."""
WEAKENED_QUERY_FACTOR = 0.01
DROPOUT = 0.1
NORM_EPS = 1e-5
SCORES_PER_PIECE = 1 << 22
"""Attention scores held at once: 16 MiB in float32, whatever the length."""


@dataclass(frozen=True)
class LyricEncoderConfig:
    """Sizes of the lyric encoder. The defaults are the official ones, except for the vocabulary of a config that names none."""

    vocab_size: int = 6681
    hidden_size: int = 1024
    attention_heads: int = 16
    linear_units: int = 4096
    num_blocks: int = 6

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "attention_heads", "linear_units", "num_blocks"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} of the lyric encoder is {value!r}, expected a positive integer")
        if self.hidden_size % (2 * self.attention_heads):
            raise ValueError(f"{self.attention_heads} lyric encoder heads do not split width {self.hidden_size} into even parts")

    @classmethod
    def from_transformer_config(cls, config: Mapping[str, Any]) -> "LyricEncoderConfig":
        """Read the transformer's config.json, where these keys are flat or inside `lyric_encoder_overrides`.

        Raises:
            ValueError: A size is no positive integer, heads do not divide the width, or the encoder's width differs from its embedding's.
        """
        overrides = config.get("lyric_encoder_overrides", {})
        hidden_size = config.get("lyric_hidden_size", cls.hidden_size)
        if overrides.get("output_size", hidden_size) != hidden_size:
            raise ValueError(f"lyric_encoder_overrides.output_size {overrides['output_size']} differs from lyric_hidden_size {hidden_size}")

        def size(name: str) -> Any:
            return overrides.get(name, config.get(f"lyric_encoder_{name}", getattr(cls, name)))

        return cls(
            vocab_size=config.get("lyric_encoder_vocab_size", cls.vocab_size),
            hidden_size=hidden_size,
            attention_heads=size("attention_heads"),
            linear_units=size("linear_units"),
            num_blocks=size("num_blocks"),
        )


def relative_positions(length: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Sinusoids of the offsets length-1 down to -(length-1), computed in float32.

    Returns:
        [2N-1, D]: row i stands for offset N-1-i; even columns sine, odd columns cosine.
    """
    offsets = torch.arange(length - 1, -length, -1, dtype=torch.float32, device=device)
    frequencies = torch.exp(torch.arange(0, width, 2, dtype=torch.float32, device=device) * -(math.log(10000.0) / width))
    angles = offsets[:, None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1).to(dtype)


def shift_to_keys(scores: Tensor, length: int) -> Tensor:
    """View scores over relative offsets as scores over keys, without a copy.

    Row j of C consecutive queries needs the `length` columns from C-1-j on; one row further is one column to the left, which is
    a row stride one element short:

        columns are offsets            columns are keys
        . . a b c                      a b c
        . d e f .          ->          d e f
        g h i . .                      g h i

    Args:
        scores: [B, H, C, N+C-1], of the offsets that these rows can meet, in the order of `relative_positions`.
        length: N.
    Returns:
        [B, H, C, N], a view.
    """
    batch, heads, rows, columns = scores.shape
    scores = scores.contiguous()
    strides = (heads * rows * columns, rows * columns, columns - 1, 1)
    return scores.as_strided((batch, heads, rows, length), strides, scores.storage_offset() + rows - 1)


class RelativeAttention(nn.Module):
    """Bidirectional attention over all keys, with the relative positions of Transformer-XL."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(nn.init.xavier_uniform_(torch.empty(heads, width // heads)))
        self.pos_bias_v = nn.Parameter(nn.init.xavier_uniform_(torch.empty(heads, width // heads)))

    def forward(
        self, x: Tensor, masked_keys: Tensor | None, positions: Tensor, query_factor: float, updates: Updates | None = None
    ) -> Tensor:
        """Attend in pieces of query rows, so that memory does not grow with the square of the length.

        Args:
            x: [B, N, D].
            masked_keys: [B, 1, 1, N], true = never attended; None if there is none. A row without any key gives `linear_out.bias`.
            positions: [2N-1, D] of `relative_positions`.
            query_factor: Scales the queries, updates included, before the positional biases are added.
            updates: Low-rank updates of the layers; None: none.
        Returns:
            [B, N, D].
        """
        batch, length, width = x.shape
        split = (batch, length, self.heads, width // self.heads)
        queries = adapted(self.linear_q, x, updates).view(split)
        if query_factor != 1.0:
            queries = queries * query_factor
        keys = adapted(self.linear_k, x, updates).view(split).permute(0, 2, 3, 1)  # [B, H, d, N]
        values = adapted(self.linear_v, x, updates).view(split).transpose(1, 2)  # [B, H, N, d]
        offsets = adapted(self.linear_pos, positions, updates).view(2 * length - 1, *split[2:]).permute(1, 2, 0)  # [H, d, 2N-1]
        content_queries = (queries + self.pos_bias_u).transpose(1, 2)  # [B, H, N, d]
        position_queries = (queries + self.pos_bias_v).transpose(1, 2)

        pieces = []
        rows = max(1, SCORES_PER_PIECE // (batch * self.heads * length))
        for start in range(0, length, rows):
            stop = min(start + rows, length)
            window = offsets[..., length - stop : 2 * length - 1 - start]  # the offsets that these rows can meet: [H, d, N+C-1]
            scores = content_queries[:, :, start:stop] @ keys + shift_to_keys(position_queries[:, :, start:stop] @ window, length)
            scores = scores / math.sqrt(split[-1])
            if masked_keys is None:
                weights = scores.softmax(dim=-1)
            else:
                weights = scores.masked_fill(masked_keys, -math.inf).softmax(dim=-1).masked_fill(masked_keys, 0.0)
            pieces.append(weights @ values)
        attended = torch.cat(pieces, dim=2).transpose(1, 2).reshape(batch, length, width)
        return adapted(self.linear_out, attended, updates)


class FeedForward(nn.Module):
    """Two linear layers with SiLU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, hidden)
        self.w_2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, updates: Updates | None = None) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        return adapted(self.w_2, self.dropout(nn.functional.silu(adapted(self.w_1, x, updates))), updates)


class EncoderLayer(nn.Module):
    """One pre-norm block: attention, then feed-forward."""

    def __init__(self, config: LyricEncoderConfig) -> None:
        super().__init__()
        self.self_attn = RelativeAttention(config.hidden_size, config.attention_heads)
        self.feed_forward = FeedForward(config.hidden_size, config.linear_units)
        self.norm_mha = nn.LayerNorm(config.hidden_size, eps=NORM_EPS)
        self.norm_ff = nn.LayerNorm(config.hidden_size, eps=NORM_EPS)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(
        self, x: Tensor, masked_keys: Tensor | None, positions: Tensor, query_factor: float, updates: Updates | None = None
    ) -> Tensor:
        """[B, N, D] -> [B, N, D]; arguments as in `RelativeAttention`."""
        x = x + self.dropout(self.self_attn(self.norm_mha(x), masked_keys, positions, query_factor, updates))
        out: Tensor = x + self.dropout(self.feed_forward(self.norm_ff(x), updates))
        return out


class InputLayer(nn.Module):
    """Linear and norm in front of the blocks, and the positional table beside them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width, eps=NORM_EPS))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, embedded: Tensor, updates: Updates | None = None) -> tuple[Tensor, Tensor]:
        """[B, N, D] -> states [B, N, D] and positions [2N-1, D]."""
        length, width = embedded.shape[1:]
        linear, norm = self.out
        x = norm(adapted(linear, embedded, updates)) * math.sqrt(width)
        return self.dropout(x), self.dropout(relative_positions(length, width, x.device, x.dtype))


class RelativeTransformer(nn.Module):
    """Input layer, blocks, final norm: `lyric_encoder` of the checkpoint."""

    def __init__(self, config: LyricEncoderConfig) -> None:
        super().__init__()
        self.embed = InputLayer(config.hidden_size)
        self.encoders = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_blocks))
        self.after_norm = nn.LayerNorm(config.hidden_size, eps=NORM_EPS)

    def forward(self, embedded: Tensor, mask: Tensor, variants: tuple[bool, ...], updates: Updates | None = None) -> tuple[Tensor, ...]:
        """Run the blocks once per variant, those before the first weakened block once for all.

        Args:
            embedded: [B, N, D].
            mask: [B, N], nonzero = attend.
            variants: For each wanted result: is it the weakened one?
            updates: Low-rank updates of the layers; None: none.
        Returns:
            One [B, N, D] for each variant.
        """
        masked = mask == 0
        masked_keys = masked[:, None, None, :] if bool(masked.any()) else None
        x, positions = self.embed(embedded, updates)
        for block in self.encoders[: WEAKENED_BLOCKS.start]:
            x = block(x, masked_keys, positions, 1.0, updates)
        results = []
        for weakened in variants:
            y = x
            for index, block in enumerate(self.encoders[WEAKENED_BLOCKS.start :], start=WEAKENED_BLOCKS.start):
                factor = WEAKENED_QUERY_FACTOR if weakened and index in WEAKENED_BLOCKS else 1.0
                y = block(y, masked_keys, positions, factor, updates)
            results.append(self.after_norm(y))
        return tuple(results)


class LyricEncoder(nn.Module):
    """Embedding and transformer of the lyrics."""

    def __init__(self, config: LyricEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.lyric_embs = nn.Embedding(config.vocab_size, config.hidden_size)
        self.lyric_encoder = RelativeTransformer(config)

    def forward(self, ids: Tensor, mask: Tensor, weakened: bool = False, updates: Updates | None = None) -> Tensor:
        """Encode lyrics.

        Args:
            ids: [B, N] int64.
            mask: [B, N], nonzero = attend.
            weakened: Shrink the queries of the last blocks (entropy-rectified guidance).
            updates: Low-rank updates of the layers; None: none.
        Returns:
            States [B, N, D]. Positions outside the mask are computed like others and mean nothing.
        """
        states: Tensor
        (states,) = self.lyric_encoder(self.lyric_embs(ids), mask, (weakened,), updates)
        return states

    def plain_and_weakened(self, ids: Tensor, mask: Tensor, updates: Updates | None = None) -> tuple[Tensor, Tensor]:
        """Both variants of `forward`; the blocks before the first weakened one run once."""
        plain, weakened = self.lyric_encoder(self.lyric_embs(ids), mask, (False, True), updates)
        return plain, weakened
