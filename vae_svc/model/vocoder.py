"""The vocoder: log-mel to waveform. A 1-D ConvNeXt backbone, then a HiFi-GAN generator; attribute names are the checkpoint's.

Weight normalisation is folded before the weights arrive here. There are only convolutions, so a long song can be run in pieces;
`vocoder_config.receptive_frames` says how far each frame sees.

B batch, C channels, F mel frames.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae_svc.model.vocoder_config import STEM_KERNEL_SIZE, VocoderConfig, receptive_frames

NORM_EPSILON = 1e-6
FLOAT32_LAYERS = ("backbone.channel_layers.0.", "head.conv_post.")
"""Stay float32 where the other layers are lower: mel values and samples need more than 8 bits."""
HALO_MULTIPLE = 8
"""The halo is rounded up to whole latent frames, so that none is decoded for a part of it."""


class Vocoder(nn.Module):
    """Log-mel to waveform.

    Args:
        config: Architecture.
    """

    class_name = "ADaMoSHiFiGANV1"
    """As a checkpoint's config names it."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.head = Head(config)
        self.halo = -(-receptive_frames(config) // HALO_MULTIPLE) * HALO_MULTIPLE
        """Mel frames that a piece needs on either side; 96 for the official architecture."""

    def forward(self, mel: Tensor) -> Tensor:
        """Synthesise, [B, input_channels, F] float32 -> [B, F * hop_length] float32, -1 to 1."""
        waveform: Tensor = self.head(self.backbone(mel))
        return waveform[:, 0]

    def stream(self, read_mel: Callable[[int, int], Tensor], cuts: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
        """Synthesise a song piece by piece; the pieces equal the whole to rounding.

        Args:
            read_mel: Gives the frames start to stop, [B, input_channels, stop - start].
            cuts: (start, stop) of consecutive spans of frames, one for each piece.
        Yields:
            [B, (stop - start) * hop_length] float32.
        """
        hop_length, num_frames = self.config.mel.hop_length, cuts[-1][1]
        mel = read_mel(0, 0)  # frames mel_start to mel_stop
        mel_start = mel_stop = 0
        for start, stop in cuts:
            low, high = max(start - self.halo, 0), min(stop + self.halo, num_frames)
            kept = mel[..., low - mel_start :]
            mel = torch.cat([kept, read_mel(mel_stop, high)], dim=-1) if high > mel_stop else kept
            mel_start, mel_stop = low, high
            yield self(mel)[:, (start - low) * hop_length : (stop - low) * hop_length]


class Backbone(nn.Module):
    """1-D ConvNeXt over mel frames, [B, input_channels, F] -> [B, dims[-1], F]."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        stem = nn.Sequential(
            nn.Conv1d(config.input_channels, config.dims[0], STEM_KERNEL_SIZE, padding=STEM_KERNEL_SIZE // 2, padding_mode="replicate"),
            ChannelNorm(config.dims[0], eps=NORM_EPSILON),
        )
        self.channel_layers = nn.ModuleList([stem])
        for narrow, wide in zip(config.dims[:-1], config.dims[1:], strict=True):
            self.channel_layers.append(nn.Sequential(ChannelNorm(narrow, eps=NORM_EPSILON), nn.Conv1d(narrow, wide, 1)))
        self.stages = nn.ModuleList(
            nn.Sequential(*(_residual_block(width, config.kernel_sizes) for _ in range(depth)))
            for depth, width in zip(config.depths, config.dims, strict=True)
        )
        self.norm = ChannelNorm(config.dims[-1], eps=NORM_EPSILON)

    def forward(self, mel: Tensor) -> Tensor:
        """Features of each frame, in the type of the inner layers."""
        hidden_states = self.channel_layers[0](mel).to(self.norm.weight.dtype)
        hidden_states = self.stages[0](hidden_states)
        for channel_layer, stage in zip(self.channel_layers[1:], self.stages[1:], strict=True):
            hidden_states = stage(channel_layer(hidden_states))
        output: Tensor = self.norm(hidden_states)
        return output


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of [B, C, F]."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalise each frame."""
        return super().forward(hidden_states.transpose(1, 2)).transpose(1, 2)


class ConvNeXtBranch(nn.Module):
    """Depthwise convolution and pointwise expansion, without the residual; [B, C, F] -> [B, C, F]."""

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(width, width, kernel_size, padding=kernel_size // 2, groups=width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """What the block adds to its input."""
        hidden_states = self.dwconv(hidden_states).transpose(1, 2)  # [B, C, F] -> [B, F, C]
        hidden_states = self.pwconv2(F.gelu(self.pwconv1(self.norm(hidden_states))))
        return (self.gamma * hidden_states).transpose(1, 2)


class ConvNeXtBlock(ConvNeXtBranch):
    """The usual block: one branch and the residual."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[B, C, F] -> [B, C, F]."""
        return hidden_states + super().forward(hidden_states)


class ParallelConvNeXtBlock(nn.Module):
    """Branches of several kernel sizes side by side, summed with the input."""

    def __init__(self, width: int, kernel_sizes: Sequence[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ConvNeXtBranch(width, kernel_size) for kernel_size in kernel_sizes)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[B, C, F] -> [B, C, F]."""
        output = hidden_states
        for block in self.blocks:
            output = output + block(hidden_states)
        return output


def _residual_block(width: int, kernel_sizes: Sequence[int]) -> nn.Module:
    if len(kernel_sizes) == 1:
        return ConvNeXtBlock(width, kernel_sizes[0])
    return ParallelConvNeXtBlock(width, kernel_sizes)


class Head(nn.Module):
    """HiFi-GAN generator, [B, num_mels, F] -> [B, 1, F * product(upsample_rates)]."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        width = config.upsample_initial_channel
        self.conv_pre = _same_conv(config.num_mels, width, config.pre_conv_kernel_size)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()  # flat: the blocks of stage i are len(resblock_kernel_sizes) * i + k
        for rate, kernel_size in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            self.ups.append(Upsample(width, width // 2, kernel_size, rate))
            width //= 2
            for size, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True):
                self.resblocks.append(ResidualBlock(width, size, dilations))
        self.conv_post = _same_conv(width, 1, config.post_conv_kernel_size)
        self.num_branches = len(config.resblock_kernel_sizes)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Waveform in the type of conv_post."""
        hidden_states = self.conv_pre(hidden_states)
        for index, up in enumerate(self.ups):
            hidden_states = up(F.silu(hidden_states))
            branches = self.resblocks[index * self.num_branches : (index + 1) * self.num_branches]
            total = branches[0](hidden_states)
            for branch in branches[1:]:
                total = total + branch(hidden_states)
            hidden_states = total / self.num_branches
        return torch.tanh(self.conv_post(F.silu(hidden_states.to(self.conv_post.weight.dtype))))


class Upsample(nn.ConvTranspose1d):
    """A transposed convolution computed as a plain one with an output channel for each phase, interleaved after.

    Libraries pick the blocking of transposed convolutions by the width of the input, so a piece would differ from the whole in the last
    bits, and the layers above magnify that. A tap in three is zero, 1 % of the vocoder's work.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, rate: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, rate, padding=(kernel_size - rate) // 2)

    def forward(self, hidden_states: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[B, C, F] -> [B, C / 2, F * rate]."""
        rate, kernel_size, padding = self.stride[0], self.kernel_size[0], int(self.padding[0])
        reach = (rate - 1 + padding) // rate
        # output rate * f + phase takes input f + offset through tap phase + padding - rate * offset
        device = hidden_states.device
        offsets = torch.arange(-reach, reach + 1, device=device)
        taps = torch.arange(rate, device=device)[:, None] + padding - rate * offsets[None, :]
        taps = torch.where((taps >= 0) & (taps < kernel_size), taps, kernel_size)  # the tap after the last is zero
        weight = F.pad(self.weight, (0, 1))[..., taps]  # [C, C / 2, rate, 2 * reach + 1]
        phases = F.conv1d(hidden_states, weight.permute(2, 1, 0, 3).flatten(0, 1), padding=reach)
        output = phases.reshape(phases.shape[0], rate, self.out_channels, -1).permute(0, 2, 3, 1).flatten(2)
        assert self.bias is not None
        return output + self.bias[:, None]


class ResidualBlock(nn.Module):
    """Rounds of a dilated and an undilated convolution, each round with its residual; [B, C, F] -> [B, C, F]."""

    def __init__(self, width: int, kernel_size: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_same_conv(width, width, kernel_size, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(_same_conv(width, width, kernel_size) for _ in dilations)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[B, C, F] -> [B, C, F]."""
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            hidden_states = hidden_states + plain(F.silu(dilated(F.silu(hidden_states))))
        return hidden_states


def _same_conv(in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> nn.Conv1d:
    return nn.Conv1d(in_channels, out_channels, kernel_size, dilation=dilation, padding=dilation * (kernel_size - 1) // 2)
