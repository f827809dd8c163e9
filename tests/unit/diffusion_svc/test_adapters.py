import copy
import json
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from acestep_rpc.errors import NotFound
from diffusion_svc.adapters import AdapterError, AdapterStore
from diffusion_svc.model.low_rank import LowRankUpdate
from diffusion_svc.model.transformer import Row
from diffusion_svc.sampler import Sampler, SamplingRequest
from diffusion_svc.weights import model_digest
from tests import tiny

# The same sums in another order in float32; values are of order 1 to 10.
REORDERED = 2e-5
QUERY = "transformer_blocks.0.attn.to_q"


def layers(model):
    """Every layer that can be adapted, by its path."""
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)}
    return {name: layer for name, layer in found.items() if "depth_conv" not in name}


def low_rank(model, rank=3, seed=0, only=""):
    """Tensors of an adapter of all layers whose path holds `only`."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, layer in layers(model).items():
        if only in name:
            out, *inner = layer.weight.shape
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, *inner, generator=generator) * 0.1
            tensors[f"{name}.lora_B.weight"] = torch.randn(out, rank, *[1] * (len(inner) - 1), generator=generator) * 0.1
    return tensors


def write(folder, name, tensors, metadata=None):
    (folder / name).mkdir(exist_ok=True)
    path = folder / name / "pytorch_lora_weights.safetensors"
    save_file(tensors, path, metadata)
    return path


def merged(model, tensors, scale):
    """A copy of the model with the update inside its weights."""
    model = copy.deepcopy(model)
    for name, layer in layers(model).items():
        if f"{name}.lora_A.weight" in tensors:
            down, up = (tensors[f"{name}.lora_{factor}.weight"].flatten(1) for factor in "AB")
            layer.weight += scale * (up @ down).view_as(layer.weight)
    return model


def velocity(model, updates=None, weakened=False):
    """One evaluation from raw conditions, through every layer."""
    generator = torch.Generator().manual_seed(7)
    text, lyrics, latents = (
        torch.randn(shape, generator=generator) for shape in ((1, 3, tiny.TEXT_WIDTH), (1, 5, tiny.LYRIC_WIDTH), (8, 16, 7))
    )
    context = model.project_context(model.embed_conditions(text, lyrics, updates=updates)[0], updates=updates)
    (modulation,) = model.modulate(torch.tensor([500.0]), updates)
    return Row(latents, modulation, context, weakened=weakened, updates=updates)


def sample(sampler, *requests):
    """Songs of all requests, sampled in company."""
    songs = [song for request in requests for song in sampler.start(request)]
    while waiting := [song for song in songs if song.pending]:
        sampler.tick(waiting)
    return [song.result for song in songs]


def request(adaptation=None, seed=1):
    base = tiny.sampling_request(seeds=(seed,))
    return SamplingRequest(base.conditions, base.params, base.seeds, base.task, adaptation)


@pytest.fixture
def model():
    return tiny.transformer()


@pytest.fixture
def folder(tmp_path, model):
    write(tmp_path, "a", low_rank(model, seed=1))
    write(tmp_path, "b", low_rank(model, rank=2, seed=2, only="attn"))
    return tmp_path


@pytest.fixture
def store(folder, model):
    return AdapterStore(folder, model, max_loaded=4)


def test_after_an_adapter_the_base_is_as_if_it_never_was(folder, model):
    (before,), digest = sample(Sampler(tiny.transformer()), request()), model_digest(model)
    sampler, store = Sampler(model), AdapterStore(folder, model, max_loaded=0)
    (adapted,) = sample(sampler, request(store.select([("a", 1.0)])))
    assert not torch.equal(adapted, before)
    assert torch.equal(sample(sampler, request())[0], before)
    assert model_digest(model) == digest


def test_different_adapters_in_one_batch_give_the_bits_of_each_alone(model, store):
    requests = [request(store.select(chosen)) for chosen in ([("a", 1.0)], [], [("b", -2.0)], [("a", 0.5), ("b", 1.0)])]
    alone = [sample(Sampler(model), one)[0] for one in requests]
    for together, expected in zip(sample(Sampler(model), *requests), alone, strict=True):
        assert torch.equal(together, expected)
    assert len({result.sum().item() for result in alone}) == 4


def test_shared_products_keep_each_rows_own_adapters(model, store):
    selections = ([("a", 1.0)], [("a", 1.0)], [], [("b", -2.0)], [("a", 0.5), ("b", 1.0)])
    chosen = [store.select(selection) for selection in selections]
    chosen[1] = chosen[0]  # as the branches of one song
    rows = [velocity(model, adaptation.updates if adaptation else None) for adaptation in chosen]
    for shared, alone in zip(model(rows, share_products=True), model(rows, share_products=False), strict=True):
        assert (shared - alone).abs().max() < REORDERED


@pytest.mark.parametrize("weakened", [False, True])
@pytest.mark.parametrize("scale", [1.0, -0.5])
def test_equals_weights_that_the_update_was_merged_into(tmp_path, scale, weakened):
    model = tiny.transformer(num_layers=16)  # block 15 is a weakened one
    tensors = low_rank(model)
    write(tmp_path, "all", tensors)
    adaptation = AdapterStore(tmp_path, model, 1).select([("all", scale)])
    assert adaptation.updates.keys() == set(layers(model).values())
    (ours,) = model([velocity(model, adaptation.updates, weakened)])
    other = merged(model, tensors, scale)
    (expected,) = other([velocity(other, weakened=weakened)])
    (base,) = model([velocity(model, weakened=weakened)])
    assert (ours - expected).norm() / expected.norm() < 1e-5
    assert (ours - base).norm() / expected.norm() > 1e-2


@pytest.mark.parametrize("only", ["lyric_proj", "genre_embedder", "cross_attn.to_k", "attn.to_out", "t_block", "point_conv", "proj_in"])
def test_each_kind_of_layer_is_reached(tmp_path, model, only):
    write(tmp_path, "one", low_rank(model, only=only))
    updates = AdapterStore(tmp_path, model, 1).select([("one", 3.0)]).updates
    assert not torch.equal(model([velocity(model, updates)])[0], model([velocity(model)])[0])


def test_the_speaker_embedder_is_adapted_though_its_usual_input_of_zeros_hides_it(tmp_path, model):
    tensors = low_rank(model, only="speaker_embedder")
    write(tmp_path, "speaker", tensors)
    updates = AdapterStore(tmp_path, model, 1).select([("speaker", 1.0)]).updates
    text, lyrics, speaker = torch.zeros(1, 1, tiny.TEXT_WIDTH), torch.zeros(1, 1, tiny.LYRIC_WIDTH), torch.ones(1, 512)
    expected = merged(model, tensors, 1.0).embed_conditions(text, lyrics, speaker)
    assert torch.allclose(model.embed_conditions(text, lyrics, speaker, updates), expected, atol=REORDERED)
    assert torch.equal(model.embed_conditions(text, lyrics, updates=updates), model.embed_conditions(text, lyrics))


def test_scale_0_is_the_base(model, store):
    assert store.select([("a", 0.0), ("b", -0.0)]) is None
    updates = {layer: [LowRankUpdate(one.down, one.up, 0.0)] for layer, (one,) in store.select([("a", 1.0)]).updates.items()}
    assert torch.equal(model([velocity(model, updates)])[0], model([velocity(model)])[0])


def test_scales_add_up(folder, model, store):
    write(folder, "twin", low_rank(model, seed=1))

    def result(*selections):
        return model([velocity(model, store.select(selections).updates)])[0]

    assert (result(("a", 0.75), ("twin", 0.25)) - result(("a", 1.0))).abs().max() < REORDERED
    assert (result(("a", 3.0), ("twin", -3.0)) - model([velocity(model)])[0]).abs().max() < REORDERED
    assert (result(("a", 0.75)) - result(("a", 1.0))).abs().max() > 10 * REORDERED


def test_timesteps_are_embedded_under_the_requests_own_adapters(tmp_path, model):
    write(tmp_path, "time", low_rank(model, only="timestep_embedder"))
    store, sampler = AdapterStore(tmp_path, model, 1), Sampler(model)
    (base,) = sample(sampler, request())
    (adapted,) = sample(sampler, request(store.select([("time", 1.0)])))
    assert not torch.equal(adapted, base)
    assert torch.equal(sample(sampler, request())[0], base)


def test_keys_and_values_are_adapted_once_a_request(tmp_path, model):
    write(tmp_path, "context", low_rank(model, only="cross_attn.to_k"))
    adaptation = AdapterStore(tmp_path, model, 1).select([("context", 1.0)])
    sampler = Sampler(model)
    (song,) = sampler.start(request(adaptation))
    (plain,) = sampler.start(request())
    for branch, context in song.contexts.items():
        assert not torch.equal(context.keys[1], plain.contexts[branch].keys[1])
        assert torch.equal(context.values[1], plain.contexts[branch].values[1])


def test_bfloat16_models_take_float32_files(folder):
    model = tiny.transformer().to(torch.bfloat16)
    updates = AdapterStore(folder, model, 1).select([("a", 1.0)]).updates
    assert {(one.down.dtype, one.up.dtype) for several in updates.values() for one in several} == {(torch.bfloat16, torch.bfloat16)}
    conditions = torch.randn(4, 16, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    (modulation,) = model.modulate(torch.tensor([1.0]), updates)
    row = Row(torch.ones(8, 16, 3), modulation, model.project_context(conditions, updates=updates), updates=updates)
    assert model([row])[0].isfinite().all()


@pytest.mark.parametrize("prefix", ["base_model.model.", "transformer.", "base_model.model.transformer."])
def test_prefixes_of_other_writers_change_nothing(folder, model, store, prefix):
    write(folder, "peft", {prefix + key: tensor for key, tensor in low_rank(model, seed=1).items()})
    assert store.select([("peft", 1.0)]).key == store.select([("a", 1.0)]).key


def test_alpha_and_metadata_change_nothing(folder, model, store):
    tensors = low_rank(model, seed=1) | {f"{QUERY}.alpha": torch.tensor(6.0)}
    write(folder, "scaled", tensors, {"lora_adapter_metadata": '{"lora_alpha": 6, "r": 4, "use_rslora": true}'})
    assert store.select([("scaled", 1.0)]).key == store.select([("a", 1.0)]).key


def test_other_parts_of_the_official_file_are_left_alone(tmp_path, model):
    names = ("lyric_encoder.encoders.0.self_attn.linear_q", "projectors.0.0", "transformer_blocks.0.cross_attn.add_q_proj")
    others = {f"{name}.lora_{factor}.weight": torch.zeros(2, 2) for name in names for factor in "AB"}
    write(tmp_path, "lyrics", others)
    write(tmp_path, "both", others | low_rank(model, only=QUERY))
    store = AdapterStore(tmp_path, model, 4)
    assert store.select([("lyrics", 1.0)]) is None
    assert list(store.select([("both", 1.0)]).updates) == [model.get_submodule(QUERY)]


A, B = f"{QUERY}.lora_A.weight", f"{QUERY}.lora_B.weight"
BAD = {
    "an unknown module": ({"transformer_blocks.9.attn.to_q.lora_A.weight": (2, 16)}, "transformer_blocks.9.attn.to_q.lora_A.weight"),
    "no layer": ({"transformer_blocks.0.attn.lora_A.weight": (2, 16)}, "transformer_blocks.0.attn.lora_A.weight"),
    "a depthwise layer": ({"transformer_blocks.0.ff.depth_conv.conv.lora_A.weight": (2, 1, 3)}, "depth_conv.conv.lora_A.weight"),
    "an unknown suffix": ({f"{QUERY}.lora_magnitude_vector": (16,)}, "lora_magnitude_vector"),
    "a whole weight": ({f"{QUERY}.weight": (16, 16)}, f"{QUERY}.weight"),
    "an unknown prefix": ({f"unet.{A}": (2, 16), f"unet.{B}": (16, 2)}, f"unet.{QUERY}"),
    "half a pair": ({A: (3, 16), B: None}, rf"{A} has no lora_B.weight beside it"),
    "ranks that differ": ({A: (2, 16), B: (16, 3)}, rf"{B} has shape \[16, 3\], the layer and rank 2 ask for \[16, 2\]"),
    "rank 0": ({A: (0, 16), B: (16, 0)}, A),
    "wrong inputs": ({A: (3, 17), B: (16, 3)}, rf"{A} has shape \[3, 17\]"),
    "wrong outputs": ({A: (3, 16), B: (17, 3)}, rf"{B} has shape \[17, 3\]"),
    "a scalar": ({A: ()}, rf"{A} has shape \[\]"),
    "the same layer twice": ({f"transformer.{A}": (3, 16)}, "are for the same layer"),
    "an alpha of no layer": ({"unet.alpha": ()}, "unet.alpha"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_with_file_and_key(tmp_path, model, case):
    changes, message = BAD[case]
    tensors = low_rank(model, only=QUERY)
    for key, shape in changes.items():
        if shape is None:
            del tensors[key]
        else:
            tensors[key] = torch.zeros(shape)
            partner = key.replace("lora_A", "lora_B")
            if key.endswith("lora_A.weight") and partner not in tensors and partner not in changes:
                tensors[partner] = torch.zeros(16, 2)
    write(tmp_path, "bad", tensors)
    store = AdapterStore(tmp_path, model, 4)
    with pytest.raises(AdapterError, match=rf"bad/pytorch_lora_weights.safetensors: .*{message}"):
        store.select([("bad", 1.0)])


@pytest.mark.parametrize("values", [torch.full((3, 16), torch.nan), torch.zeros(3, 16, dtype=torch.int64)])
def test_only_finite_floating_point_values_are_taken(tmp_path, model, values):
    write(tmp_path, "bad", low_rank(model, only=QUERY) | {A: values})
    with pytest.raises(AdapterError, match=rf"{A} holds"):
        AdapterStore(tmp_path, model, 4).select([("bad", 1.0)])


def test_a_file_without_any_update_is_refused(tmp_path, model):
    write(tmp_path, "empty", {f"{QUERY}.alpha": torch.tensor(1.0)})
    with pytest.raises(AdapterError, match="holds no adapter"):
        AdapterStore(tmp_path, model, 4).select([("empty", 1.0)])


def test_pickles_are_not_read(tmp_path, model):
    (tmp_path / "pickled").mkdir()
    torch.save(low_rank(model), tmp_path / "pickled" / "pytorch_lora_weights.bin")
    (tmp_path / "renamed").mkdir()
    torch.save(low_rank(model), tmp_path / "renamed" / "pytorch_lora_weights.safetensors")
    store = AdapterStore(tmp_path, model, 4)
    with pytest.raises(AdapterError, match="only safetensors are read"):
        store.select([("pickled", 1.0)])
    with pytest.raises(AdapterError, match="renamed/.* cannot be read"):
        store.select([("renamed", 1.0)])


@pytest.mark.parametrize("name", ["c", "", ".", "..", "../store/a", "a/../a", "/a", "a\0", ".hidden", "a" * 129])
def test_a_name_that_is_none_is_not_found(tmp_path, model, name):
    (tmp_path / "store" / ".hidden").mkdir(parents=True)
    write(tmp_path / "store", ".hidden", low_rank(model))
    write(tmp_path / "store", "a", low_rank(model))
    with pytest.raises(NotFound):
        AdapterStore(tmp_path / "store", model, 4).select([(name, 1.0)])


def test_links_out_of_the_store_are_not_followed(tmp_path, model):
    store_folder, outside = tmp_path / "store", tmp_path / "outside"
    store_folder.mkdir()
    outside.mkdir()
    path = write(outside, "secret", low_rank(model))
    write(store_folder, "real", low_rank(model))
    (store_folder / "folder").symlink_to(outside / "secret")
    (store_folder / "file").mkdir()
    (store_folder / "file" / path.name).symlink_to(path)
    (store_folder / "alias").symlink_to("real")
    store = AdapterStore(store_folder, model, 4)
    assert store.names() == ["alias", "real"]
    assert store.select([("alias", 1.0)]) is not None
    for name in ("folder", "file"):
        with pytest.raises(AdapterError, match="leads out of the store"):
            store.select([(name, 1.0)])


def test_without_a_store_there_are_no_adapters(model):
    store = AdapterStore(None, model, 4)
    assert store.names() == []
    assert store.select([]) is None
    with pytest.raises(NotFound):
        store.select([("a", 1.0)])


def test_a_store_that_is_no_folder_stops_the_start(tmp_path, model):
    with pytest.raises(AdapterError, match="missing is no folder"):
        AdapterStore(tmp_path / "missing", model, 4)


def test_a_changed_file_is_loaded_again_and_an_unchanged_one_is_not(folder, model, store):
    first = store.select([("a", 1.0)])
    layer = model.get_submodule(QUERY)
    assert store.select([("a", 2.0)]).updates[layer][0].down is first.updates[layer][0].down
    path = write(folder, "a", low_rank(model, seed=9))
    os.utime(path, ns=(1, 1))
    assert store.select([("a", 1.0)]).key != first.key
    path.unlink()
    path.parent.rmdir()
    with pytest.raises(NotFound):
        store.select([("a", 1.0)])


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


def config(**fields):
    return {"lora_adapter_metadata": json.dumps(fields)}


@pytest.mark.parametrize(
    ("header", "alpha", "expected"),
    [
        (config(r=4, lora_alpha=6, use_rslora=True), None, 3.0),
        (config(r=4, lora_alpha=6), None, 1.5),
        (config(**{"transformer.lora_alpha": 2}), None, 0.5),
        (config(lora_alpha=6, alpha_pattern={"to_q": 8}), None, 2.0),
        (config(lora_alpha=6, alpha_pattern={"q": 8}), None, 1.5),
        (None, 4.0, 1.0),
        (config(lora_alpha=6, use_rslora=True), 4.0, 2.0),
    ],
)
def test_defect_28_the_trained_scale_counts_on_request_only(tmp_path, header, alpha, expected):
    model = tiny.transformer()
    tensors = low_rank(model, rank=4, only=QUERY)
    if alpha is not None:
        tensors[f"{QUERY}.alpha"] = torch.tensor(alpha)
    write(tmp_path, "a", tensors, header)
    store, layer = AdapterStore(tmp_path, model, 4), model.get_submodule(QUERY)
    parity, trained = store.select([("a", 0.5)]), store.select([("a", 0.5)], {"a"})
    assert parity.updates[layer][0].scale == 0.5
    assert trained.updates[layer][0].scale == pytest.approx(0.5 * expected)
    assert parity.key != trained.key
    assert store.loaded() == {"a": True}


BROKEN = [{"lora_adapter_metadata": "{"}, {"lora_adapter_metadata": "[]"}]


@pytest.mark.parametrize("header", [None, config(r=4), config(lora_alpha="6"), config(lora_alpha=True), *BROKEN])
def test_a_file_that_does_not_state_its_scale_is_refused_only_when_asked_for_it(tmp_path, header):
    model = tiny.transformer()
    write(tmp_path, "a", low_rank(model, only=QUERY), header)
    store = AdapterStore(tmp_path, model, 4)
    assert store.select([("a", 1.0)]) is not None
    assert store.loaded() == {"a": False}
    with pytest.raises(AdapterError, match="does not state the scale it was trained with"):
        store.select([("a", 1.0)], {"a"})


def test_defects_27_and_29_load_unload_and_load_again_apply_every_time(tmp_path):
    model = tiny.transformer()
    write(tmp_path, "a", low_rank(model, only=QUERY))
    store, digest = AdapterStore(tmp_path, model, 2), model_digest(model)
    store.load("a")
    first = store.select([("a", 1.0)])
    assert store.select([("a", 2.0)]).updates.keys() == first.updates.keys()
    store.unload("a")
    assert store.loaded() == {}
    store.unload("a")
    assert store.select([("a", 1.0)]).key == first.key
    assert model_digest(model) == digest
    with pytest.raises(NotFound):
        store.unload("b")
    with pytest.raises(NotFound):
        store.load("b")
    with pytest.raises(AdapterError, match="MAX_LOADED_ADAPTERS"):
        AdapterStore(tmp_path, model, 0).load("a")
