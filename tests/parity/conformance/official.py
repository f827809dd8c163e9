"""The official checkpoint by names and shapes: every tensor is taken by a stage, or known to be left out."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_svc.model.config import TransformerConfig
from diffusion_svc.model.transformer import Transformer
from diffusion_svc.weights import DEAD_PARTS, TRAINING_PREFIXES
from encoder_svc.weights import consumed_tensors
from vae_svc.model.vocoder_config import VocoderConfig
from vae_svc.weights import build_dcae, build_vocoder, dcae_tensors, mel_tensors, read_vocoder_config, vocoder_tensors

Shapes = dict[str, tuple[int, ...]]


def cases(folder: Path) -> Iterator[tuple[str, Callable[[], Mapping[str, Tensor]], Mapping[str, Tensor]]]:
    """Name, shapes that we expect of the checkpoint, shapes that it has; each shape as a tensor."""
    recorded = json.loads((folder / "official_state_dict.json").read_text())
    names = _shapes(recorded["tensors"])
    yield "official.transformer", lambda: _as_tensors(_transformer(recorded["config"], names)), _as_tensors(names)
    codec = json.loads((folder / "official_state_dict_codec.json").read_text())
    for part in ("music_dcae_f8c8", "music_vocoder"):
        expected = _shapes(codec[part]["tensors"])
        yield (
            f"official.{part}",
            lambda part=part, expected=expected: _as_tensors(_codec(part, codec[part]["config"], expected)),
            _as_tensors(expected),
        )


def _shapes(tensors: Mapping[str, Any]) -> Shapes:
    """Shapes stand alone or beside a type."""
    return {name: tuple(entry["shape"] if isinstance(entry, dict) else entry) for name, entry in tensors.items()}


def _as_tensors(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.tensor(shape) for name, shape in shapes.items()} | {"number of tensors": torch.tensor(len(shapes))}


def _transformer(config: Mapping[str, object], recorded: Shapes) -> Shapes:
    with torch.device("meta"):
        taken = Transformer(TransformerConfig.from_json(config)).state_dict()
    left_out = {
        name: shape for name, shape in recorded.items() if name.startswith(TRAINING_PREFIXES) or any(part in name for part in DEAD_PARTS)
    }
    return {name: tuple(tensor.shape) for name, tensor in taken.items()} | consumed_tensors(config) | left_out


def _codec(part: str, config: Mapping[str, object], recorded: Shapes) -> Shapes:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        if part == "music_dcae_f8c8":
            return dict(dcae_tensors(build_dcae(Path(folder))))
        parsed = read_vocoder_config(Path(folder))
        assert isinstance(parsed, VocoderConfig)
        vocoder = build_vocoder(parsed)
        return dict(vocoder_tensors(vocoder)) | {name: shape for name, shape in mel_tensors(vocoder).items() if name in recorded}
