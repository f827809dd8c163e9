"""A tiny random codec checkpoint in the official layout."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vae_svc.codec import Codec
from vae_svc.model.vocoder_config import VocoderConfig
from vae_svc.weights import build_dcae, build_vocoder, dcae_tensors, load_codec, read_vocoder_config, vocoder_tensors

DCAE_CONFIG: dict[str, Any] = {
    "_class_name": "AutoencoderDC",
    "in_channels": 2,
    "latent_channels": 8,
    "attention_head_dim": 8,
    "encoder_block_types": ["ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock"],
    "decoder_block_types": ["ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock"],
    "encoder_block_out_channels": [8, 8, 16, 16],
    "decoder_block_out_channels": [8, 8, 16, 16],
    "encoder_layers_per_block": [1, 1, 1, 1],
    "decoder_layers_per_block": [1, 2, 1, 2],
    "encoder_qkv_multiscales": [[], [], [5], [5]],
    "decoder_qkv_multiscales": [[], [], [5], [5]],
    "upsample_block_type": "interpolate",
    "downsample_block_type": "Conv",
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
    "scaling_factor": 0.41407,
}
VOCODER_CONFIG: dict[str, Any] = {
    "_class_name": "ADaMoSHiFiGANV1",
    "input_channels": 128,
    "depths": [1, 1],
    "dims": [8, 12],
    "drop_path_rate": 0.0,
    "kernel_sizes": [7],
    "upsample_rates": [8, 8, 8],
    "upsample_kernel_sizes": [16, 16, 16],
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
    "num_mels": 12,
    "upsample_initial_channel": 16,
    "use_template": False,
    "pre_conv_kernel_size": 7,
    "post_conv_kernel_size": 7,
    "sampling_rate": 44100,
    "hop_length": 512,
    "n_mels": 128,
}
GRIFFIN_LIM_CONFIG: dict[str, Any] = {
    "_class_name": "MelGriffinLim",
    "iterations": 4,
    "momentum": 0.99,
    "em_steps": 4,
    "window_frames": 64,
    "overlap_frames": 16,
    "sampling_rate": 44100,
    "n_fft": 2048,
    "win_length": 2048,
    "hop_length": 512,
    "f_min": 40,
    "f_max": 16000,
    "n_mels": 128,
}


ONE = ("norm.weight", "norm_out.weight", "gamma")


def _scale(tensor: str) -> float:
    """So large that sound comes out and follows the latents."""
    return 4.0 if tensor.startswith("head.ups") and tensor.endswith("_g") else 0.2


def _vocoder_tensors(folder: Path) -> dict[str, tuple[int, ...]]:
    config = read_vocoder_config(folder)
    assert isinstance(config, VocoderConfig)
    return vocoder_tensors(build_vocoder(config))


@pytest.fixture(scope="session")
def write_checkpoint() -> Callable[..., Path]:
    """Write configs and random tensors into a folder; keyword arguments change config values."""

    def write(folder: Path, dcae: dict[str, Any] | None = None, vocoder: dict[str, Any] | None = None) -> Path:
        generator = torch.Generator().manual_seed(0)
        for name, config in (("music_dcae_f8c8", DCAE_CONFIG | (dcae or {})), ("music_vocoder", VOCODER_CONFIG | (vocoder or {}))):
            (folder / name).mkdir(parents=True)
            (folder / name / "config.json").write_text(json.dumps(config))
            with torch.device("meta"):
                shapes = dcae_tensors(build_dcae(folder / name)) if name == "music_dcae_f8c8" else _vocoder_tensors(folder / name)
            tensors = {tensor: _scale(tensor) * torch.randn(shape, generator=generator) for tensor, shape in shapes.items()}
            tensors |= {tensor: 1.0 + 0.1 * value for tensor, value in tensors.items() if tensor.endswith(ONE)}
            tensors |= {tensor: 1.0 + value.abs() for tensor, value in tensors.items() if tensor.endswith("weight_g")}
            save_file(tensors, folder / name / "diffusion_pytorch_model.safetensors")
        return folder

    return write


@pytest.fixture(scope="session")
def checkpoint(write_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def griffin_lim_checkpoint(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same DCAE with the vocoder that has no weights. Read only."""
    folder = tmp_path_factory.mktemp("griffin_lim")
    shutil.copytree(checkpoint / "music_dcae_f8c8", folder / "music_dcae_f8c8")
    (folder / "music_vocoder").mkdir()
    (folder / "music_vocoder" / "config.json").write_text(json.dumps(GRIFFIN_LIM_CONFIG))
    return folder


@pytest.fixture(scope="session")
def codec(checkpoint: Path) -> Codec:
    """Float32 on the CPU."""
    return load_codec(checkpoint, torch.device("cpu"), torch.float32).codec


@pytest.fixture(scope="session")
def latents() -> Callable[[int], torch.Tensor]:
    """Latents of a length."""
    return lambda length: torch.randn(8, 16, length, generator=torch.Generator().manual_seed(length))
