import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from diffusion_svc.adapters import AdapterStore
from diffusion_svc.sampler import Sampler, SamplingRequest
from diffusion_svc.tasks import TextToMusic
from diffusion_svc.weights import load_transformer
from tests.unit.training.tiny_run import recipe, write_dataset
from training.batches import MicroBatches
from training.checkpoint import load_trainable
from training.lora import LoraConfigError, add_adapter, read_lora_config
from training.recipes import LORA_CONFIGS
from training.samples import SampleSettings, condition_states, sample
from training.shards import ShardedDataset
from training.text_to_music import Objective
from training.train import train

SETTINGS = {"r": 2, "lora_alpha": 4, "use_rslora": True, "target_modules": ["linear_q", "to_q", "to_out.0", "speaker_embedder"]}
PLAIN = Objective(learning_rate=1e-2, warmup_steps=1, ema_decay=0.5)
UNGUIDED = SampleSettings(infer_step=3, guidance_scale=1.0, omega_scale=0.0)
# The same sums in another order in float32; values are of order 1.
REORDERED = 2e-5


@pytest.fixture(scope="module")
def config_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lora") / "config.json"
    path.write_text(json.dumps(SETTINGS))
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset") / "songs")


@pytest.fixture(scope="module")
def run(dataset, checkpoint, config_path, tmp_path_factory) -> Path:
    tiny = recipe(dataset, checkpoint, tmp_path_factory.mktemp("runs"), objective=PLAIN, lora_config_path=config_path, max_steps=4)
    return train(tiny)


def written(tmp_path: Path, settings: object) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings))
    return path


def test_a_run_writes_the_adapter_and_nothing_else(run):
    files = sorted(path.name for path in (run / "checkpoints/step=4/text2music_train_test").iterdir())
    assert files == ["adapter.json", "pytorch_lora_weights.safetensors"]
    tensors = load_file(run / "checkpoints/step=4/text2music_train_test/pytorch_lora_weights.safetensors")
    assert "transformer_blocks.0.attn.to_q.lora_A.weight" in tensors
    assert "lyric_encoder.encoders.1.self_attn.linear_q.lora_B.weight" in tensors
    assert all(".lora_A.weight" in name or ".lora_B.weight" in name for name in tensors)
    assert all(bool(tensor.any()) for name, tensor in tensors.items() if name.startswith("transformer_blocks"))


def test_the_header_says_rank_and_alpha(run):
    with safe_open(run / "checkpoints/step=4/text2music_train_test/pytorch_lora_weights.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["lora_adapter_metadata"])
    assert {name: about[name] for name in SETTINGS} == SETTINGS


def test_a_checkpoint_of_the_run_holds_no_frozen_weight(run):
    state = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    assert state
    assert all("lora_" in name for name in state)


def test_an_adapter_freezes_everything_else(checkpoint):
    model = load_trainable(checkpoint)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    add_adapter(model, SETTINGS)
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad and "lora_" not in name] == []
    for name, tensor in model.state_dict().items():
        if "lora_" not in name:
            assert torch.equal(tensor, before[name.replace(".base_layer", "")])


def test_the_stage_that_serves_an_adapter_computes_what_training_does(run, dataset, checkpoint, batch, tmp_path):
    """The scale that training applies, alpha over the root of the rank, is the user's when it is served."""
    item = MicroBatches(ShardedDataset(dataset), recipe(dataset, checkpoint, tmp_path).buckets, 0)[0]
    folder = run / "checkpoints/step=4/text2music_train_test"
    model = load_trainable(checkpoint).eval()
    plain = sample(model, item, 0, UNGUIDED, seed=5)
    add_adapter(model, read_lora_config(folder / "adapter.json"))
    own = dict(model.named_parameters())
    for name, tensor in load_file(folder / "pytorch_lora_weights.safetensors").items():
        own[name.replace("_A.", "_A.default.").replace("_B.", "_B.default.")].data.copy_(tensor)
    trained = sample(model, item, 0, UNGUIDED, seed=5)
    assert (trained - plain).abs().max() > 100 * REORDERED

    served = load_transformer(checkpoint, torch.device("cpu"), torch.float32)
    adaptation = AdapterStore(folder.parent, served, 1).select([("text2music_train_test", SETTINGS["lora_alpha"] / SETTINGS["r"] ** 0.5)])
    sampler = Sampler(served)
    task = TextToMusic(trained.shape[-1])
    states = condition_states(model, item, 0)
    (song,) = sampler.start(SamplingRequest(states, UNGUIDED.params(), (5,), task, adaptation))
    while song.result is None:
        sampler.tick([song])
    torch.testing.assert_close(song.result, trained, atol=REORDERED, rtol=0)


@pytest.mark.parametrize("path", sorted(LORA_CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_presets_fit_the_network(path, checkpoint):
    model = load_trainable(checkpoint)
    add_adapter(model, read_lora_config(path) | {"r": 2})
    assert any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": 0}, "r is 0; it must be 1 or more"),
        ({"r": "8"}, "r is '8'; it must be of type int"),
        ({"use_rslora": 1}, "use_rslora is 1; it must be of type bool"),
        ({"target_modules": []}, "target_modules is missing"),
        ({"use_dora": True}, "use_dora is True; an adapter's settings are r, lora_alpha"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"ranks": 8}, "ranks is 8"),
    ],
)
def test_settings_that_no_adapter_can_have_are_refused(change, message, tmp_path):
    with pytest.raises(LoraConfigError, match=message):
        read_lora_config(written(tmp_path, SETTINGS | change))


def test_a_file_as_peft_writes_it_is_read(tmp_path):
    beside = {"peft_type": "LORA", "bias": "none", "modules_to_save": None, "layers_to_transform": None, "use_dora": False}
    assert read_lora_config(written(tmp_path, SETTINGS | beside)) == SETTINGS


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_file_that_is_no_object_is_refused(content, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(LoraConfigError, match=str(path)):
        read_lora_config(path)


@pytest.mark.parametrize(("target", "message"), [("point_conv.conv", "a Conv1d; allowed: linear layers"), ("to_nothing", "to_nothing")])
def test_layers_that_cannot_be_adapted_are_refused(target, message, checkpoint):
    with pytest.raises(LoraConfigError, match=message):
        add_adapter(load_trainable(checkpoint), SETTINGS | {"target_modules": [target]})
