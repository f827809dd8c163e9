"""A music DCAE without training: a principal component analysis of mel patches, written as the weights of an AutoencoderDC.

With widths that grow fourfold a level, the network's shortcuts are a lossless space-to-depth, so with every residual branch silent it hands
each 8 x 8 patch of the stereo log-mel (128 values) to the encoder's last convolution, and the decoder's first one hands 128 values back.
Those two convolutions hold the analysis: one set of 8 components for all 16 bands. They are scaled so that the transformer's latents have
unit variance under the codec's official shift and scale.

The branches are silent because their norms' gains are zero; their convolutions are drawn from a fixed seed, so training can wake them.

P latent frames, images are normalised stereo log-mels [2, 128, 8 * P].
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC
from safetensors.torch import save_file
from torch import Tensor

from training import checkpoint_layout
from training.init_checkpoint import ARCHITECTURES, draw
from vae_svc.codec import LATENT_ROWS, LATENT_SCALE, LATENT_SHIFT, MEL_MAX, MEL_MIN, SAMPLES_PER_LATENT
from vae_svc.model.dcae import FRAMES_PER_LATENT, IMAGE_CHANNELS, LATENT_CHANNELS, NUM_LEVELS
from vae_svc.model.griffin_lim import MelGriffinLim
from vae_svc.model.griffin_lim_config import GriffinLimConfig
from vae_svc.model.mel import LogMel
from vae_svc.model.vocoder_config import MEL_KEYS
from vae_svc.weights import DCAE_FOLDER, VOCODER_FOLDER, WEIGHTS_FILE

PATCH_SIZE = IMAGE_CHANNELS * FRAMES_PER_LATENT**2  # 128
WIDTHS = tuple(4 ** (level + 1) for level in range(NUM_LEVELS))  # 4, 16, 64, 256
LAYERS = (1, 1, 1, 0)
"""A level without layers has no down or up block either, so only the deepest can do without; its would hold 80 % of the weights."""
NORM_CONSTANT = 256.0
"""Of a channel that rides along to the decoder's last RMS norm. The norm divides by its own size, which this channel holds constant to
|x|^2 / 2 NORM_CONSTANT^2 = 2e-5, so it is the identity."""
IMAGE_MIN = -1.25
"""The decoder's last ReLU cuts here. The log-mel's floor, log(1e-5), is -1.07."""
BRANCH_SEED = 0

CONFIG: dict[str, Any] = dict(ARCHITECTURES["official"].dcae) | {
    f"{half}_{key}": value
    for half in ("encoder", "decoder")
    for key, value in {
        "block_types": ["ResBlock"] * NUM_LEVELS,
        "block_out_channels": list(WIDTHS),
        "layers_per_block": list(LAYERS),
        "qkv_multiscales": [[]] * NUM_LEVELS,
    }.items()
}


@dataclass(frozen=True)
class ClosedFormCodec:
    """The codec as two matrices between a patch and the raw latents (before the official shift and scale).

    All are float32 tensors whose values a float16 file keeps exactly.

    Args:
        encoder_weight: [8, 128]
        encoder_bias: [8]
        decoder_weight: [128, 8]
        decoder_bias: [128]
        image_mse: Mean squared error of a decoded image over the fitted material; 1 is the range's half, 7 nats.
    """

    encoder_weight: Tensor
    encoder_bias: Tensor
    decoder_weight: Tensor
    decoder_bias: Tensor
    image_mse: float

    def encode(self, images: Tensor) -> Tensor:
        """What the network on disk and the codec stage give, [..., 2, 128, 8 * P] -> latents [..., 8, 16, P]."""
        raw = F.conv2d(_to_patches(images.reshape(-1, *images.shape[-3:])), self.encoder_weight[..., None, None], self.encoder_bias)
        return ((raw - LATENT_SHIFT) * LATENT_SCALE).reshape(*images.shape[:-3], *raw.shape[-3:])

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [..., 8, 16, P] -> images [..., 2, 128, 8 * P]."""
        raw = latents.reshape(-1, *latents.shape[-3:]) / LATENT_SCALE + LATENT_SHIFT
        images = _from_patches(F.conv2d(raw, self.decoder_weight[..., None, None], self.decoder_bias)).clamp_min(IMAGE_MIN)
        return images.reshape(*latents.shape[:-3], *images.shape[-3:])


