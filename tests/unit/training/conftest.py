"""A small random transformer checkpoint, and a batch for it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from training import checkpoint_layout
from training.conditions import Conditions
from training.init_checkpoint import ARCHITECTURES, write_checkpoint, write_weights

CONFIG: dict[str, Any] = ARCHITECTURES["tiny"].transformer | {
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "speaker_embedding_dim": 6,
    "text_embedding_dim": 12,
    "ssl_encoder_depths": [2, 0],
    "ssl_latent_dims": [10, 7],
    "lyric_encoder_vocab_size": 30,
    "lyric_hidden_size": 16,
    "lyric_encoder_attention_heads": 2,
    "lyric_encoder_linear_units": 24,
    "lyric_encoder_num_blocks": 2,
}


@dataclass(frozen=True)
class Batch:
    """Two songs: the first has frames, text and lyrics to spare."""

    latents: Tensor
    noise: Tensor
    conditions: Conditions
    frame_mask: Tensor
    features: list[list[Tensor]]


WriteTransformer = Callable[[Path, dict[str, Any]], Path]


@pytest.fixture(scope="session")
def write_transformer() -> WriteTransformer:
    def write(checkpoint: Path, config: dict[str, Any]) -> Path:
        folder = checkpoint / "ace_step_transformer"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        write_weights(folder, "diffusion_pytorch_model", checkpoint_layout.transformer(config), 0, torch.float32)
        return checkpoint

    return write


@pytest.fixture(scope="session")
def config() -> dict[str, Any]:
    return dict(CONFIG)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, write_transformer: WriteTransformer) -> Path:
    return write_transformer(tmp_path_factory.mktemp("training") / "checkpoint", CONFIG)


@pytest.fixture(scope="session")
def make_batch() -> Callable[[dict[str, Any]], Batch]:
    def make(config: dict[str, Any]) -> Batch:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        mask = torch.ones(2, 5, dtype=torch.int64)
        mask[1, 3:] = 0
        lyric_mask = torch.ones(2, 7, dtype=torch.int64)
        lyric_mask[1, 4:] = 0
        conditions = Conditions(
            text=draw(2, 5, config["text_embedding_dim"]),
            text_mask=mask,
            speaker=draw(2, config["speaker_embedding_dim"]),
            lyric_ids=torch.randint(config["lyric_encoder_vocab_size"], (2, 7), generator=generator) * lyric_mask,
            lyric_mask=lyric_mask,
        )
        frame_mask = torch.ones(2, 13)
        frame_mask[1, 9:] = 0
        features = [[draw(21, channels), draw(6, channels)] for channels in config["ssl_latent_dims"]]
        return Batch(draw(2, 8, 16, 13), draw(2, 8, 16, 13), conditions, frame_mask, features)

    return make


@pytest.fixture(scope="session")
def batch(make_batch: Callable[[dict[str, Any]], Batch]) -> Batch:
    return make_batch(CONFIG)


@pytest.fixture(scope="session")
def full_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every network and tokenizer, tiny and random."""
    folder = tmp_path_factory.mktemp("training") / "full"
    write_checkpoint(folder, "tiny", 0)
    return folder


WriteTone = Callable[..., Path]


@pytest.fixture(scope="session")
def write_tone() -> WriteTone:
    """Write a sine of some frequency; what the path ends with is the format."""

    def write(path: Path, seconds: float = 1.0, rate: int = 8000, hertz: float = 440.0, gain: float = 0.3) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        times = np.arange(round(seconds * rate)) / rate
        soundfile.write(path, (gain * np.sin(2 * np.pi * hertz * times)).astype(np.float32), rate)
        return path

    return write
