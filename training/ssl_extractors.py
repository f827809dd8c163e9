"""Audio encoders from folders, as extractors of `training/ssl_features.py`. Only safetensors are read, and no code that lies there runs."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel

from training.ssl_features import Extractor


class ExtractorError(ValueError):
    """A folder holds no encoder that can be used."""


def load_extractor(folder: Path, device: torch.device) -> Extractor:
    """Load an encoder, as MERT or mHuBERT.

    Args:
        folder: config.json and model.safetensors of a class that transformers itself has.
        device: Where it runs, in float32.
    Returns:
        Its last hidden state.
    Raises:
        ExtractorError: Files are missing, unreadable or pickled, or the architecture needs code of its own.
    """
    try:
        model: Any = AutoModel.from_pretrained(str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ExtractorError(f"{folder}: {error}") from error
    model = model.to(device, torch.float32).eval().requires_grad_(False)

    def extract(chunks: Tensor) -> Tensor:
        states: Tensor = model(chunks.to(device)).last_hidden_state
        return states.cpu()

    return extract
