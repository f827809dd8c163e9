"""Checkpoint folders to the codec's networks. Strict: a missing, unexpected or misshapen tensor stops the start.

Reads `music_dcae_f8c8/` and `music_vocoder/`: config.json and diffusion_pytorch_model.safetensors, or its shards with their index. The
vocoder's kind is the `_class_name` of its config; `MelGriffinLim` has no weights.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vae_svc.codec import HOP_LENGTH, NUM_MELS, SAMPLE_RATE, Codec
from vae_svc.model import dcae, vocoder
from vae_svc.model.griffin_lim import MelGriffinLim
from vae_svc.model.griffin_lim_config import GriffinLimConfig, griffin_lim_config_from_dict
from vae_svc.model.vocoder import Vocoder
from vae_svc.model.vocoder_config import VocoderConfig, config_from_dict

DCAE_FOLDER = "music_dcae_f8c8"
VOCODER_FOLDER = "music_vocoder"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"

Shapes = dict[str, tuple[int, ...]]


class CheckpointError(ValueError):
    """A checkpoint does not hold what the architecture needs."""


@dataclass(frozen=True)
class LoadedCodec:
    """The stage with its weights.

    Args:
        codec: Ready to run.
        model_digest: SHA-256 (hex) over name, type, shape and bytes of every tensor as it lies in the checkpoint, and over the parameters
            of a vocoder without tensors.
    """

    codec: Codec
    model_digest: str


def load_codec(checkpoint: Path, device: torch.device, dtype: torch.dtype) -> LoadedCodec:
    """Load the codec.

    Args:
        checkpoint: Folder with the two model folders.
        device: Where the networks run.
        dtype: Compute type of the networks' inner layers; all that touches mel values, latents and samples stays float32.
    Raises:
        CheckpointError: Naming the tensor or the config, and the file.
    """
    digest = hashlib.sha256()
    autoencoder = load_dcae(checkpoint / DCAE_FOLDER, device, dtype, digest)
    synthesizer = load_vocoder(checkpoint / VOCODER_FOLDER, device, dtype, digest)
    return LoadedCodec(Codec(autoencoder, synthesizer), digest.hexdigest())


def load_dcae(folder: Path, device: torch.device, dtype: torch.dtype, digest: "hashlib._Hash") -> AutoencoderDC:
    """Load the autoencoder alone; arguments as for `load_codec`, and the digest that its tensors are added to."""
    with torch.device("meta"):
        autoencoder = build_dcae(folder)
    tensors = _read_tensors(folder, digest)
    _check(tensors, dcae_tensors(autoencoder), {}, folder)
    _assign(autoencoder, tensors, dcae.FLOAT32_LAYERS, device, dtype)
    return autoencoder


def load_vocoder(folder: Path, device: torch.device, dtype: torch.dtype, digest: "hashlib._Hash") -> Vocoder | MelGriffinLim:
    """Load the vocoder alone; arguments as for `load_codec`, and the digest that its tensors or parameters are added to."""
    config = read_vocoder_config(folder)
    if isinstance(config, GriffinLimConfig):
        if surplus := sorted(path.name for path in folder.glob("*.safetensors*")):
            raise CheckpointError(f"{folder}: {MelGriffinLim.class_name} has no weights, but here is {surplus[0]}")
        digest.update(f"{folder.name} {config}\n".encode())
        return MelGriffinLim(config, device)
    with torch.device("meta"):
        synthesizer = build_vocoder(config)
    tensors = _respell(_read_tensors(folder, digest))
    _check(tensors, vocoder_tensors(synthesizer), mel_tensors(synthesizer), folder)
    _assign(synthesizer, _fold_weight_norm(tensors), vocoder.FLOAT32_LAYERS, device, dtype)
    return synthesizer


def build_dcae(folder: Path) -> AutoencoderDC:
    """The autoencoder that a folder's config.json describes, on torch's default device, without its weights."""
    config = _without_private(_read_json(folder / "config.json"))
    try:
        autoencoder: AutoencoderDC = AutoencoderDC.from_config(config)
        dcae.check(autoencoder)
    except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError, RuntimeError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    autoencoder.eval().requires_grad_(False)
    return autoencoder


def read_vocoder_config(folder: Path) -> VocoderConfig | GriffinLimConfig:
    """The vocoder that a folder's config.json describes; its type says the kind. A config that names none is the official network's.

    Raises:
        CheckpointError: The kind is unknown, or its parameters make no vocoder.
    """
    path = folder / "config.json"
    values = _read_json(path)
    kind = values.get("_class_name", Vocoder.class_name)
    if not isinstance(kind, str) or kind not in _VOCODERS:
        raise CheckpointError(f"{path}: _class_name is {kind!r}; the known vocoders are {', '.join(_VOCODERS)}")
    try:
        config = _VOCODERS[kind](_without_private(values))
        if (config.mel.sample_rate, config.mel.hop_length, config.mel.n_mels) != (SAMPLE_RATE, HOP_LENGTH, NUM_MELS):
            raise ValueError(f"sampling_rate, hop_length and n_mels must be {SAMPLE_RATE}, {HOP_LENGTH} and {NUM_MELS}")
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return config


_VOCODERS: dict[str, Callable[[Mapping[str, Any]], VocoderConfig | GriffinLimConfig]] = {
    Vocoder.class_name: config_from_dict,
    MelGriffinLim.class_name: griffin_lim_config_from_dict,
}


def build_vocoder(config: VocoderConfig) -> Vocoder:
    """A neural vocoder on torch's default device, without its weights.

    Raises:
        CheckpointError: The config has impossible sizes.
    """
    try:
        return Vocoder(config).eval().requires_grad_(False)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{VOCODER_FOLDER}: {error}") from error


def dcae_tensors(autoencoder: AutoencoderDC) -> Shapes:
    """Names and shapes that its checkpoint must hold."""
    return {name: tuple(tensor.shape) for name, tensor in autoencoder.state_dict().items()}


def vocoder_tensors(synthesizer: Vocoder) -> Shapes:
    """Names and shapes that its checkpoint must hold: the head's convolutions carry weight normalisation over axis 0."""
    shapes: Shapes = {}
    for name, tensor in synthesizer.state_dict().items():
        if name.startswith("head.") and name.endswith(".weight"):
            shapes[name + "_g"] = (tensor.shape[0], 1, 1)
            shapes[name + "_v"] = tuple(tensor.shape)
        else:
            shapes[name] = tuple(tensor.shape)
    return shapes


