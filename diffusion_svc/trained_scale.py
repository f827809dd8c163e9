"""The scale that an adapter was trained with, as its file states it: alpha over the rank, or over its root when rank-stabilised.

lora_adapter_metadata   entry of the safetensors header, JSON of the training: lora_alpha, use_rslora, alpha_pattern
<module>.alpha          tensor of one number beside the factors; wins over the header's alpha
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

METADATA_KEY = "lora_adapter_metadata"


def trained_scales(header: Mapping[str, str], ranks: Mapping[str, int], alphas: Mapping[str, Sequence[float]]) -> Mapping[str, float]:
    """Scale of each module.

    Args:
        header: Metadata of the safetensors header.
        ranks: Rank of each module.
        alphas: Values of the alpha tensor of each module that has one.
    Raises:
        ValueError: The file does not state the scale of every module, or not as numbers.
    """
    config = _config(header)
    rank_stabilised = bool(config.get("use_rslora", False))
    scales = {}
    for module, rank in ranks.items():
        stated = alphas[module] if module in alphas else [_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha"))]
        alpha = stated[0] if len(stated) == 1 else stated
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise ValueError(f"alpha of {module} is {alpha!r}, not a number")
        scales[module] = alpha / (math.sqrt(rank) if rank_stabilised else rank)
    return scales


def _config(header: Mapping[str, str]) -> Mapping[str, Any]:
    """The header's entry; writers that serve several networks put the network's name before each field."""
    if METADATA_KEY not in header:
        return {}
    try:
        config = json.loads(header[METADATA_KEY])
    except json.JSONDecodeError as error:
        raise ValueError(f"{METADATA_KEY} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{METADATA_KEY} is no JSON object")
    return {name.removeprefix("transformer."): value for name, value in config.items()}


def _pattern(patterns: Any, module: str, default: Any) -> Any:
    """The value whose pattern, a module's name or the end of its path, fits; the default where none does."""
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?{re.escape(pattern)}", module):
            return value
    return default
