import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderDC
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

from training import checkpoint_layout, init_tokenizers
from training.checkpoint_layout import TensorSpec
from training.init_checkpoint import ARCHITECTURES, draw, write_checkpoint, write_weights

GOLDEN = Path(os.environ.get("ACESTEP_GOLDEN", Path(__file__).parents[2] / "parity" / "golden"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    write_checkpoint(folder, "tiny", 0)
    return folder


def _digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_official_transformer_has_exactly_the_official_tensors_and_config() -> None:
    golden = json.loads((GOLDEN / "official_state_dict.json").read_text())
    config = ARCHITECTURES["official"].transformer
    assert config == golden["config"]
    assert {name: list(spec.shape) for name, spec in checkpoint_layout.transformer(config).items()} == {
        name: tensor["shape"] for name, tensor in golden["tensors"].items()
    }


@pytest.mark.parametrize("folder", ["music_dcae_f8c8", "music_vocoder"])
def test_official_codec_has_exactly_the_official_tensors_and_config(folder: str) -> None:
    golden = json.loads((GOLDEN / "official_state_dict_codec.json").read_text())[folder]
    part, layout = {"music_dcae_f8c8": ("dcae", checkpoint_layout.dcae), "music_vocoder": ("vocoder", checkpoint_layout.vocoder)}[folder]
    config = getattr(ARCHITECTURES["official"], part)
    assert {key: value for key, value in config.items() if not key.startswith("_")} == golden["config"]
    assert {name: list(spec.shape) for name, spec in layout(config).items()} == golden["tensors"]


def test_official_text_encoder_has_the_size_of_umt5_base() -> None:
    config = UMT5Config(**ARCHITECTURES["official"].umt5, feed_forward_proj="gated-gelu")
    specs = checkpoint_layout.umt5(config)
    assert specs["shared.weight"].shape == (256384, 768)
    assert sum(name.endswith("relative_attention_bias.weight") for name in specs) == 12  # one table per layer
    assert specs["encoder.block.11.layer.1.DenseReluDense.wi_1.weight"].shape == (2048, 768)


def test_dead_and_training_only_tensors_are_written(tiny: Path) -> None:
    with safe_open(tiny / "ace_step_transformer/diffusion_pytorch_model.safetensors", "pt") as file:
        names = set(file.keys())
    for dead in ("add_q_proj.weight", "add_k_proj.weight", "add_v_proj.bias", "to_add_out.bias"):
        assert f"transformer_blocks.5.cross_attn.{dead}" in names
    assert "projectors.1.4.weight" in names


def test_transformer_is_stored_in_bfloat16_and_the_rest_in_float32(tiny: Path) -> None:
    transformer = load_file(tiny / "ace_step_transformer/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in transformer.values()} == {torch.bfloat16}
    vocoder = load_file(tiny / "music_vocoder/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in vocoder.values()} == {torch.float32}


def test_same_seed_gives_same_bytes_in_another_process(tiny: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from training.init_checkpoint import write_checkpoint; write_checkpoint(pathlib.Path(sys.argv[1]), 'tiny', 0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "again")], check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    assert _digests(tmp_path / "again") == _digests(tiny)


def test_another_seed_gives_other_weights(tiny: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "other", "tiny", 1)
    first, second = _digests(tiny), _digests(tmp_path / "other")
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} == {name for name in first if name.endswith(".safetensors")}


def test_tensors_of_equal_shape_differ() -> None:
    spec = TensorSpec((4, 4), std=1.0)
    assert not torch.equal(draw(spec, "folder/a", 0), draw(spec, "folder/b", 0))


def test_existing_folder_is_never_overwritten(tiny: Path) -> None:
    before = _digests(tiny)
    with pytest.raises(FileExistsError, match="not empty"):
        write_checkpoint(tiny, "tiny", 1)
    assert _digests(tiny) == before


def test_text_encoder_loads_through_transformers(tiny: Path) -> None:
    model, info = UMT5EncoderModel.from_pretrained(tiny / "umt5-base", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(tiny / "umt5-base")
    with torch.no_grad():
        states = model(**tokenizer("funk, bass", return_tensors="pt")).last_hidden_state
    assert torch.isfinite(states).all()
    assert 0.3 < states.std().item() < 3.0


def test_autoencoder_loads_through_diffusers_and_keeps_the_signal_in_range(tiny: Path) -> None:
    model, info = AutoencoderDC.from_pretrained(tiny, subfolder="music_dcae_f8c8", output_loading_info=True, low_cpu_mem_usage=False)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    latents = torch.randn(1, 8, 16, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mel = model.decoder(latents / 0.1786 - 1.9091)
    assert mel.shape == (1, 2, 128, 48)
    assert 0.1 < mel.std().item() < 3.0


def test_weights_beyond_a_shard_are_split_and_indexed(tmp_path: Path) -> None:
    specs = {f"layer.{index}.weight": TensorSpec((10, 10), std=1.0) for index in range(5)}
    write_weights(tmp_path, "model", specs, 0, torch.bfloat16, max_shard_bytes=450)  # two tensors of 200 bytes
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 1000
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)
    ]
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], draw(specs[name], f"{tmp_path.name}/{name}", 0).bfloat16())
    assert index["weight_map"].keys() == specs.keys()


def test_official_shards_fit_into_two_gigabytes_and_text_encoder_into_one_file() -> None:
    config = UMT5Config(**ARCHITECTURES["official"].umt5, feed_forward_proj="gated-gelu")
    assert sum(torch.Size(spec.shape).numel() * 4 for spec in checkpoint_layout.umt5(config).values()) < 2 * 1024**3


@pytest.mark.parametrize("text", ["funk, bass", "日本の歌 🎸", "ROCK & Roll, 120.5 bpm", "Ümläut", "\u200b"])
def test_any_tags_have_tokens_and_end_with_the_end_token(text: str) -> None:
    ids = init_tokenizers.tags_tokenizer()(text)["input_ids"]
    assert ids[-1] == 1
    assert 2 not in ids
    assert max(ids) < ARCHITECTURES["tiny"].umt5["vocab_size"]


def test_empty_tags_are_the_end_token_alone_and_padding_is_zero() -> None:
    batch = init_tokenizers.tags_tokenizer()(["", "funk, bass"], padding=True)
    assert batch["input_ids"][0] == [1, 0, 0, 0]
    assert batch["attention_mask"][0] == [1, 0, 0, 0]


def test_known_tags_are_one_token_each() -> None:
    assert init_tokenizers.tags_tokenizer().tokenize("funk, slow bass") == ["▁funk", ",", "▁slow", "▁bass"]


def test_lyric_vocabulary_has_the_form_and_special_ids_of_the_official_one(tiny: Path) -> None:
    document = json.loads((tiny / "lyric_vocab.json").read_text())
    assert document["pre_tokenizer"] == {"type": "Whitespace"}
    assert (document["normalizer"], document["post_processor"], document["decoder"]) == (None, None, None)
    assert document["model"]["unk_token"] == "[UNK]"
    assert document["model"]["fuse_unk"] is False
    added = {token["content"]: token["id"] for token in document["added_tokens"]}
    assert added["[START]"] == 261
    assert added["[zh-cn]"] == 5023
    assert added["[break]"] == 6692
    assert len(added) == 4 + 17 + 12


def test_lyrics_are_encoded_with_special_tokens_merges_and_single_unknowns(tiny: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny / "lyric_vocab.json"))
    encoding = tokenizer.encode("[en]the[SPACE]zebra[SPACE][verse]☃☃")
    assert encoding.tokens[:3] == ["[en]", "the", "[SPACE]"]
    assert encoding.ids[:3] == [259, tokenizer.token_to_id("the"), 2]
    assert "".join(encoding.tokens[3:-4]) == "zebra"
    assert encoding.ids[-4:] == [2, 6683, 1, 1]
    assert max(tokenizer.get_vocab().values()) < ARCHITECTURES["tiny"].transformer["lyric_encoder_vocab_size"]
