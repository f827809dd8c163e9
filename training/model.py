"""The transformer as training sees it: with its lyric encoder and projectors, with gradients, and for whole batches.

The state dict has exactly the names of the official transformer file, except for the tensors that no computation reads
(`cross_attn.add_*`, a fifth of the file): they are not held here, and `training/checkpoint.py` writes them as zeros.

Letters: B batch, T latent frames (one token each), L condition tokens, D width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from diffusion_svc.model.config import TransformerConfig
from diffusion_svc.model.low_rank import RowUpdates
from diffusion_svc.model.packing import ONE_GROUP, Groups
from diffusion_svc.model.transformer import Rotary, Transformer, TransformerBlock, timestep_features
from encoder_svc.model.lyric_encoder import LyricEncoderConfig, RelativeTransformer
from training.conditions import Conditions
from training.projection_losses import Projector


@dataclass(frozen=True)
class Prediction:
    """Result of an evaluation.

    Attributes:
        velocity: Noise minus data, [B, 8, 16, T].
        hidden_states: For each entry of `ssl_encoder_depths`, in its order: the tokens after that block, [B, T, D].
    """

    velocity: Tensor
    hidden_states: tuple[Tensor, ...]


class TrainableBlock(TransformerBlock):
    """A block that also projects the conditions itself, so that sharding and recomputation find all of its work in one call."""

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
        context: Tensor | None = None,
    ) -> Tensor:
        """[B, T, D] -> [B, T, D]; a context [B, L, D] stands in for keys_values. The rest is as in `TransformerBlock`."""
        if context is not None:
            positions = torch.arange(context.shape[1], device=context.device)
            keys_values = [self.cross_attn.project(context, rotary, rotary.tables(positions, context.dtype))]
        masks = (frame_mask, key_mask, convolution_mask)
        return super().forward(x, modulation, keys_values, rotary, tables, query_scale, *masks, row_updates, groups)


class TrainableTransformer(Transformer):
    """Transformer, lyric encoder and projectors under the checkpoint's names.

    `forward` is the inference stage's own, so that a model in training is sampled as it will be served; training calls `predict`.

    Args:
        config: Values of the checkpoint's config.json; kept for writing it back.
        gradient_checkpointing: Compute blocks again in the backward pass instead of keeping what happened inside them.
    Raises:
        ValueError: The encoders' depths, names and widths do not match, or a depth is beyond the last block.
    """

    def __init__(self, config: Mapping[str, Any], gradient_checkpointing: bool = False) -> None:
        super().__init__(TransformerConfig.from_json(config))
        depths, names, channels = self.config.ssl_encoder_depths, self.config.ssl_names, self.config.ssl_latent_dims
        if not len(depths) == len(names) == len(channels):
            raise ValueError(f"ssl_encoder_depths {depths}, ssl_names {names} and ssl_latent_dims {channels} differ in length")
        if any(not 0 <= depth < self.config.num_layers for depth in depths):
            raise ValueError(f"ssl_encoder_depths {depths} name a block beyond the {self.config.num_layers} of this transformer")
        self.checkpoint_config = dict(config)
        self.gradient_checkpointing = gradient_checkpointing
        self.transformer_blocks = nn.ModuleList(TrainableBlock(self.config) for _ in range(self.config.num_layers))
        lyrics = LyricEncoderConfig.from_transformer_config(config)
        self.lyric_embs = nn.Embedding(lyrics.vocab_size, lyrics.hidden_size)
        self.lyric_encoder = RelativeTransformer(lyrics)
        self.projectors = nn.ModuleList(Projector(self.config.inner_dim, width) for width in channels)

    def predict(
        self,
        latents: Tensor,
        timesteps: Tensor,
        conditions: Conditions,
        frame_mask: Tensor | None = None,
        isolate_padding: bool = True,
    ) -> Prediction:
        """Evaluate a batch; autograd records it.

        Args:
            latents: Noisy, [B, 8, 16, T], padded on the right.
            timesteps: 0..1000, [B].
            conditions: Of each item.
            frame_mask: [B, T], 1 = real frame. None: no padding.
            isolate_padding: An item's real frames come out as if it were alone. False: padding is masked in the attentions only and reaches
                real frames through normalisation and convolutions, as in the reference.
        """
        isolated = frame_mask if isolate_padding else None
        context = self.embed_conditions(
            conditions.text.to(self.dtype),
            self.encode_lyrics(conditions.lyric_ids, conditions.lyric_mask),
            conditions.speaker.to(self.dtype),
        )
        visible = conditions.mask
        key_mask = None if bool(visible.all()) else visible[:, None, None]
        embedded = self.timestep_embedder(timestep_features(timesteps).to(self.dtype))
        modulation = self.t_block(embedded).unflatten(-1, (6, -1))
        x = self._embed_frames(latents.to(self.dtype), isolated)
        tables = self.rotary.tables(torch.arange(x.shape[1], device=x.device), x.dtype)
        kept: dict[int, Tensor] = {}
        for index, block in enumerate(self.transformer_blocks):
            x = self._run(block, x, modulation, (), self.rotary, tables, None, frame_mask, key_mask, isolated, (), ONE_GROUP, context)
            if index in self.config.ssl_encoder_depths:
                kept[index] = x
        return Prediction(self.final_layer(x, embedded).contiguous(), tuple(kept[depth] for depth in self.config.ssl_encoder_depths))

    def encode_lyrics(self, ids: Tensor, mask: Tensor) -> Tensor:
        """States [B, N, W] of lyric ids [B, N] under a mask [B, N], as the encoder stage computes them."""
        masked_keys = (mask == 0)[:, None, None]
        x, positions = self.lyric_encoder.embed(self.lyric_embs(ids))
        for block in self.lyric_encoder.encoders:
            x = self._run(block, x, masked_keys, positions, 1.0)
        return self.lyric_encoder.after_norm(x)  # type: ignore[no-any-return]

    def _embed_frames(self, latents: Tensor, frame_mask: Tensor | None) -> Tensor:
        """[B, 8, 16, T] -> [B, T, D]. The embedding normalises over time, so padding is cut off before it and put back after it."""
        num_frames = latents.shape[-1]
        if frame_mask is None or bool(frame_mask.all()):
            return self.proj_in(latents)  # type: ignore[no-any-return]
        tokens = [
            self.proj_in(item[None, ..., :length])[0] for item, length in zip(latents, frame_mask.sum(1).long().tolist(), strict=True)
        ]
        return torch.stack([F.pad(item, (0, 0, 0, num_frames - len(item))) for item in tokens])

    def _run(self, block: Callable[..., Tensor], *arguments: Any) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, *arguments, use_reentrant=False)  # type: ignore[no-any-return]
        return block(*arguments)
