import copy
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from acestep_rpc.errors import NotFound
from encoder_svc.adapters import AdapterError, AdapterStore
from encoder_svc.encoder import NullCondition, PromptEncoder
from encoder_svc.weights import model_digest

# The same sums in another order in float32; states are of order 1.
REORDERED = 1e-5
IDS = [4, 3, 20, 2, 30, 2]
QUERY = "lyric_encoder.encoders.0.self_attn.linear_q"


def low_rank(model, rank=3, seed=0, only=""):
    """Tensors of an adapter of all linear layers whose path holds `only`."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and only in name:
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, layer.in_features, generator=generator) * 0.2
            tensors[f"{name}.lora_B.weight"] = torch.randn(layer.out_features, rank, generator=generator) * 0.2
    return tensors


def write(folder, name, tensors, header=None):
    (folder / name).mkdir(parents=True, exist_ok=True)
    path = folder / name / "pytorch_lora_weights.safetensors"
    save_file(tensors, path, header)
    return path


@pytest.fixture
def model(prompt_encoder):
    return prompt_encoder.lyric_encoder


@pytest.fixture
def folder(tmp_path, model):
    write(tmp_path / "adapters", "a", low_rank(model, seed=1))
    write(tmp_path / "adapters", "b", low_rank(model, rank=2, seed=2, only="linear_"))
    return tmp_path / "adapters"


@pytest.fixture
def store(folder, model):
    return AdapterStore(folder, model, max_loaded=4)


def states(conditioning):
    return [conditioning.lyric_hidden_states, conditioning.null_lyric_hidden_states]


@pytest.mark.parametrize("null_condition", [null_condition for null_condition in NullCondition if null_condition is not NullCondition.NONE])
@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_equals_weights_that_the_update_was_merged_into(prompt_encoder, model, store, null_condition, scale):
    adaptation = store.select([("a", scale)])
    assert adaptation.updates.keys() == {layer for layer in model.modules() if isinstance(layer, nn.Linear)}
    ours = prompt_encoder.encode("pop", IDS, null_condition, adaptation)
    merged = copy.deepcopy(model)
    for name, layer in merged.named_modules():
        if isinstance(layer, nn.Linear):
            (update,) = adaptation.updates[model.get_submodule(name)]
            layer.weight += scale * update.up @ update.down
    expected = PromptEncoder(prompt_encoder.text_encoder, merged, prompt_encoder.text_tokenizer).encode("pop", IDS, null_condition)
    base = prompt_encoder.encode("pop", IDS, null_condition)
    for mine, other, plain in zip(states(ours), states(expected), states(base), strict=True):
        assert (mine - other).abs().max() < REORDERED
        assert (mine - plain).abs().max() > 1e-2
    assert torch.equal(ours.text_hidden_states, base.text_hidden_states)


def test_after_an_adapter_the_base_is_as_if_it_never_was(prompt_encoder, model, folder):
    before, digest = prompt_encoder.encode("pop", IDS, NullCondition.WEAKENED), model_digest({"lyrics": model})
    adapted = prompt_encoder.encode("pop", IDS, NullCondition.WEAKENED, AdapterStore(folder, model, 0).select([("a", 1.0)]))
    after = prompt_encoder.encode("pop", IDS, NullCondition.WEAKENED)
    for one, other, changed in zip(states(before), states(after), states(adapted), strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, changed)
    assert model_digest({"lyrics": model}) == digest


def test_cached_states_are_of_the_same_adapters_and_scales_only(checkpoint, tmp_path):
    encoder = PromptEncoder.load(checkpoint, torch.device("cpu"), torch.float32, cache_bytes=1 << 20)
    model = encoder.lyric_encoder
    path = write(tmp_path / "adapters", "a", low_rank(model, seed=1))
    write(tmp_path / "adapters", "b", low_rank(model, seed=2))
    store = AdapterStore(tmp_path / "adapters", model, max_loaded=4)

    def encode(*selections):
        return encoder.encode("pop", IDS, NullCondition.NONE, store.select(selections))

    first = encode(("a", 1.0))
    assert encode(("a", 1.0)) is first
    assert encode(("a", 1.0), ("b", 0.0)) is first
    others = [encode(), encode(("a", 0.5)), encode(("b", 1.0)), encode(("a", 1.0), ("b", 1.0))]
    assert not any(torch.equal(other.lyric_hidden_states, first.lyric_hidden_states) for other in others)
    save_file(low_rank(model, seed=3), path)
    os.utime(path, ns=(1, 1))
    assert not torch.equal(encode(("a", 1.0)).lyric_hidden_states, first.lyric_hidden_states)


def test_scale_0_and_an_adapter_of_the_other_stage_are_the_base(folder, store):
    names = ("transformer_blocks.0.attn.to_q", "speaker_embedder", "lyric_proj", "projectors.0.0")
    write(folder, "music", {f"{name}.lora_{factor}.weight": torch.zeros(2, 2) for name in names for factor in "AB"})
    assert store.select([("a", 0.0), ("music", 1.0)]) is None


def test_scales_add_up(prompt_encoder, model, folder, store):
    write(folder, "twin", low_rank(model, seed=1))

    def result(*selections):
        return prompt_encoder.encode("pop", IDS, NullCondition.NONE, store.select(selections)).lyric_hidden_states

    assert (result(("a", 0.75), ("twin", 0.25)) - result(("a", 1.0))).abs().max() < REORDERED
    assert (result(("a", 0.75)) - result(("a", 1.0))).abs().max() > 10 * REORDERED


def test_weakening_scales_the_adapted_query(prompt_encoder, model, folder, store):
    block = model.lyric_encoder.encoders[4].self_attn
    write(folder, "query", low_rank(model, only="encoders.4.self_attn.linear_q"))
    updates = store.select([("query", 3.0)]).updates
    merged = copy.deepcopy(block)
    (update,) = updates[block.linear_q]
    merged.linear_q.weight += 3.0 * update.up @ update.down
    x, positions = torch.randn(1, 4, 16), torch.randn(7, 16)
    expected = merged(x, None, positions, 0.01)
    assert (block(x, None, positions, 0.01, updates) - expected).abs().max() < REORDERED


@pytest.mark.parametrize("prefix", ["base_model.model.", "transformer."])
def test_prefixes_of_other_writers_and_alpha_change_nothing(folder, model, store, prefix):
    tensors = low_rank(model, seed=1) | {f"{QUERY}.alpha": torch.tensor(6.0)}
    write(folder, "peft", {prefix + key: tensor for key, tensor in tensors.items()})
    assert store.select([("peft", 1.0)]).key == store.select([("a", 1.0)]).key


A, B = f"{QUERY}.lora_A.weight", f"{QUERY}.lora_B.weight"
BAD = {
    "an unknown module": ({A.replace(".0.", ".9."): (2, 16), B.replace(".0.", ".9."): (16, 2)}, r"encoders\.9"),
    "an embedding": ({"lyric_embs.lora_A.weight": (2, 16), "lyric_embs.lora_B.weight": (120, 2)}, "lyric_embs.* no linear layer"),
    "a norm": ({"lyric_encoder.after_norm.lora_A.weight": (2, 16), "lyric_encoder.after_norm.lora_B.weight": (16, 2)}, "after_norm"),
    "the text encoder": ({"encoder.block.0.lora_A.weight": (2, 24), "encoder.block.0.lora_B.weight": (24, 2)}, r"encoder\.block\.0"),
    "an unknown suffix": ({f"{QUERY}.lora_A.bias": (3,)}, r"lora_A\.bias"),
    "half a pair": ({B: None}, rf"{A} has no lora_B.weight beside it"),
    "half a pair of the other stage": ({"lyric_proj.lora_B.weight": (2, 2)}, r"lyric_proj\.lora_B\.weight has no lora_A"),
    "ranks that differ": ({A: (2, 16)}, rf"{B} has shape \[16, 3\], the layer and rank 2 ask for \[16, 2\]"),
    "wrong inputs": ({A: (3, 17)}, rf"{A} has shape \[3, 17\], the layer asks for \[rank, 16\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_with_file_and_key(folder, model, store, case):
    changes, message = BAD[case]
    tensors = low_rank(model, only=QUERY) | {key: torch.zeros(shape) for key, shape in changes.items() if shape is not None}
    write(folder, "bad", {key: tensor for key, tensor in tensors.items() if changes.get(key, ()) is not None})
    with pytest.raises(AdapterError, match=rf"bad/pytorch_lora_weights.safetensors: .*{message}"):
        store.select([("bad", 1.0)])


def test_values_that_are_not_finite_are_refused(folder, model, store):
    write(folder, "bad", low_rank(model, only=QUERY) | {A: torch.full((3, 16), torch.inf)})
    with pytest.raises(AdapterError, match=rf"{A} holds"):
        store.select([("bad", 1.0)])


def test_pickles_are_not_read(folder, model, store):
    (folder / "pickled").mkdir()
    torch.save(low_rank(model), folder / "pickled" / "pytorch_lora_weights.bin")
    (folder / "renamed").mkdir()
    torch.save(low_rank(model), folder / "renamed" / "pytorch_lora_weights.safetensors")
    with pytest.raises(AdapterError, match="only safetensors are read"):
        store.select([("pickled", 1.0)])
    with pytest.raises(AdapterError, match="renamed/.* cannot be read"):
        store.select([("renamed", 1.0)])


@pytest.mark.parametrize("name", ["c", "", "..", "../adapters/a", "/a", ".hidden"])
def test_a_name_that_is_none_is_not_found(folder, model, store, name):
    write(folder, ".hidden", low_rank(model))
    assert store.names() == ["a", "b"]
    with pytest.raises(NotFound):
        store.select([(name, 1.0)])


def test_links_out_of_the_store_are_not_followed(tmp_path, folder, model, store):
    write(tmp_path, "secret", low_rank(model))
    (folder / "link").symlink_to(tmp_path / "secret")
    assert store.names() == ["a", "b"]
    with pytest.raises(AdapterError, match="leads out of the store"):
        store.select([("link", 1.0)])


def test_a_store_that_is_no_folder_stops_the_start(tmp_path, model):
    with pytest.raises(AdapterError, match="missing is no folder"):
        AdapterStore(tmp_path / "missing", model, 4)


def test_the_least_recently_used_adapter_is_dropped_first(folder, model):
    write(folder, "c", low_rank(model, seed=3))
    store, layer = AdapterStore(folder, model, max_loaded=2), model.get_submodule(QUERY)

    def loaded(name):
        return store.select([(name, 1.0)]).updates[layer][0].down

    a, b = loaded("a"), loaded("b")
    assert loaded("a") is a
    loaded("c")
    assert loaded("a") is a
    assert loaded("b") is not b


def test_the_trained_scale_counts_on_request_only(folder, model):
    write(folder, "trained", low_rank(model, rank=4, only=QUERY), {"lora_adapter_metadata": '{"lora_alpha": 6, "use_rslora": true}'})
    store, layer = AdapterStore(folder, model, max_loaded=4), model.get_submodule(QUERY)
    scales = [store.select([("trained", 0.5)], names).updates[layer][0].scale for names in ((), {"trained"})]
    assert scales == [0.5, 1.5]
    assert store.select([("a", 1.0)]) is not None
    assert store.loaded() == {"trained": True, "a": False}
    with pytest.raises(AdapterError, match="does not state the scale"):
        store.select([("a", 1.0)], {"a"})


def test_an_adapter_is_loaded_and_unloaded_by_name(folder, model):
    store = AdapterStore(folder, model, max_loaded=4)
    store.load("a")
    assert store.loaded().keys() == {"a"}
    store.unload("a")
    assert store.loaded() == {}
    with pytest.raises(NotFound):
        store.load("nobody")
    with pytest.raises(NotFound):
        store.unload("nobody")
    with pytest.raises(AdapterError, match="MAX_LOADED_ADAPTERS"):
        AdapterStore(folder, model, max_loaded=0).load("a")
