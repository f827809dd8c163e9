"""A randomly initialised checkpoint in the official layout, tokenizers included. Its songs are noise: it serves demos, tests and training.

Every tensor is drawn from the seed and its own name, so equal seeds give equal files whatever the order of writing. Tensors are drawn and
written one at a time: `official` (8.8 GB) needs 1.2 GB of memory.
"""

import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderDC
from transformers import UMT5Config

from training import checkpoint_layout, init_tokenizers
from training.checkpoint_layout import TensorSpec

MAX_SHARD_BYTES = 2 * 1024**3
_DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class Architecture:
    """The configuration of each network, as its config.json says it."""

    transformer: Mapping[str, Any]
    umt5: Mapping[str, Any]
    dcae: Mapping[str, Any]
    vocoder: Mapping[str, Any]


_TRANSFORMER: dict[str, Any] = {
    "_class_name": "Transformer2DModel",
    "_diffusers_version": "0.27.2",
    "in_channels": 8,
    "num_layers": 24,
    "inner_dim": 2560,
    "attention_head_dim": 128,
    "num_attention_heads": 20,
    "mlp_ratio": 2.5,
    "out_channels": 8,
    "max_position": 32768,
    "rope_theta": 1000000.0,
    "speaker_embedding_dim": 512,
    "text_embedding_dim": 768,
    "ssl_encoder_depths": [8, 8],
    "ssl_names": ["mert", "m-hubert"],
    "ssl_latent_dims": [1024, 768],
    "patch_size": [16, 1],
    "max_height": 16,
    "max_width": 32768,
    "lyric_encoder_vocab_size": init_tokenizers.LYRIC_VOCABULARY_SIZE,
    "lyric_hidden_size": 1024,
}
_UMT5: dict[str, Any] = {"vocab_size": 256384, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12}
_DCAE: dict[str, Any] = {
    "in_channels": 2,
    "latent_channels": 8,
    "attention_head_dim": 32,
    "encoder_block_types": ["ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock"],
    "decoder_block_types": ["ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock"],
    "encoder_block_out_channels": [128, 256, 512, 1024],
    "decoder_block_out_channels": [128, 256, 512, 1024],
    "encoder_layers_per_block": [2, 2, 3, 3],
    "decoder_layers_per_block": [3, 3, 3, 3],
    "encoder_qkv_multiscales": [[], [], [5], [5]],
    "decoder_qkv_multiscales": [[], [], [5], [5]],
    "upsample_block_type": "interpolate",
    "downsample_block_type": "Conv",
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
    "scaling_factor": 0.41407,
}
_VOCODER: dict[str, Any] = {
    "_class_name": "ADaMoSHiFiGANV1",
    "_diffusers_version": diffusers.__version__,
    "input_channels": 128,
    "depths": [3, 3, 9, 3],
    "dims": [128, 256, 384, 512],
    "drop_path_rate": 0.0,
    "kernel_sizes": [7],
    "upsample_rates": [4, 4, 2, 2, 2, 2, 2],
    "upsample_kernel_sizes": [8, 8, 4, 4, 4, 4, 4],
    "resblock_kernel_sizes": [3, 7, 11, 13],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "num_mels": 512,
    "upsample_initial_channel": 1024,
    "use_template": False,
    "pre_conv_kernel_size": 13,
    "post_conv_kernel_size": 13,
    "sampling_rate": 44100,
    "n_fft": 2048,
    "win_length": 2048,
    "hop_length": 512,
    "f_min": 40,
    "f_max": 16000,
    "n_mels": 128,
}

ARCHITECTURES = {
    "official": Architecture(_TRANSFORMER, _UMT5, _DCAE, _VOCODER),
    # 8.0 M parameters. Six lyric blocks and twelve text blocks, as the weakened branches name blocks by number.
    "tiny": Architecture(
        _TRANSFORMER
        | {
            "num_layers": 6,
            "inner_dim": 192,
            "attention_head_dim": 32,
            "num_attention_heads": 6,
            "text_embedding_dim": 64,
            "ssl_encoder_depths": [2, 2],
            "ssl_latent_dims": [64, 48],
            "lyric_hidden_size": 64,
            "lyric_encoder_attention_heads": 4,
            "lyric_encoder_linear_units": 128,
            "lyric_encoder_num_blocks": 6,
        },
        _UMT5 | {"vocab_size": 1536, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4},
        _DCAE
        | {
            "attention_head_dim": 16,
            "encoder_block_out_channels": [8, 16, 16, 32],
            "decoder_block_out_channels": [8, 16, 16, 32],
            "encoder_layers_per_block": [1, 1, 1, 2],
            "decoder_layers_per_block": [2, 1, 1, 2],
        },
        _VOCODER
        | {
            "depths": [1, 1, 2, 1],
            "dims": [12, 16, 20, 24],
            "num_mels": 24,
            "resblock_kernel_sizes": [3, 7],
            "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
            "upsample_initial_channel": 128,
        },
    ),
}


