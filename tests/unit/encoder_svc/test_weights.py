import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from encoder_svc import weights
from encoder_svc.weights import CheckpointError, consumed_tensors, load_lyric_encoder, load_text_encoder, model_digest

CPU = torch.device("cpu")


def lyric_file(checkpoint):
    return checkpoint / "ace_step_transformer" / "diffusion_pytorch_model.safetensors"


def text_file(checkpoint):
    return checkpoint / "umt5-base" / "model.safetensors"


LOADERS = {
    "lyric": (lyric_file, load_lyric_encoder, "lyric_encoder.after_norm.weight"),
    "text": (text_file, load_text_encoder, "encoder.final_layer_norm.weight"),
}


@pytest.fixture(params=LOADERS)
def part(request, checkpoint):
    """Path of the weights, their loader, name of one tensor."""
    path, load, name = LOADERS[request.param]
    return path(checkpoint), lambda dtype=torch.float32: load(checkpoint, CPU, dtype), name


def rewrite(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def shard(path):
    """Split a weights file in two, with an index."""
    tensors = load_file(path)
    names = sorted(tensors)
    halves = {f"part-{index}.safetensors": names[index::2] for index in range(2)}
    for file_name, members in halves.items():
        save_file({name: tensors[name] for name in members}, path.parent / file_name)
    index = {"weight_map": {name: file_name for file_name, members in halves.items() for name in members}}
    (path.parent / f"{path.name}.index.json").write_text(json.dumps(index))
    path.unlink()
    return index


def test_modules_hold_the_tensors_of_the_file(checkpoint):
    tensors = load_file(lyric_file(checkpoint))
    module = load_lyric_encoder(checkpoint, CPU, torch.float32)
    assert module.state_dict().keys() == {name for name in tensors if name.startswith(("lyric_embs.", "lyric_encoder."))}
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in module.state_dict().items())
    text = load_text_encoder(checkpoint, CPU, torch.float32)
    assert all(torch.equal(tensor, text.umt5.state_dict()[name]) for name, tensor in load_file(text_file(checkpoint)).items())


def test_modules_are_ready_for_inference(part):
    _, load, _ = part
    module = load(torch.bfloat16)
    assert not module.training
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in module.parameters())


def test_shards_load_like_one_file(part):
    path, load, _ = part
    expected = load().state_dict()
    shard(path)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load().state_dict().items())


def test_a_shard_without_a_listed_tensor_is_named(part):
    path, load, name = part
    file_name = shard(path)["weight_map"][name]
    rewrite(path.parent / file_name, lambda tensors: tensors.pop(name))
    with pytest.raises(CheckpointError, match=f"{name}, which {file_name}"):
        load()


def test_an_index_cannot_name_files_elsewhere(part):
    path, load, name = part
    index = shard(path)
    index["weight_map"][name] = "../elsewhere.safetensors"
    (path.parent / f"{path.name}.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="outside its folder"):
        load()


def test_a_missing_tensor_is_named(part):
    path, load, name = part
    rewrite(path, lambda tensors: tensors.pop(name))
    with pytest.raises(CheckpointError, match=rf"{name} is missing in .*{path.parent.name}"):
        load()


def test_a_misshapen_tensor_is_named_with_both_shapes(part):
    path, load, name = part
    rewrite(path, lambda tensors: tensors.update({name: torch.zeros(7)}))
    with pytest.raises(CheckpointError, match=rf"{name} in .*{path.name} has shape \[7\], the config asks for \[(16|24)\]"):
        load()


@pytest.mark.parametrize("extra", ["lyric_encoder.extra.weight", "lyric_embs.bias", "unheard_of.weight"])
def test_an_unexpected_tensor_is_named(part, extra):
    path, load, _ = part
    rewrite(path, lambda tensors: tensors.update({extra: torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=extra):
        load()


def test_integers_are_no_weights(part):
    path, load, name = part
    rewrite(path, lambda tensors: tensors.update({name: tensors[name].long()}))
    with pytest.raises(CheckpointError, match=f"{name} in .* holds torch.int64"):
        load()


def test_a_truncated_file_is_named(part):
    path, load, _ = part
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=path.name):
        load()


def test_pickled_weights_are_not_read(part):
    path, load, _ = part
    shutil.move(path, path.parent / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is there, but only safetensors are read"):
        load()


@pytest.mark.parametrize("content", ["", "[]", '{"model_type": "t5", "lyric_hidden_size": "wide"}'])
def test_a_bad_config_is_named(part, content):
    path, load, _ = part
    config = path.parent / "config.json"
    config.write_text(content)
    with pytest.raises(CheckpointError, match=str(config)):
        load()


def test_the_text_embedding_loads_under_either_name(checkpoint):
    expected = load_text_encoder(checkpoint, CPU, torch.float32).umt5.shared.weight
    rewrite(text_file(checkpoint), lambda tensors: tensors.update({"encoder.embed_tokens.weight": tensors.pop("shared.weight")}))
    umt5 = load_text_encoder(checkpoint, CPU, torch.float32).umt5
    assert torch.equal(umt5.shared.weight, expected)
    assert umt5.encoder.embed_tokens.weight is umt5.shared.weight


def test_two_text_embeddings_must_agree(checkpoint):
    rewrite(text_file(checkpoint), lambda tensors: tensors.update({"encoder.embed_tokens.weight": tensors["shared.weight"].clone()}))
    load_text_encoder(checkpoint, CPU, torch.float32)
    rewrite(text_file(checkpoint), lambda tensors: tensors["encoder.embed_tokens.weight"].add_(1))
    with pytest.raises(CheckpointError, match=r"shared\.weight and encoder\.embed_tokens\.weight .* differ"):
        load_text_encoder(checkpoint, CPU, torch.float32)


def test_consumed_tensors_of_the_official_sizes():
    shapes = consumed_tensors({"lyric_encoder_vocab_size": 6693, "lyric_hidden_size": 1024})
    assert len(shapes) == 1 + 6 + 6 * 19
    assert shapes["lyric_embs.weight"] == (6693, 1024)
    assert shapes["lyric_encoder.encoders.5.self_attn.pos_bias_v"] == (16, 64)
    assert shapes["lyric_encoder.encoders.0.feed_forward.w_1.weight"] == (4096, 1024)


def test_no_tensor_belongs_to_both_stages():
    assert not weights.OWN_PREFIXES & weights.DIFFUSION_PREFIXES


def test_the_digest_changes_with_a_value_and_with_a_name(checkpoint):
    module = load_lyric_encoder(checkpoint, CPU, torch.float32)
    digest = model_digest({"a": module})
    assert digest == model_digest({"a": load_lyric_encoder(checkpoint, CPU, torch.float32)})
    assert digest != model_digest({"b": module})
    module.lyric_embs.weight[0, 0] += 1
    assert digest != model_digest({"a": module})
