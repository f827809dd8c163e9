"""Architecture of the vocoder: its checkpoint's config, and how far its convolutions see."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from vae_svc.model.mel import MelConfig

STEM_KERNEL_SIZE = 7


@dataclass(frozen=True)
class VocoderConfig:
    """Architecture; the official values. num_mels is the width between backbone and head, n_mels the bands of the mel front end."""

    input_channels: int = 128
    depths: tuple[int, ...] = (3, 3, 9, 3)
    dims: tuple[int, ...] = (128, 256, 384, 512)
    kernel_sizes: tuple[int, ...] = (7,)
    upsample_rates: tuple[int, ...] = (4, 4, 2, 2, 2, 2, 2)
    upsample_kernel_sizes: tuple[int, ...] = (8, 8, 4, 4, 4, 4, 4)
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11, 13)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 4
    num_mels: int = 512
    upsample_initial_channel: int = 1024
    pre_conv_kernel_size: int = 13
    post_conv_kernel_size: int = 13
    mel: MelConfig = field(default_factory=MelConfig)


def receptive_frames(config: VocoderConfig) -> int:
    """Mel frames on either side that a frame's samples depend on; 91 for the official architecture."""
    margin = config.post_conv_kernel_size // 2  # walked from the samples back to the frames
    residual = max(
        sum((dilation + 1) * (size // 2) for dilation in dilations)
        for size, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
    )
    for rate, kernel_size in reversed(list(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True))):
        padding = (kernel_size - rate) // 2
        # output j of a transposed convolution takes inputs (j + padding - kernel_size + 1) / rate to (j + padding) / rate
        margin = 1 + (margin + residual - 1 + padding) // rate
    margin += config.pre_conv_kernel_size // 2
    return margin + sum(config.depths) * (max(config.kernel_sizes) // 2) + STEM_KERNEL_SIZE // 2


def config_from_dict(values: Mapping[str, Any]) -> VocoderConfig:
    """Read a checkpoint's config; what it leaves out has the official value.

    Raises:
        ValueError: The values contradict each other or name what is not built: a template, other rates, hops or bands.
    """
    names = {field.name for field in fields(VocoderConfig)} - {"mel"}
    config = VocoderConfig(
        **{name: _frozen(value) for name, value in values.items() if name in names},
        mel=mel_config_from_dict(values),
    )
    factor = math.prod(config.upsample_rates)
    requirements = {
        "use_template must be false": not values.get("use_template", False),
        "depths and dims must be of one length": len(config.depths) == len(config.dims),
        "num_mels must be the last of dims": config.num_mels == config.dims[-1],
        "upsample_rates and upsample_kernel_sizes must be of one length": len(config.upsample_rates) == len(config.upsample_kernel_sizes),
        "resblock_kernel_sizes and resblock_dilation_sizes must be of one length": len(config.resblock_kernel_sizes)
        == len(config.resblock_dilation_sizes),
        "upsample_initial_channel must halve at each rate": config.upsample_initial_channel % 2 ** len(config.upsample_rates) == 0,
        "upsample kernels must exceed their rates by an even number": all(
            size >= rate and (size - rate) % 2 == 0 for rate, size in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=False)
        ),
        "kernel sizes must be odd": all(
            size % 2 == 1
            for size in (*config.kernel_sizes, *config.resblock_kernel_sizes, config.pre_conv_kernel_size, config.post_conv_kernel_size)
        ),
        "the upsample rates must multiply to hop_length": factor == config.mel.hop_length,
        "n_mels must equal input_channels": config.mel.n_mels == config.input_channels,
        "n_fft must equal win_length": config.mel.n_fft == config.mel.win_length,
    }
    for requirement, holds in requirements.items():
        if not holds:
            raise ValueError(requirement)
    return config


MEL_KEYS = {"sampling_rate": "sample_rate"} | {field.name: field.name for field in fields(MelConfig) if field.name != "sample_rate"}
"""Names in a vocoder's config, to ours."""


def mel_config_from_dict(values: Mapping[str, Any]) -> MelConfig:
    """The front end's part of a vocoder's config; what it leaves out has the official value."""
    return MelConfig(**{name: values[key] for key, name in MEL_KEYS.items() if key in values})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
