"""The transformer checkpoint's keys to this stage's modules.

One file holds the transformer, the lyric encoder and what only training uses. This stage takes the transformer; the rest must be
known by name.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from diffusion_svc.model.config import TransformerConfig
from diffusion_svc.model.transformer import Transformer

FOLDER = "ace_step_transformer"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
ENCODER_PREFIXES = ("lyric_embs.", "lyric_encoder.")  # the encoder stage's
TRAINING_PREFIXES = ("projectors.",)
# Created with the attention class of the reference and never applied.
DEAD_PARTS = (".cross_attn.add_q_proj.", ".cross_attn.add_k_proj.", ".cross_attn.add_v_proj.", ".cross_attn.to_add_out.")


class CheckpointError(ValueError):
    """A checkpoint lacks a tensor or a file, has one too many, or one of another shape."""


def is_skipped(name: str) -> bool:
    """Whether a tensor of the transformer file is known but not this stage's: the encoder's, training's, or never used."""
    return name.startswith(ENCODER_PREFIXES + TRAINING_PREFIXES) or any(part in name for part in DEAD_PARTS)


def read_config(checkpoint: Path) -> TransformerConfig:
    """Architecture from ace_step_transformer/config.json.

    Raises:
        CheckpointError: The file is missing, is no JSON, or describes another network.
    """
    path = checkpoint / FOLDER / "config.json"
    try:
        return TransformerConfig.from_json(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def load_transformer(checkpoint: Path, device: torch.device, dtype: torch.dtype) -> Transformer:
    """Build the transformer and fill it strictly, each tensor read straight into the wanted type and device.

    Args:
        checkpoint: Folder in the official layout.
        device: Where the weights go.
        dtype: Compute type.
    Raises:
        CheckpointError: A tensor is missing, unexpected or misshapen; the message names it and the file.
    """
    with torch.device("meta"):
        model = Transformer(read_config(checkpoint))
    assign_strictly(model, _read_tensors(checkpoint / FOLDER, device, dtype), checkpoint / FOLDER)
    return model.requires_grad_(False).eval()


def assign_strictly(model: nn.Module, tensors: Iterator[tuple[str, Tensor]], source: Path) -> None:
    """Replace every parameter and buffer of a module on the meta device.

    Raises:
        CheckpointError: A tensor is missing, unexpected or misshapen.
    """
    expected: Mapping[str, Tensor] = model.state_dict()
    state: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if name not in expected:
            raise CheckpointError(f"{source}: unexpected tensor {name}")
        if tensor.shape != expected[name].shape:
            raise CheckpointError(f"{source}: {name} has shape {list(tensor.shape)}, not {list(expected[name].shape)}")
        state[name] = tensor
    missing = sorted(expected.keys() - state.keys())
    if missing:
        raise CheckpointError(f"{source}: {len(missing)} tensors are missing, first {missing[0]}")
    model.load_state_dict(state, assign=True)


def _read_tensors(folder: Path, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for path in weight_files(folder, WEIGHTS_NAME):
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name in file.offset_keys():
                    if not is_skipped(name):
                        yield name, file.get_tensor(name).to(dtype)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: {error}") from error


def weight_files(folder: Path, name: str) -> list[Path]:
    """The one safetensors file of that name, or the shards that its index names.

    Raises:
        CheckpointError: Neither is there, or the index is broken or points outside the folder.
    """
    index = folder / f"{name}.index.json"
    if not index.exists():
        return [folder / name]
    try:
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index}: {error!r}") from error
    if any(Path(shard).name != shard or not shard.endswith(".safetensors") for shard in shards):
        raise CheckpointError(f"{index}: a shard is not a safetensors file of this folder")
    return [folder / shard for shard in shards]


def model_digest(model: nn.Module) -> str:
    """SHA-256 over name, type, shape and bytes of every tensor, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