def normalised_log_mel(waveform: Tensor, log_mel: LogMel) -> Tensor:
    """The images that the codec stage sees, [2, S] at 44.1 kHz -> [2, 128, 8 * ceil(S / 4096)]."""
    padded = F.pad(waveform, (0, -waveform.shape[-1] % SAMPLES_PER_LATENT))
    return (log_mel(padded) - MEL_MIN) * (2 / (MEL_MAX - MEL_MIN)) - 1


def fit(mels: Iterable[Tensor]) -> ClosedFormCodec:
    """Fit the components in one pass over the material.

    Each latent channel ends with mean 0, and standard deviation 1 around its band's mean.

    Args:
        mels: Normalised stereo log-mels [2, 128, F]; frames beyond a multiple of 8 are left out.
    Raises:
        ValueError: The material varies in fewer than 8 directions.
    """
    scatter = torch.zeros(PATCH_SIZE, PATCH_SIZE, dtype=torch.float64)
    band_sums = torch.zeros(PATCH_SIZE, LATENT_ROWS, dtype=torch.float64)
    num_frames = 0
    for mel in mels:
        whole = mel.shape[-1] - mel.shape[-1] % FRAMES_PER_LATENT
        if whole == 0:
            continue
        patches = _to_patches(mel[None, ..., :whole].double())[0]  # [128, 16, P]
        scatter += patches.flatten(1) @ patches.flatten(1).T
        band_sums += patches.sum(dim=-1)
        num_frames += patches.shape[-1]
    if num_frames == 0:
        raise ValueError("no mel of 8 frames or more")
    band_means = band_sums / num_frames
    mean = band_means.mean(dim=1)
    second_moment = scatter / (num_frames * LATENT_ROWS)
    variances, vectors = torch.linalg.eigh(second_moment - torch.outer(mean, mean))  # ascending
    components = vectors[:, -LATENT_CHANNELS:].flip(1)  # [128, 8]
    components = components * components.gather(0, components.abs().argmax(dim=0, keepdim=True)).sign()  # LAPACK's sign is arbitrary
    within_bands = second_moment - band_means @ band_means.T / LATENT_ROWS
    within_variances = (components * (within_bands @ components)).sum(dim=0)
    if not within_variances.min() > 1e-9 * PATCH_SIZE:
        raise ValueError(f"the material varies in fewer than {LATENT_CHANNELS} directions")
    return _fold(mean, components, within_variances.sqrt(), float(variances[:-LATENT_CHANNELS].sum() / PATCH_SIZE))


def _fold(mean: Tensor, components: Tensor, scales: Tensor, image_mse: float) -> ClosedFormCodec:
    """Rounded so that what the file adds to the shortcuts is a float16; biases follow from the rounded weights."""
    encoder_weight = _rounded((components / scales).T / LATENT_SCALE - encoder_shortcut().double()) + encoder_shortcut()
    decoder_weight = _rounded(components * scales * LATENT_SCALE - _decoder_shortcut().double()) + _decoder_shortcut()
    return ClosedFormCodec(
        encoder_weight=encoder_weight,
        encoder_bias=_rounded(LATENT_SHIFT - encoder_weight.double() @ mean),
        decoder_weight=decoder_weight,
        decoder_bias=_rounded(mean - LATENT_SHIFT * decoder_weight.double().sum(dim=1)),
        image_mse=image_mse,
    )