def mel_tensors(synthesizer: Vocoder) -> Shapes:
    """Buffers of the mel front end that a vocoder's checkpoint may hold; they follow from the config and are not used."""
    mel = synthesizer.config.mel
    return {
        "mel_transform.spectrogram.window": (mel.win_length,),
        "mel_transform.mel_scale.fb": (mel.n_fft // 2 + 1, mel.n_mels),
    }


def _without_private(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return value


def _read_tensors(folder: Path, digest: "hashlib._Hash") -> dict[str, Tensor]:
    """Every tensor of a folder in the order of the names, each added to the digest under "folder/name"."""
    tensors: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  # not a mapping
                    if name in tensors:
                        raise CheckpointError(f"{path}: tensor {name} is in another file too")
                    tensors[name] = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: {error}") from error
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{folder.name}/{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    index = folder / (WEIGHTS_FILE + ".index.json")
    if (folder / WEIGHTS_FILE).exists() or not index.exists():
        return [folder / WEIGHTS_FILE]
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) and Path(name).name == name for name in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map must map tensors to file names")
    return [folder / name for name in sorted(set(weight_map.values()))]


def _check(tensors: Mapping[str, Tensor], required: Shapes, optional: Shapes, folder: Path) -> None:
    known = required | optional
    for name in required:
        if name not in tensors:
            raise CheckpointError(f"{folder}: tensor {name} is missing")
    for name, tensor in tensors.items():
        if name not in known:
            raise CheckpointError(f"{folder}: tensor {name} is unexpected")
        if tuple(tensor.shape) != known[name]:
            raise CheckpointError(f"{folder}: tensor {name} has shape {list(tensor.shape)}, expected {list(known[name])}")
        if not tensor.is_floating_point():
            raise CheckpointError(f"{folder}: tensor {name} is {tensor.dtype}, expected floating point")


def _respell(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weight normalisation as newer torch spells it, to weight_g and weight_v."""
    newer = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    respelled = {}
    for name, tensor in tensors.items():
        for suffix, older in newer.items():
            if name.endswith("." + suffix):
                name = name.removesuffix(suffix) + older
        respelled[name] = tensor
    return respelled


def _fold_weight_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold: weight = g * v / |v|, the norm over all axes but 0; the mel front end's buffers are dropped."""
    folded = {}
    for name, tensor in tensors.items():
        if name.endswith(".weight_v"):
            stem = name.removesuffix("_v")
            direction = tensor.float()
            folded[stem] = tensors[stem + "_g"].float() * direction / direction.norm(dim=(1, 2), keepdim=True)
        elif not name.endswith(".weight_g") and not name.startswith("mel_transform."):
            folded[name] = tensor
    return folded


def _assign(
    model: nn.Module, tensors: Mapping[str, Tensor], float32_layers: Sequence[str], device: torch.device, dtype: torch.dtype
) -> None:
    """Put the tensors in place of the model's meta tensors."""
    state = {
        name: tensor.to(device, torch.float32 if name.startswith(tuple(float32_layers)) else dtype) for name, tensor in tensors.items()
    }
    model.load_state_dict(state, strict=True, assign=True)
