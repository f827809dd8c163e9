"""Adapters (LoRA) in training, by PEFT: put into a network, and written as the folder that the services load.

<name>/pytorch_lora_weights.safetensors   A and B of every adapted layer; the header says rank and alpha
<name>/adapter.json                       the configuration, for people and for going on
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
CONFIG_NAME = "adapter.json"
METADATA = "lora_adapter_metadata"
"""Of the file's header, as diffusers names it."""
USABLE: Mapping[str, tuple[type, ...]] = {
    "r": (int,),
    "lora_alpha": (int, float),
    "use_rslora": (bool,),
    "lora_dropout": (int, float),
    "target_modules": (list, str),
    "exclude_modules": (list, str),
    "rank_pattern": (dict,),
    "alpha_pattern": (dict,),
    "init_lora_weights": (bool, str),
}
"""What such a file can say: the rest of PEFT's settings changes what an adapter is, and the layout has no place for that."""
HARMLESS = {"peft_type": "LORA", "bias": "none", "inference_mode": False, "use_dora": False, "fan_in_fan_out": False}
"""Allowed with these values, and with null: what PEFT writes beside them."""


class LoraConfigError(ValueError):
    """A configuration cannot be used; the message names the file and the setting."""


def read_lora_config(path: Path) -> dict[str, Any]:
    """Settings of a `peft.LoraConfig` from JSON, as users of the reference have them.

    Raises:
        LoraConfigError: The file is missing or no JSON object; a setting is unknown here, or has a value that adapters cannot have.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoraConfigError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise LoraConfigError(f"{path}: not a JSON object")
    settings: dict[str, Any] = {}
    for name, value in values.items():
        if name in USABLE and type(value) in USABLE[name]:
            settings[name] = value
        elif name in USABLE:
            types = " or ".join(kind.__name__ for kind in USABLE[name])
            raise LoraConfigError(f"{path}: {name} is {value!r}; it must be of type {types}")
        elif value is not None and value not in ([], {}) and value != HARMLESS.get(name, ...):
            raise LoraConfigError(f"{path}: {name} is {value!r}; an adapter's settings are {', '.join(USABLE)}")
    if settings.get("r", 1) < 1:
        raise LoraConfigError(f"{path}: r is {settings['r']}; it must be 1 or more")
    if not settings.get("target_modules"):
        raise LoraConfigError(f"{path}: target_modules is missing: names of layers, such as to_q")
    return settings


def add_adapter(model: nn.Module, settings: Mapping[str, Any]) -> None:
    """Freeze a network and put an adapter into it, in float32, that changes nothing yet.

    Args:
        model: Changed in place.
        settings: Of a `peft.LoraConfig`.
    Raises:
        LoraConfigError: No layer has such a name, or one is not linear.
    """
    # Convolutions are computed from their weights, not by calling them: what PEFT wraps around them would never be asked.
    kinds = {name: type(module).__name__ for name, module in model.named_modules() if not isinstance(module, nn.Linear)}
    model.requires_grad_(False)
    try:
        inject_adapter_in_model(LoraConfig(**settings), model)
    except ValueError as error:
        raise LoraConfigError(str(error)) from error
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and name in kinds:
            raise LoraConfigError(f"target_modules {settings['target_modules']} name {name}, a {kinds[name]}; allowed: linear layers")
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def adapter_state(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the adapter under the names of the layout.

    Args:
        model: With the adapter.
        tensors: Of its trained parameters, by the names that they have there.
    """
    state: dict[str, Tensor] = get_peft_model_state_dict(model, state_dict=dict(tensors))
    return state


def save_adapter(folder: Path, state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
    """Write an adapter's folder; it appears when it is whole.

    Args:
        folder: Must not exist. Its name is the adapter's.
        state: Of `adapter_state`.
        settings: What it was made with.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    config = dataclasses.asdict(LoraConfig(**settings))
    about = {name: config[name] for name in ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")}
    about["target_modules"] = settings["target_modules"]
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as partial:
        whole = Path(partial) / folder.name
        whole.mkdir()
        tensors = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in state.items()}
        save_file(tensors, whole / WEIGHTS_NAME, metadata={"format": "pt", METADATA: json.dumps(about)})
        (whole / CONFIG_NAME).write_text(json.dumps(dict(settings), indent=2) + "\n", encoding="utf-8")
        os.rename(whole, folder)
