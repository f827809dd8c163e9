"""A trainable transformer from a checkpoint folder, strictly, and back into one.

Only `ace_step_transformer` is read and written; the other networks of the folder are frozen while the transformer trains.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffusion_svc.weights import DEAD_PARTS, FOLDER, WEIGHTS_NAME, CheckpointError, assign_strictly, weight_files
from training.model import TrainableTransformer


def load_trainable(
    checkpoint: Path,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    gradient_checkpointing: bool = False,
) -> TrainableTransformer:
    """Build the trainable transformer and fill it; every parameter requires gradients, and the model is in training mode.

    Args:
        checkpoint: Folder in the official layout.
        device: Where the weights go; None: the CPU.
        dtype: Of the weights.
        gradient_checkpointing: As in `TrainableTransformer`.
    Raises:
        CheckpointError: A file is missing or unreadable; a tensor is missing, unexpected or misshapen.
    """
    folder = checkpoint / FOLDER
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        with torch.device("meta"):
            model = TrainableTransformer(config, gradient_checkpointing)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    assign_strictly(model, _read_tensors(folder, device or torch.device("cpu"), dtype), folder)
    return model.train()


def _read_tensors(folder: Path, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for path in weight_files(folder, WEIGHTS_NAME):
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    if not any(part in name for part in DEAD_PARTS):
                        # A copy: training must not write into memory that is mapped from the file.
                        yield name, file.get_tensor(name).to(dtype, copy=True)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: {error}") from error


def save_transformer(
    model: TrainableTransformer,
    checkpoint: Path,
    dtype: torch.dtype = torch.bfloat16,
    with_dead: bool = True,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write `ace_step_transformer` into a checkpoint folder; the folder appears when it is whole.

    Args:
        model: Without adapters: their names are no checkpoint's.
        checkpoint: Made if it does not exist.
        dtype: Of the file. The reference stores bfloat16.
        with_dead: Write zeros for the tensors that no computation reads, as loaders outside this project may ask for them. Our stages do
            not: a checkpoint that must be small leaves them out.
        weights: All of the model's, in their place; None: its own.
    Raises:
        FileExistsError: The checkpoint has a transformer already.
    """
    target = checkpoint / FOLDER
    if target.exists():
        raise FileExistsError(f"{target} exists")
    checkpoint.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in (weights or model.state_dict()).items()}
    if with_dead:
        state |= {name: torch.zeros(shape, dtype=dtype) for name, shape in dead_tensors(model).items()}
    with tempfile.TemporaryDirectory(dir=checkpoint, prefix=f".{FOLDER}-") as partial:
        folder = Path(partial) / FOLDER
        folder.mkdir()
        save_file(state, folder / WEIGHTS_NAME, metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(model.checkpoint_config, indent=2) + "\n", encoding="utf-8")
        os.rename(folder, target)


def dead_tensors(model: TrainableTransformer) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that the official file holds and no computation reads."""
    width = model.config.inner_dim
    return {
        f"transformer_blocks.{index}{part}{kind}": shape
        for index in range(model.config.num_layers)
        for part in DEAD_PARTS
        for kind, shape in (("weight", (width, width)), ("bias", (width,)))
    }
