"""Networks that tell generated material from real. They exist in training only and are in no checkpoint that is served.

Each gives the feature maps of its layers, the last being its scores: many small verdicts, one for each patch of its input.
B batch, S samples; images are [B, 2, 128, F].
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from training.spectral_losses import magnitudes

PATCH_SLOPE = 0.2
WAVEFORM_SLOPE = 0.1
"""Of the leaky rectifiers."""


class PatchDiscriminator(nn.Module):
    """Judges patches of a stereo log-mel.

    Args:
        in_channels: Of the image.
        width: Channels of the first layer; they double at each further one.
        num_downsamplings: Layers that halve the image; 3 judge patches of 70 x 70.
    Source: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", 2017, with weight norm in place of batch norm,
        which would tie the crops of a batch together.
    """

    def __init__(self, in_channels: int, width: int, num_downsamplings: int) -> None:
        super().__init__()
        widths = [in_channels, *(width * 2 ** min(level, 3) for level in range(num_downsamplings + 1))]
        strides = [2] * num_downsamplings + [1]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(narrow, wide, 4, stride, 1))
            for narrow, wide, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.scores = weight_norm(nn.Conv2d(widths[-1], 1, 4, 1, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps."""
        return _feature_maps(images, self.layers, self.scores, PATCH_SLOPE)


class PeriodDiscriminator(nn.Module):
    """Judges a waveform folded into rows of one period: what repeats stands in columns.

    Args:
        period: Samples.
        width: Channels of the first layer; the published ones have 32.
    Source: Kong et al., "HiFi-GAN", 2020, section 2.3 and appendix A.
    """

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, width, 4 * width, 16 * width, 32 * width, 32 * width]
        strides = [3, 3, 3, 3, 1]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(narrow, wide, (5, 1), (stride, 1), (2, 0)))
            for narrow, wide, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.scores = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), 1, (1, 0)))

    def forward(self, waveform: Tensor) -> list[Tensor]:
        """Feature maps of [B, S]."""
        padded = F.pad(waveform[:, None], (0, -waveform.shape[-1] % self.period), mode="reflect")
        return _feature_maps(padded.reshape(len(padded), 1, -1, self.period), self.layers, self.scores, WAVEFORM_SLOPE)


class ResolutionDiscriminator(nn.Module):
    """Judges the magnitudes of a waveform's short-time spectrum.

    Args:
        size: Samples of the window; it moves by a quarter of itself.
        width: Channels; the published ones have 32.
    Source: Jang et al., "UnivNet", 2021, section 2.3 and table 5.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.size = size
        shapes = [((3, 9), (1, 1)), *[((3, 9), (1, 2))] * 3, ((3, 3), (1, 1))]
        widths = [1, *[width] * len(shapes)]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(narrow, wide, kernel, stride, (kernel[0] // 2, kernel[1] // 2)))
            for narrow, wide, (kernel, stride) in zip(widths[:-1], widths[1:], shapes, strict=True)
        )
        self.scores = weight_norm(nn.Conv2d(width, 1, 3, 1, 1))

    def forward(self, waveform: Tensor) -> list[Tensor]:
        """Feature maps of [B, S]."""
        image = magnitudes(waveform, self.size, self.size // 4).transpose(1, 2)[:, None]  # [B, 1, frames, bins]
        return _feature_maps(image, self.layers, self.scores, WAVEFORM_SLOPE)


def waveform_discriminators(periods: Sequence[int], sizes: Sequence[int], width: int) -> nn.ModuleList:
    """Discriminators of waveforms, one for each period and each window."""
    return nn.ModuleList(
        [*(PeriodDiscriminator(period, width) for period in periods), *(ResolutionDiscriminator(size, width) for size in sizes)]
    )


def _feature_maps(hidden_states: Tensor, layers: nn.ModuleList, scores: nn.Module, slope: float) -> list[Tensor]:
    maps = []
    for layer in layers:
        hidden_states = F.leaky_relu(layer(hidden_states), slope)
        maps.append(hidden_states)
    return [*maps, scores(hidden_states)]
