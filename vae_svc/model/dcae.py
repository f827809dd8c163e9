"""The music DCAE: diffusers' AutoencoderDC, cut in two where its attention begins.

The deep levels hold global attention (EfficientViT blocks) and see the whole song; the shallow levels are convolutions and run in pieces.
Both cuts and the margins that make pieces exact are read off the built network. Time is the width of its images.

B batch, T latent frames, P latent frames of a piece; images are [B, 2, 128, 8 * P].
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC, DCDownBlock2d, DCUpBlock2d, EfficientViTBlock, ResBlock
from torch import Tensor, nn

from vae_svc.model.efficient_vit import run_in_pieces

IMAGE_CHANNELS = 2  # stereo
LATENT_CHANNELS = 8
NUM_LEVELS = 4
FRAMES_PER_LATENT = 2 ** (NUM_LEVELS - 1)  # mel frames
FLOAT32_LAYERS = ("encoder.conv_in.", "encoder.conv_out.", "decoder.conv_in.", "decoder.conv_out.")
"""Stay float32 where the other layers are lower: mel values and latents need more than 8 bits."""


class Dcae:
    """Encoder and decoder, each as a local and a global part.

    Args:
        autoencoder: With rms_norm everywhere.
        piece_width: Latent frames at a time in the global levels.
    """

    def __init__(self, autoencoder: AutoencoderDC, piece_width: int) -> None:
        encoder: Any = autoencoder.encoder
        decoder: Any = autoencoder.decoder
        self.encoder = encoder
        self.decoder = decoder
        self.piece_width = piece_width
        self._encoder_cut = _first_global_level(self.encoder.down_blocks)
        self._decoder_cut = _first_global_level(self.decoder.up_blocks)
        encoder_local: list[nn.Module] = [self.encoder.conv_in, *_flat(self.encoder.down_blocks[: self._encoder_cut])]
        decoder_local: list[nn.Module] = [*_flat(reversed(self.decoder.up_blocks[: self._decoder_cut])), self.decoder.conv_out]
        self.encoder_columns_per_latent = 2 ** max(NUM_LEVELS - 1 - self._encoder_cut, 0)
        """Width of encode_local's result for one latent frame; 1 for the official architecture."""
        self.decoder_columns_per_latent = 2 ** max(NUM_LEVELS - 1 - self._decoder_cut, 0)
        """Width of decode_global's result for one latent frame; 1 for the official architecture."""
        self.encoder_halo = -(-_margin(encoder_local) // FRAMES_PER_LATENT)
        """Latent frames that encode_local needs on either side of a piece."""
        self.decoder_halo = -(-_margin(decoder_local) // self.decoder_columns_per_latent)
        """Latent frames that decode_local needs on either side of a piece; 7 for the official architecture."""

    def encode_local(self, images: Tensor) -> Tensor:
        """Convolution levels of the encoder, [B, 2, 128, 8 * P] float32 -> [B, C, H, P * encoder_columns_per_latent]."""
        hidden_states = self.encoder.conv_in(images).to(_dtype(self.encoder.down_blocks))
        for level in self.encoder.down_blocks[: self._encoder_cut]:
            hidden_states = level(hidden_states)
        output: Tensor = hidden_states
        return output

    def encode_global(self, hidden_states: Tensor) -> Tensor:
        """Attention levels of the encoder on the whole song -> [B, 8, 16, T] float32."""
        encoder = self.encoder
        for level in encoder.down_blocks[self._encoder_cut :]:
            hidden_states = self._run_level(level, hidden_states)
        hidden_states = hidden_states.float()
        output: Tensor = encoder.conv_out(hidden_states)
        if encoder.out_shortcut:
            output = output + _mean_of_groups(hidden_states, encoder.out_shortcut_average_group_size)
        return output

    def decode_global(self, latents: Tensor) -> Tensor:
        """Attention levels of the decoder on the whole song, [B, 8, 16, T] float32 -> [B, C, H, T * decoder_columns_per_latent]."""
        decoder = self.decoder
        hidden_states = decoder.conv_in(latents)
        if decoder.in_shortcut:
            hidden_states = hidden_states + latents.repeat_interleave(decoder.in_shortcut_repeats, dim=1)
        hidden_states = hidden_states.to(_dtype(decoder.up_blocks))
        for level in reversed(decoder.up_blocks[self._decoder_cut :]):
            hidden_states = self._run_level(level, hidden_states)
        output: Tensor = hidden_states
        return output

    def decode_local(self, hidden_states: Tensor) -> Tensor:
        """Convolution levels of the decoder on a piece -> [B, 2, 128, 8 * P] float32."""
        decoder = self.decoder
        for level in reversed(decoder.up_blocks[: self._decoder_cut]):
            hidden_states = level(hidden_states)
        hidden_states = decoder.norm_out(hidden_states.movedim(1, -1)).movedim(-1, 1)
        output: Tensor = decoder.conv_out(decoder.conv_act(hidden_states.float()))
        return output

    def _run_level(self, level: nn.Module, hidden_states: Tensor) -> Tensor:
        for block in _blocks(level):
            if isinstance(block, EfficientViTBlock):
                hidden_states = run_in_pieces(block, hidden_states, self.piece_width)
            else:
                hidden_states = block(hidden_states)
        return hidden_states


def _mean_of_groups(hidden_states: Tensor, size: int) -> Tensor:
    """Mean over groups of consecutive channels, [B, C, H, W] -> [B, C / size, H, W]."""
    batch, channels, height, width = hidden_states.shape
    return hidden_states.reshape(batch, channels // size, size, height, width).mean(dim=2)


def check(autoencoder: AutoencoderDC) -> None:
    """Refuse an architecture that Dcae cannot run.

    Raises:
        ValueError: Naming the config value.
    """
    config: Any = autoencoder.config
    requirements = {
        "in_channels must be 2": config.in_channels == IMAGE_CHANNELS,
        "latent_channels must be 8": config.latent_channels == LATENT_CHANNELS,
        "decoder_norm_types must be rms_norm": set(_several(config.decoder_norm_types)) == {"rms_norm"},
        "each half needs 4 levels of at least one layer, the deepest aside": all(
            len(layers) == len(widths) == NUM_LEVELS and min(layers[:-1]) > 0
            for layers, widths in (
                (config.encoder_layers_per_block, config.encoder_block_out_channels),
                (config.decoder_layers_per_block, config.decoder_block_out_channels),
            )
        ),
    }
    for requirement, holds in requirements.items():
        if not holds:
            raise ValueError(requirement)


def _several(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def _dtype(levels: nn.ModuleList) -> torch.dtype:
    return next(levels.parameters()).dtype


def _blocks(level: nn.Module) -> Iterator[nn.Module]:
    assert isinstance(level, nn.Sequential)
    return iter(level)


def _flat(levels: Iterable[nn.Module]) -> list[nn.Module]:
    return [block for level in levels for block in _blocks(level)]


def _first_global_level(levels: nn.ModuleList) -> int:
    """Index (0 = shallowest) of the shallowest level with attention; the number of levels if there is none."""
    found = [index for index, level in enumerate(levels) if any(isinstance(block, EfficientViTBlock) for block in _blocks(level))]
    return min(found, default=len(levels))


def _margin(blocks: list[nn.Module]) -> int:
    """Columns of the input on either side that the output depends on beyond its own, for blocks in the order in which they run."""
    margin = 0
    for block in reversed(blocks):
        if isinstance(block, ResBlock):
            margin += block.conv1.kernel_size[1] // 2 + block.conv2.kernel_size[1] // 2
        elif isinstance(block, DCUpBlock2d):
            kernel_margin = block.conv.kernel_size[1] // 2
            margin = -(-(margin + kernel_margin) // 2) if block.interpolate else -(-margin // 2) + kernel_margin
        elif isinstance(block, DCDownBlock2d):
            margin = 2 * margin + block.conv.kernel_size[1] // 2
        else:
            assert isinstance(block, nn.Conv2d), f"unknown block {type(block).__name__}"
            margin += block.kernel_size[1] // 2
    return margin
