"""The recorded checkpoint, loaded through the stages' own weights.py on first use."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from diffusion_svc.model.transformer import Transformer
from diffusion_svc.weights import load_transformer
from encoder_svc.encoder import PromptEncoder
from training.checkpoint import load_trainable
from training.model import TrainableTransformer
from vae_svc.codec import Codec
from vae_svc.weights import load_codec

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Checkpoint:
    """Stages of a checkpoint folder in one compute type."""

    folder: Path
    dtype: torch.dtype = torch.float32

    @cached_property
    def transformer(self) -> Transformer:
        """The diffusion stage's network."""
        return load_transformer(self.folder, CPU, self.dtype)

    @cached_property
    def trainable(self) -> TrainableTransformer:
        """The trainer's network, without dropout."""
        return load_trainable(self.folder, CPU, self.dtype).eval()

    @cached_property
    def encoder(self) -> PromptEncoder:
        """The encoder stage."""
        return PromptEncoder.load(self.folder, CPU, self.dtype)

    @cached_property
    def codec(self) -> Codec:
        """The codec stage."""
        return load_codec(self.folder, CPU, self.dtype).codec
