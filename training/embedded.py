"""The checkpoint that ships with the project, before its transformer is trained: what can be had in closed form.

The codec is a principal component analysis of the corpus, the vocoder needs no weights, and the text encoder's residual branches are
silent, so that its states are fixed embeddings of the tags, one token each, on which the transformer's first layer can learn anything.
"""

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import UMT5Config

from diffusion_svc.sampling_defaults import FILE as SAMPLING_FILE
from encoder_svc.known_tags import FILE as KNOWN_TAGS_FILE
from training import checkpoint_layout, closed_form_codec, init_tokenizers
from training.corpus.genres import BEAT_FRAMES, GENRES, INSTRUMENTS, bpm_of
from training.corpus.labels import SCORE_COLUMNS
from training.corpus.lyrics import all_lines
from training.corpus.song import KEY_NAMES, PHONES
from training.init_checkpoint import ARCHITECTURES, draw
from vae_svc.model.griffin_lim_config import GriffinLimConfig

SCORE, PHONE = "score", "phones"
"""Projection targets of the corpus, in the place of the official model's MERT and mHuBERT."""
SILENT_BRANCHES = (".SelfAttention.o.weight", ".DenseReluDense.wo.weight")
ZERO_AT_START = ("final_layer.linear", ".cross_attn.to_out.0")
"""Layers that start at zero: the untrained network says nothing, and reads its conditions only once it has learnt to."""

TRANSFORMER: dict[str, Any] = dict(ARCHITECTURES["official"].transformer) | {
    "num_layers": 8,
    "inner_dim": 256,
    "attention_head_dim": 64,
    "num_attention_heads": 4,
    # 32 periods from 6 frames to 545: the official base spends most of its 64 on lengths that this model never sees.
    "rope_theta": 100.0,
    "text_embedding_dim": 192,
    "ssl_encoder_depths": [3, 3],
    "ssl_names": [SCORE, PHONE],
    "ssl_latent_dims": [len(SCORE_COLUMNS), len(PHONES)],
    "lyric_hidden_size": 128,
    "lyric_encoder_attention_heads": 4,
    "lyric_encoder_linear_units": 256,
    "lyric_encoder_num_blocks": 6,
}
SAMPLING = {
    "infer_step": 30,
    "guidance_scale": 1.5,
    "cfg_type": "CFG_TYPE_CFG",
    "omega_scale": 0.0,
    "guidance_interval": 1.0,
    "use_erg_tag": False,
    "use_erg_lyric": False,
    "use_erg_diffusion": False,
}
"""What it is best sampled with: plain guidance against what dropout trains."""
UMT5: dict[str, Any] = {"d_model": 192, "d_kv": 16, "d_ff": 32, "num_layers": 2, "num_heads": 2}


SYNONYMS = {
    "hip-hop": "hip hop",
    "rap": "hip hop",
    "edm": "electronic",
    "techno": "electronic",
    "house": "electronic",
    "soul": "funk",
    "db major": "C# major",
    "db minor": "C# minor",
    "d# major": "Eb major",
    "d# minor": "Eb minor",
    "gb major": "F# major",
    "gb minor": "F# minor",
    "g# major": "Ab major",
    "g# minor": "Ab minor",
    "a# major": "Bb major",
    "a# minor": "Bb minor",
    "female voice": "female vocals",
    "male voice": "male vocals",
    "e-piano": "electric piano",
    "guitar": "acoustic guitar",
    "electric guitar": "overdriven guitar",
    "sax": "saxophone",
    "drum": "drums",
    "instrumental only": "instrumental",
}
"""Words that users of the official model say for what the corpus has."""


def tag_groups() -> list[list[str]]:
    """Every tag of the corpus, in the order of a prompt: genres, tempi, keys, instruments, drums, voices, moods."""
    groups = [
        list(GENRES),
        [f"{bpm_of(beat_frames)} bpm" for beat_frames in BEAT_FRAMES],
        [f"{name} {mode}" for name in KEY_NAMES for mode in ("major", "minor")],
        list(INSTRUMENTS),
        ["drums"],
        ["female vocals", "male vocals", "instrumental"],
        [mood for genre in GENRES.values() for mood in genre.moods],
    ]
    first_group = {tag: index for index, group in reversed(list(enumerate(groups))) for tag in group}
    return [[tag for tag in dict.fromkeys(group) if first_group[tag] == index] for index, group in enumerate(groups)]


def known_tags() -> tuple[str, ...]:
    """The same in one list."""
    return tuple(tag for group in tag_groups() for tag in group)


def write_untrained(folder: Path, images: Iterable[Tensor], seed: int) -> closed_form_codec.ClosedFormCodec:
    """Write the checkpoint; the folder appears when it is whole.

    Args:
        folder: Must not exist.
        images: Normalised log-mels of songs, [2, 128, F], for the codec.
        seed: Of the transformer and of the embeddings of the tags.
    Returns:
        The codec.
    Raises:
        FileExistsError: The folder exists.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        partial.chmod(0o755)
        codec = closed_form_codec.fit(images)
        closed_form_codec.write(codec, partial)
        closed_form_codec.write_griffin_lim(GriffinLimConfig(), partial)
        _write_text_encoder(partial / "umt5-base", seed)
        _write_transformer(partial / "ace_step_transformer", seed)
        (partial / "lyric_vocab.json").write_text(
            init_tokenizers.lyric_vocabulary("\n".join(line for _, line in all_lines())), encoding="utf-8"
        )
        (partial / SAMPLING_FILE).write_text(json.dumps(SAMPLING, indent=1) + "\n", encoding="utf-8")
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone after the rename
    return codec


def _write_text_encoder(folder: Path, seed: int) -> None:
    tokenizer = init_tokenizers.tag_list_tokenizer(known_tags())
    config = UMT5Config(
        **UMT5, vocab_size=len(tokenizer), architectures=["UMT5EncoderModel"], feed_forward_proj="gated-gelu", dtype="float16"
    )
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    listed = json.dumps({"groups": tag_groups(), "synonyms": SYNONYMS}, indent=1)
    (folder / KNOWN_TAGS_FILE).write_text(listed + "\n", encoding="utf-8")
    tensors = {
        name: torch.zeros(spec.shape) if name.endswith(SILENT_BRANCHES) else draw(spec, f"umt5/{name}", seed)
        for name, spec in checkpoint_layout.umt5(config).items()
    }
    _save(tensors, folder / "model.safetensors")


def _write_transformer(folder: Path, seed: int) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TRANSFORMER, indent=2) + "\n", encoding="utf-8")
    tensors = {}
    for name, spec in checkpoint_layout.transformer(TRANSFORMER).items():
        layer = name.rpartition(".")[0]
        if ".cross_attn.add_" in name or ".to_add_out" in name:
            continue  # no computation reads them
        tensors[name] = torch.zeros(spec.shape) if layer.endswith(ZERO_AT_START) else draw(spec, f"transformer/{name}", seed)
    _save(tensors, folder / "diffusion_pytorch_model.safetensors")


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
