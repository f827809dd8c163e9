from pathlib import Path

import pytest
import torch

from diffusion_svc.sampling_defaults import read_sampling_defaults
from diffusion_svc.weights import load_transformer
from encoder_svc.known_tags import KnownTags
from encoder_svc.text_tokenizer import TextTokenizer
from encoder_svc.weights import load_lyric_encoder, load_text_encoder
from training import embedded
from training.checkpoint import load_trainable
from vae_svc.weights import load_codec

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    generator = torch.Generator().manual_seed(0)
    path = tmp_path_factory.mktemp("embedded") / "checkpoint"
    embedded.write_untrained(path, (torch.rand(2, 128, 64, generator=generator) for _ in range(4)), seed=0)
    return path


def test_every_stage_loads_it(folder):
    assert load_codec(folder, CPU, torch.float32).codec.vocoder.class_name == "MelGriffinLim"
    load_lyric_encoder(folder, CPU, torch.float32)
    assert read_sampling_defaults(folder).infer_step == embedded.SAMPLING["infer_step"]
    assert load_transformer(folder, CPU, torch.float32).config.num_layers == embedded.TRANSFORMER["num_layers"]


def test_each_tag_is_one_token_whose_state_no_other_tag_changes(folder):
    tokenizer, encoder = TextTokenizer(folder, 10_000), load_text_encoder(folder, CPU, torch.float32)
    ids = {tag: tokenizer.encode(tag) for tag in embedded.known_tags()}
    assert all(len(tokens) == 2 for tokens in ids.values())  # and the end
    assert len({tokens[0] for tokens in ids.values()}) == len(ids)
    prompt = torch.tensor([tokenizer.encode("Rock , 129 BPM,  c minor")])
    alone = torch.tensor([tokenizer.encode("129 bpm")])
    torch.testing.assert_close(encoder(prompt, torch.ones_like(prompt))[0, 1], encoder(alone, torch.ones_like(alone))[0, 0])


def test_the_untrained_transformer_says_nothing(folder):
    model = load_trainable(folder)
    assert not model.final_layer.linear.weight.any()
    assert not model.transformer_blocks[0].cross_attn.to_out[0].weight.any()


def test_it_lists_its_tags_in_the_order_of_the_corpus(folder):
    known = KnownTags.load(folder)
    assert known is not None
    read = known.read("calm, instrumental, piano, D minor, 92 bpm, ambient")
    assert read.text == "ambient, 92 bpm, D minor, piano, instrumental, calm"
    assert not read.warnings


def test_it_is_not_overwritten(folder):
    with pytest.raises(FileExistsError):
        embedded.write_untrained(folder, [], seed=0)
