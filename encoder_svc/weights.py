"""Checkpoint files to this stage's modules, strictly: a missing, unexpected or misshapen tensor stops the start.

The transformer's file is shared with the diffusion stage: what is known to be that stage's is left alone, anything else is an error.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import UMT5Config

from encoder_svc.model.lyric_encoder import LyricEncoder, LyricEncoderConfig
from encoder_svc.model.text_encoder import TextEncoder

TRANSFORMER_FOLDER = "ace_step_transformer"
TEXT_FOLDER = "umt5-base"
OWN_PREFIXES = frozenset({"lyric_embs", "lyric_encoder"})
DIFFUSION_PREFIXES = frozenset(
    {
        "transformer_blocks",
        "projectors",
        "lyric_proj",
        "t_block",
        "timestep_embedder",
        "proj_in",
        "genre_embedder",
        "speaker_embedder",
        "final_layer",
    }
)
TEXT_EMBEDDING_NAMES = ("shared.weight", "encoder.embed_tokens.weight")
"""One tensor under two names; a file may hold either or both."""


class CheckpointError(ValueError):
    """A file of the checkpoint is missing, unreadable, or is not what its config says."""


class _TensorFiles:
    """The tensors of one safetensors file, or of the shards that its index names."""

    def __init__(self, folder: Path, stem: str, device: torch.device) -> None:
        single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
        listed: dict[str, str] = {}
        if single.is_file():
            paths = [single]
        elif index.is_file():
            listed = read_json(index).get("weight_map", {})
            if any(Path(name).name != name for name in listed.values()):
                raise CheckpointError(f"{index} names a shard outside its folder")
            paths = [folder / name for name in sorted(set(listed.values()))]
        else:
            pickled = [path.name for path in sorted(folder.glob("*.bin"))]
            remark = f" ({', '.join(pickled)} is there, but only safetensors are read)" if pickled else ""
            raise CheckpointError(f"{single} is missing{remark}")
        self._open = ExitStack()
        self._home: dict[str, tuple[Path, Any]] = {}
        for path in paths:
            try:
                opened = self._open.enter_context(safe_open(str(path), framework="pt", device=str(device)))
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path} cannot be read: {error}") from error
            self._home.update(dict.fromkeys(opened.keys(), (path, opened)))
        for name, file_name in listed.items():
            if name not in self._home:
                raise CheckpointError(f"{index} lists {name}, which {file_name} does not hold")

    def __enter__(self) -> "_TensorFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __contains__(self, name: object) -> bool:
        return name in self._home

    def __iter__(self) -> Iterator[str]:
        return iter(self._home)

    def path(self, name: str) -> Path:
        """File that holds the tensor."""
        return self._home[name][0]

    def read(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The tensor, checked against the shape that the config asks for."""
        path, opened = self._home[name]
        found = tuple(opened.get_slice(name).get_shape())
        if found != shape:
            raise CheckpointError(f"{name} in {path} has shape {list(found)}, the config asks for {list(shape)}")
        tensor: torch.Tensor = opened.get_tensor(name)
        if not tensor.is_floating_point():
            raise CheckpointError(f"{name} in {path} holds {tensor.dtype}, expected floating-point values")
        return tensor.to(dtype)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: The file is missing or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return value


def consumed_tensors(transformer_config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that this stage takes out of the transformer's file."""
    with torch.device("meta"):
        module = LyricEncoder(LyricEncoderConfig.from_transformer_config(transformer_config))
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def load_lyric_encoder(checkpoint: Path, device: torch.device, dtype: torch.dtype) -> LyricEncoder:
    """Build the lyric encoder from its part of the transformer's file.

    Args:
        checkpoint: Folder in the official layout.
        device: Where the weights go.
        dtype: What they are converted to while they are read.
    Returns:
        The module in evaluation mode, without gradients.
    Raises:
        CheckpointError: A file is missing or unreadable, a tensor missing, misshapen, or of no known stage.
    """
    folder = checkpoint / TRANSFORMER_FOLDER
    config_path = folder / "config.json"
    try:
        config = LyricEncoderConfig.from_transformer_config(read_json(config_path))
    except CheckpointError:
        raise
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{config_path}: {error}") from error
    with torch.device("meta"):
        module = LyricEncoder(config)
    with _TensorFiles(folder, "diffusion_pytorch_model", device) as files:
        for name in files:
            top = name.split(".", 1)[0]
            if top in OWN_PREFIXES and name in module.state_dict():
                continue
            if top not in DIFFUSION_PREFIXES:
                raise CheckpointError(f"{name} in {files.path(name)} belongs to no stage")
        _assign(module, files, dtype, folder)
    return module.eval().requires_grad_(False)


def load_text_encoder(checkpoint: Path, device: torch.device, dtype: torch.dtype) -> TextEncoder:
    """Build the text encoder from `umt5-base`. Arguments, result and errors as in `load_lyric_encoder`."""
    folder = checkpoint / TEXT_FOLDER
    config_path = folder / "config.json"
    values = read_json(config_path)
    if values.get("model_type") != "umt5":
        raise CheckpointError(f"{config_path} is of model_type {values.get('model_type')!r}, expected 'umt5'")
    try:
        with torch.device("meta"):
            module = TextEncoder(UMT5Config.from_dict(values))
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{config_path}: {error}") from error
    umt5 = module.umt5
    umt5.encoder.embed_tokens = umt5.shared  # one module under both names, so that one tensor serves both
    with _TensorFiles(folder, "model", device) as files:
        names = set(umt5.state_dict())
        for name in files:
            if name not in names:
                raise CheckpointError(f"{name} in {files.path(name)} is not part of the text encoder")
        _assign(umt5, files, dtype, folder)
        if all(name in files for name in TEXT_EMBEDDING_NAMES):
            shared, tied = (files.read(name, tuple(umt5.shared.weight.shape), dtype) for name in TEXT_EMBEDDING_NAMES)
            if not torch.equal(shared, tied):
                raise CheckpointError(f"{' and '.join(TEXT_EMBEDDING_NAMES)} in {folder} differ")
    return module.eval().requires_grad_(False)


def _assign(module: nn.Module, files: _TensorFiles, dtype: torch.dtype, folder: Path) -> None:
    """Read every parameter of a module built on the meta device."""
    tensors = {}
    for name, parameter in module.named_parameters():
        source = name
        if name == TEXT_EMBEDDING_NAMES[0] and name not in files:
            source = TEXT_EMBEDDING_NAMES[1]
        if source not in files:
            raise CheckpointError(f"{name} is missing in {folder}")
        tensors[name] = files.read(source, tuple(parameter.shape), dtype)
    incompatible = module.load_state_dict(tensors, strict=False, assign=True)  # tied names are not repeated in `tensors`
    assert not incompatible.unexpected_keys
    assert not any(tensor.is_meta for tensor in module.state_dict().values())


def model_digest(modules: Mapping[str, nn.Module]) -> str:
    """SHA-256 over the sorted (name, dtype, shape, bytes) of all parameters, their names under the names of their modules."""
    digest = hashlib.sha256()
    tensors = {f"{prefix}/{name}": tensor for prefix, module in modules.items() for name, tensor in module.named_parameters()}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