def write_checkpoint(folder: Path, size: str, seed: int) -> None:
    """Write a checkpoint; the folder appears when it is whole.

    Args:
        folder: Must not exist, or be empty.
        size: A key of ARCHITECTURES.
        seed: The same seed gives the same bytes.
    Raises:
        FileExistsError: The folder holds something: a checkpoint is never overwritten.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    architecture = ARCHITECTURES[size]
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        partial.chmod(0o755)
        _write_transformer(partial / "ace_step_transformer", architecture.transformer, seed)
        _write_umt5(partial / "umt5-base", architecture.umt5, seed)
        write_dcae(partial / "music_dcae_f8c8", architecture.dcae, seed)
        write_vocoder(partial / "music_vocoder", architecture.vocoder, seed)
        (partial / "lyric_vocab.json").write_text(init_tokenizers.lyric_vocabulary(), encoding="utf-8")
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone after the rename


def _write_transformer(folder: Path, config: Mapping[str, Any], seed: int) -> None:
    folder.mkdir()
    _write_config(folder, config)
    write_weights(folder, "diffusion_pytorch_model", checkpoint_layout.transformer(config), seed, torch.bfloat16)


def _write_umt5(folder: Path, config: Mapping[str, Any], seed: int) -> None:
    umt5 = UMT5Config(**config, architectures=["UMT5EncoderModel"], feed_forward_proj="gated-gelu", dtype="float32")
    tokenizer = init_tokenizers.tags_tokenizer()
    assert len(tokenizer) <= umt5.vocab_size
    umt5.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_weights(folder, "model", checkpoint_layout.umt5(umt5), seed, torch.float32)


def write_dcae(folder: Path, config: Mapping[str, Any], seed: int) -> None:
    """Write a random DCAE of a configuration."""
    with torch.device("meta"):
        model: Any = AutoencoderDC(**config)  # type: ignore[no-untyped-call]
    model.save_config(folder)
    write_weights(folder, "diffusion_pytorch_model", checkpoint_layout.dcae(config), seed, torch.float32)


def write_vocoder(folder: Path, config: Mapping[str, Any], seed: int) -> None:
    """Write a random vocoder of a configuration, in a folder that does not exist."""
    folder.mkdir()
    _write_config(folder, config)
    write_weights(folder, "diffusion_pytorch_model", checkpoint_layout.vocoder(config), seed, torch.float32)


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_weights(
    folder: Path, stem: str, specs: Mapping[str, TensorSpec], seed: int, dtype: torch.dtype, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Draw the tensors of one folder into STEM.safetensors, or into shards with an index when they exceed a shard."""
    shards: list[list[str]] = [[]]
    sizes = {name: torch.Size(spec.shape).numel() * dtype.itemsize for name, spec in specs.items()}
    room = max_shard_bytes
    for name, num_bytes in sizes.items():
        if num_bytes > room and shards[-1]:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(name)
        room -= num_bytes
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"{stem}.safetensors" if len(shards) == 1 else f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_safetensors(folder / file, {name: specs[name] for name in names}, seed, dtype)
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_safetensors(path: Path, specs: Mapping[str, TensorSpec], seed: int, dtype: torch.dtype) -> None:
    """The library's writer wants all tensors of a file at once; this one holds one at a time."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, spec in specs.items():
        start, end = end, end + torch.Size(spec.shape).numel() * dtype.itemsize
        header[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": spec.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, spec in specs.items():
            tensor = draw(spec, f"{path.parent.name}/{name}", seed).to(dtype)
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def draw(spec: TensorSpec, name: str, seed: int) -> torch.Tensor:
    """The values of one tensor, float32, from the seed and the tensor's name."""
    if spec.table is not None:
        return spec.table()
    if spec.std == 0:
        return torch.full(spec.shape, spec.mean)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    return torch.empty(spec.shape).normal_(spec.mean, spec.std, generator=generator)