def write(codec: ClosedFormCodec, checkpoint_folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write `music_dcae_f8c8`: 1.0 MB in float16.

    Args:
        codec: From fit.
        checkpoint_folder: Made if it is missing.
        dtype: Of the file, float16 or float32; the values are the same.
    Raises:
        FileExistsError: The checkpoint has a DCAE.
    """
    folder = checkpoint_folder / DCAE_FOLDER
    folder.mkdir(parents=True)
    with torch.device("meta"):
        model: Any = AutoencoderDC(**CONFIG)  # type: ignore[no-untyped-call]
    model.save_config(folder)
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in _tensors(codec).items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def write_griffin_lim(config: GriffinLimConfig, checkpoint_folder: Path) -> None:
    """Write `music_vocoder` with the vocoder that needs no training.

    Raises:
        FileExistsError: The checkpoint has a vocoder.
    """
    folder = checkpoint_folder / VOCODER_FOLDER
    folder.mkdir(parents=True)
    values = asdict(config)
    mel = values.pop("mel")
    values = {"_class_name": MelGriffinLim.class_name} | values | {name: mel[field] for name, field in MEL_KEYS.items()}
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _tensors(codec: ClosedFormCodec) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, spec in checkpoint_layout.dcae(CONFIG).items():
        branch_convolution = ".conv1." in name or ".conv2." in name
        tensors[name] = draw(spec, name, BRANCH_SEED) if branch_convolution else torch.zeros(spec.shape)
    for channel in range(IMAGE_CHANNELS):
        tensors["encoder.conv_in.weight"][channel, channel, 1, 1] = 1.0
        tensors["decoder.conv_out.weight"][channel, channel, 1, 1] = 1.0
    tensors["encoder.conv_out.weight"][:, :PATCH_SIZE, 1, 1] = codec.encoder_weight
    tensors["encoder.conv_out.weight"][..., 1, 1] -= encoder_shortcut(WIDTHS[-1])
    tensors["encoder.conv_out.bias"][:] = codec.encoder_bias
    tensors["decoder.conv_in.weight"][:PATCH_SIZE, :, 1, 1] = codec.decoder_weight
    tensors["decoder.conv_in.weight"][..., 1, 1] -= _decoder_shortcut(WIDTHS[-1])
    values_per_channel = PATCH_SIZE // IMAGE_CHANNELS
    tensors["decoder.conv_in.bias"][:PATCH_SIZE] = codec.decoder_bias
    tensors["decoder.conv_in.bias"][PATCH_SIZE : PATCH_SIZE + values_per_channel] = NORM_CONSTANT  # the third of four channels
    tensors["decoder.norm_out.weight"][:] = NORM_CONSTANT / WIDTHS[0] ** 0.5
    tensors["decoder.norm_out.bias"][:] = -IMAGE_MIN
    tensors["decoder.conv_out.bias"][:] = IMAGE_MIN
    return tensors


def encoder_shortcut(width: int = PATCH_SIZE) -> Tensor:
    """What the encoder's last shortcut adds to its convolution, [8, width]: the means of 8 groups of channels."""
    return torch.mul(_decoder_shortcut(width).t(), LATENT_CHANNELS / WIDTHS[-1])


def _decoder_shortcut(width: int = PATCH_SIZE) -> Tensor:
    """What the decoder's first shortcut adds to its convolution, [width, 8]: each latent channel in a group of channels."""
    groups: Tensor = torch.eye(LATENT_CHANNELS).repeat_interleave(WIDTHS[-1] // LATENT_CHANNELS, dim=0)
    return groups[:width]


def _rounded(values: Tensor) -> Tensor:
    return values.half().float()


def _to_patches(images: Tensor) -> Tensor:
    """In the channel order of the network's shortcuts, [B, 2, 128, 8 * P] -> [B, 128, 16, P]."""
    for _ in range(NUM_LEVELS - 1):
        images = F.pixel_unshuffle(images, 2)
    return images


def _from_patches(patches: Tensor) -> Tensor:
    for _ in range(NUM_LEVELS - 1):
        patches = F.pixel_shuffle(patches, 2)
    return patches
