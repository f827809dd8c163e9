import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_svc.weights import CheckpointError, load_transformer
from encoder_svc.weights import load_lyric_encoder
from training import checkpoint_layout
from training.checkpoint import load_trainable, save_transformer

CPU = torch.device("cpu")
FILE = "ace_step_transformer/diffusion_pytorch_model.safetensors"


def test_every_tensor_but_the_dead_ones_is_trained(checkpoint):
    model = load_trainable(checkpoint)
    stored = load_file(checkpoint / FILE)
    assert model.state_dict().keys() == {name for name in stored if ".cross_attn.add_" not in name and ".to_add_out." not in name}
    assert all(torch.equal(parameter, stored[name]) for name, parameter in model.named_parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.training


def test_training_does_not_write_into_the_file(checkpoint):
    before = (checkpoint / FILE).read_bytes()
    with torch.no_grad():
        for parameter in load_trainable(checkpoint).parameters():
            parameter.zero_()
    assert (checkpoint / FILE).read_bytes() == before


def test_saved_checkpoint_has_exactly_the_official_names_and_shapes(checkpoint, config, tmp_path):
    save_transformer(load_trainable(checkpoint), tmp_path / "saved")
    tensors = load_file(tmp_path / "saved" / FILE)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        name: spec.shape for name, spec in checkpoint_layout.transformer(config).items()
    }
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "saved/ace_step_transformer/config.json").read_text()) == config


@pytest.mark.parametrize("with_dead", [True, False])
def test_both_stages_load_what_was_trained(checkpoint, tmp_path, with_dead):
    model = load_trainable(checkpoint)
    with torch.no_grad():
        model.lyric_embs.weight.add_(1)
        model.final_layer.linear.bias.add_(1)
    save_transformer(model, tmp_path, torch.float32, with_dead)
    state = model.state_dict()
    for stage in (load_transformer(tmp_path, CPU, torch.float32), load_lyric_encoder(tmp_path, CPU, torch.float32)):
        assert all(torch.equal(tensor, state[name]) for name, tensor in stage.state_dict().items())


def test_saved_checkpoint_loads_again(checkpoint, tmp_path):
    model = load_trainable(checkpoint)
    save_transformer(model, tmp_path, torch.float32)
    again = load_trainable(tmp_path)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_existing_transformer_is_never_overwritten(checkpoint):
    before = (checkpoint / FILE).read_bytes()
    with pytest.raises(FileExistsError):
        save_transformer(load_trainable(checkpoint), checkpoint)
    assert (checkpoint / FILE).read_bytes() == before
    assert [path.name for path in checkpoint.iterdir()] == ["ace_step_transformer"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("projectors.0.2.bias"), "projectors.0.2.bias"),
        (lambda tensors: tensors.update({"projectors.2.0.bias": torch.zeros(3)}), "unexpected tensor projectors.2.0.bias"),
        (lambda tensors: tensors.update({"lyric_proj.bias": torch.zeros(3)}), r"lyric_proj.bias has shape \[3\]"),
    ],
)
def test_wrong_tensors_are_named(checkpoint, tmp_path, change, message):
    shutil.copytree(checkpoint, tmp_path / "broken")
    tensors = load_file(checkpoint / FILE)
    change(tensors)
    save_file(tensors, tmp_path / "broken" / FILE)
    with pytest.raises(CheckpointError, match=message):
        load_trainable(tmp_path / "broken")


@pytest.mark.parametrize(("depths", "message"), [([3, 0], "beyond the 3"), ([0], "differ in length")])
def test_impossible_depths_are_refused(checkpoint, config, tmp_path, depths, message):
    shutil.copytree(checkpoint, tmp_path / "broken")
    (tmp_path / "broken/ace_step_transformer/config.json").write_text(json.dumps(config | {"ssl_encoder_depths": depths}))
    with pytest.raises(CheckpointError, match=message):
        load_trainable(tmp_path / "broken")


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere/ace_step_transformer/config.json"):
        load_trainable(tmp_path / "nowhere")
