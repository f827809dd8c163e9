import json

import pytest
import torch
from safetensors.torch import save_file

from diffusion_svc.weights import CheckpointError, load_transformer, model_digest
from tests import tiny

CPU = torch.device("cpu")
CONFIG = {
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "mlp_ratio": 2.5,
    "max_position": 4096,
    "text_embedding_dim": tiny.TEXT_WIDTH,
    "lyric_hidden_size": tiny.LYRIC_WIDTH,
    "patch_size": [16, 1],
    "_class_name": "anything",
}


@pytest.fixture
def state():
    tensors = {name: tensor.clone() for name, tensor in tiny.transformer().state_dict().items()}
    tensors["lyric_embs.weight"] = torch.zeros(3, tiny.LYRIC_WIDTH)
    tensors["lyric_encoder.after_norm.bias"] = torch.zeros(tiny.LYRIC_WIDTH)
    tensors["projectors.0.0.weight"] = torch.zeros(2, 2)
    tensors["transformer_blocks.0.cross_attn.add_q_proj.weight"] = torch.zeros(16, 16)
    return tensors


def write(folder, tensors, shards=1, config=CONFIG):
    path = folder / "ace_step_transformer"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, path / "diffusion_pytorch_model.safetensors")
        return folder
    weight_map = {}
    for shard in range(shards):
        name = f"part-{shard}.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[shard::shards]}
        weight_map |= dict.fromkeys(part, name)
        save_file(part, path / name)
    (path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("shards", [1, 3])
def test_a_checkpoint_loads_whole_or_sharded(tmp_path, state, shards):
    model = load_transformer(write(tmp_path, state, shards), CPU, torch.float32)
    assert model_digest(model) == model_digest(tiny.transformer())
    assert not model.training


def test_weights_arrive_in_the_wanted_type(tmp_path, state):
    assert load_transformer(write(tmp_path, state), CPU, torch.bfloat16).dtype is torch.bfloat16


def test_digest_changes_with_one_bit(state):
    other = tiny.transformer()
    other.final_layer.linear.bias[3] += 1
    assert model_digest(other) != model_digest(tiny.transformer())


def test_a_missing_tensor_stops_the_start(tmp_path, state):
    del state["t_block.1.bias"]
    with pytest.raises(CheckpointError, match="t_block.1.bias"):
        load_transformer(write(tmp_path, state), CPU, torch.float32)


def test_an_unexpected_tensor_stops_the_start(tmp_path, state):
    state["transformer_blocks.0.attn.to_z.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="unexpected tensor transformer_blocks.0.attn.to_z.weight"):
        load_transformer(write(tmp_path, state), CPU, torch.float32)


def test_a_misshapen_tensor_stops_the_start(tmp_path, state):
    state["lyric_proj.weight"] = torch.zeros(16, 21)
    with pytest.raises(CheckpointError, match=r"lyric_proj.weight has shape \[16, 21\], not \[16, 20\]"):
        load_transformer(write(tmp_path, state), CPU, torch.float32)


def test_a_truncated_file_stops_the_start(tmp_path, state):
    path = write(tmp_path, state) / "ace_step_transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=path.name):
        load_transformer(tmp_path, CPU, torch.float32)


def test_a_missing_file_stops_the_start(tmp_path, state):
    (write(tmp_path, state) / "ace_step_transformer" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="diffusion_pytorch_model"):
        load_transformer(tmp_path, CPU, torch.float32)


@pytest.mark.parametrize("shard", ["../outside.safetensors", "part.bin"])
def test_an_index_cannot_point_elsewhere(tmp_path, state, shard):
    path = write(tmp_path, state, shards=2) / "ace_step_transformer" / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"t_block.1.bias": shard}}))
    with pytest.raises(CheckpointError, match="not a safetensors file of this folder"):
        load_transformer(tmp_path, CPU, torch.float32)


def test_another_patch_size_stops_the_start(tmp_path, state):
    with pytest.raises(CheckpointError, match="patch_size"):
        load_transformer(write(tmp_path, state, config=CONFIG | {"patch_size": [8, 2]}), CPU, torch.float32)
