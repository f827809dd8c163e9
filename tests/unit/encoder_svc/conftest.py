"""A tiny random checkpoint in the official layout: the encoder's parts of it, and a few tensors of the diffusion stage."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import UMT5Config, UMT5EncoderModel

from encoder_svc.encoder import PromptEncoder
from encoder_svc.lyrics.vocabulary import STRUCTURE_TAGS
from encoder_svc.model.lyric_encoder import LyricEncoder, LyricEncoderConfig
from tests.tiny_lyrics import write_multilingual_vocabulary

TRANSFORMER_CONFIG = {
    "lyric_encoder_vocab_size": 120,
    "lyric_hidden_size": 16,
    "lyric_encoder_attention_heads": 2,
    "lyric_encoder_linear_units": 24,
    "lyric_encoder_num_blocks": 6,
}
UMT5_CONFIG = {
    "model_type": "umt5",
    "vocab_size": 100,
    "d_model": 24,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 11,
    "num_heads": 3,
    "feed_forward_proj": "gated-gelu",
}
LETTERS = "abcdefghijklmnopqrstuvwxyzéñ!'(),-.?"


@pytest.fixture
def write_lyric_vocabulary() -> Callable[..., None]:
    """Write a lyric vocabulary with letters, two merges and the special tokens, some of which may be left out."""

    def write(path: Path, without: tuple[str, ...] = (), more_letters: str = "") -> None:
        specials = [name for name in ("[STOP]", "[UNK]", "[SPACE]", "[en]", "[START]", *STRUCTURE_TAGS) if name not in without]
        vocabulary = {name: index for index, name in enumerate([*specials, *LETTERS, "oh", "la", *more_letters])}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("o", "h"), ("l", "a")], unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in specials])
        tokenizer.save(str(path))

    return write


@pytest.fixture(scope="session")
def multilingual_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lyric vocabulary of every language."""
    path = tmp_path_factory.mktemp("vocabulary") / "lyric_vocab.json"
    write_multilingual_vocabulary(path)
    return path


def _write_text_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(
        models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -1.0) for letter in "▁" + LETTERS)], unk_id=2)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture
def checkpoint(tmp_path: Path, write_lyric_vocabulary: Callable[..., None]) -> Path:
    """Folder of a tiny checkpoint, free to be spoiled."""
    torch.manual_seed(0)
    transformer, umt5 = tmp_path / "ace_step_transformer", tmp_path / "umt5-base"
    for folder in (transformer, umt5):
        folder.mkdir()
    (transformer / "config.json").write_text(json.dumps(TRANSFORMER_CONFIG))
    lyrics = LyricEncoder(LyricEncoderConfig.from_transformer_config(TRANSFORMER_CONFIG))
    others = {"lyric_proj.weight": torch.zeros(2, 16), "transformer_blocks.0.scale_shift_table": torch.zeros(6, 2)}
    save_file({**lyrics.state_dict(), **others}, transformer / "diffusion_pytorch_model.safetensors")
    (umt5 / "config.json").write_text(json.dumps(UMT5_CONFIG))
    text = UMT5EncoderModel(UMT5Config.from_dict(UMT5_CONFIG))
    tensors = {name: torch.randn_like(tensor) * 0.3 for name, tensor in text.state_dict().items() if name != "encoder.embed_tokens.weight"}
    save_file(tensors, umt5 / "model.safetensors")
    _write_text_tokenizer(umt5)
    write_lyric_vocabulary(tmp_path / "lyric_vocab.json")
    return tmp_path


@pytest.fixture
def prompt_encoder(checkpoint: Path) -> PromptEncoder:
    """The stage on the tiny checkpoint, float32, without a cache."""
    return PromptEncoder.load(checkpoint, torch.device("cpu"), torch.float32)
