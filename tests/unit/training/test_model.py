from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from diffusion_svc.model.transformer import Row, timestep_features
from diffusion_svc.weights import load_transformer
from encoder_svc.weights import load_lyric_encoder
from training.checkpoint import load_trainable
from training.conditions import Conditions
from training.model import Prediction, TrainableTransformer

CPU = torch.device("cpu")
TIMESTEPS = torch.tensor([700.0, 120.5])
# Sums of some hundred float32 terms in another order.
SAME = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def model(checkpoint) -> TrainableTransformer:
    return load_trainable(checkpoint).eval()


def select(conditions: Conditions, item: int) -> Conditions:
    return Conditions(**{name: tensor[item : item + 1] for name, tensor in vars(conditions).items()})


def gradients(model: TrainableTransformer, prediction: Prediction) -> dict[str, Tensor]:
    model.zero_grad()
    outputs = [model.projectors[index](states).square().mean() for index, states in enumerate(prediction.hidden_states)]
    (prediction.velocity.square().mean() + sum(outputs)).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_prediction_is_what_the_stages_compute(model, checkpoint, batch):
    stage, encoder = load_transformer(checkpoint, CPU, torch.float32), load_lyric_encoder(checkpoint, CPU, torch.float32)
    given = batch.conditions
    with torch.no_grad():
        prediction = model.predict(batch.latents, TIMESTEPS, given)
        states = stage.embed_conditions(given.text, encoder(given.lyric_ids, given.lyric_mask), given.speaker)
        contexts = [stage.project_context(one, mask) for one, mask in zip(states, given.mask, strict=True)]
        rows = [Row(*fields) for fields in zip(batch.latents, stage.modulate(TIMESTEPS), contexts, strict=True)]
        torch.testing.assert_close(prediction.velocity, torch.stack(stage(rows)), **SAME)
        torch.testing.assert_close(torch.stack(model(rows)), torch.stack(stage(rows)), atol=0, rtol=0)


def test_defect_35_hidden_states_follow_the_entries_and_not_the_blocks(model, batch):
    with torch.no_grad():
        last, first = model.predict(batch.latents, TIMESTEPS, batch.conditions).hidden_states  # depths 2 and 0
        embedded = model.timestep_embedder(timestep_features(TIMESTEPS))
        torch.testing.assert_close(
            model.final_layer(last, embedded), model.predict(batch.latents, TIMESTEPS, batch.conditions).velocity, atol=0, rtol=0
        )
        assert not torch.allclose(first, last)


def test_padded_item_is_the_same_alone(model, batch):
    with torch.no_grad():
        padded = model.predict(batch.latents, TIMESTEPS, batch.conditions, batch.frame_mask)
        alone = model.predict(batch.latents[1:, ..., :9], TIMESTEPS[1:], select(batch.conditions, 1))
    torch.testing.assert_close(padded.velocity[1:, ..., :9], alone.velocity, **SAME)
    for together, single in zip(padded.hidden_states, alone.hidden_states, strict=True):
        torch.testing.assert_close(together[1:, :9], single, **SAME)


def test_padding_does_not_matter_for_gradients(model, batch):
    def gradient(latents: Tensor) -> dict[str, Tensor]:
        prediction = model.predict(latents, TIMESTEPS, batch.conditions, batch.frame_mask)
        mask = batch.frame_mask
        masked = Prediction(prediction.velocity * mask[:, None, None], tuple(s * mask[..., None] for s in prediction.hidden_states))
        return gradients(model, masked)

    other = batch.latents.clone()
    other[1, ..., 9:] = 100
    first, second = gradient(batch.latents), gradient(other)
    for name, expected in first.items():
        torch.testing.assert_close(second[name], expected, **SAME, msg=name)


def test_padding_leaks_when_the_recorded_form_is_asked_for(model, batch):
    other = batch.latents.clone()
    other[1, ..., 9:] = 100
    with torch.no_grad():
        first, second = (
            model.predict(latents, TIMESTEPS, batch.conditions, batch.frame_mask, isolate_padding=False).velocity
            for latents in (batch.latents, other)
        )
    assert not torch.allclose(first[1, ..., :9], second[1, ..., :9], atol=1e-2)


def test_gradients_reach_every_parameter(model, batch):
    found = gradients(model, model.predict(batch.latents, TIMESTEPS, batch.conditions))
    assert found.keys() == dict(model.named_parameters()).keys()
    # The key biases of the lyric encoder add the same number to a whole softmax row.
    still = {name for name, gradient in found.items() if not gradient.abs().max() > 1e-8}
    assert still == {f"lyric_encoder.encoders.{block}.self_attn.linear_k.bias" for block in range(2)} & still
    assert all(torch.isfinite(gradient).all() for gradient in found.values())


def test_items_without_any_lyrics_have_finite_gradients(model, batch):
    nothing = torch.zeros_like(batch.conditions.lyric_mask)
    conditions = replace(batch.conditions, lyric_ids=nothing, lyric_mask=nothing)
    found = gradients(model, model.predict(batch.latents, TIMESTEPS, conditions))
    assert all(torch.isfinite(gradient).all() for gradient in found.values())


def test_gradient_checkpointing_changes_no_gradient(checkpoint, model, batch):
    recomputing = load_trainable(checkpoint, gradient_checkpointing=True)
    plain = load_trainable(checkpoint)
    found = []
    for one in (recomputing, plain):
        torch.manual_seed(0)  # dropout of the lyric encoder
        found.append(gradients(one, one.predict(batch.latents, TIMESTEPS, batch.conditions, batch.frame_mask)))
    for name, expected in found[1].items():
        assert torch.equal(found[0][name], expected), name


def test_gradient_checkpointing_keeps_the_inputs_of_blocks_alone(tmp_path, config, write_transformer, batch):
    def kept_bytes(num_layers: int, gradient_checkpointing: bool) -> int:
        """What autograd keeps beside the parameters."""
        folder = tmp_path / f"{num_layers} {gradient_checkpointing}"
        one = load_trainable(write_transformer(folder, config | {"num_layers": num_layers}), gradient_checkpointing=gradient_checkpointing)
        parameters = {parameter.data_ptr() for parameter in one.parameters()}
        kept: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in parameters:
                kept[tensor.data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            prediction = one.predict(batch.latents, TIMESTEPS, batch.conditions)
        assert prediction.velocity.requires_grad
        return sum(tensor.nbytes for tensor in kept.values())

    assert kept_bytes(6, False) > 1.3 * kept_bytes(3, False)
    width = config["num_attention_heads"] * config["attention_head_dim"]
    assert kept_bytes(6, True) - kept_bytes(3, True) == 3 * batch.frame_mask.numel() * width * 4


def test_lyric_dropout_is_active_in_training_only(checkpoint, batch):
    one = load_trainable(checkpoint)
    with torch.no_grad():
        first, second = (one.predict(batch.latents, TIMESTEPS, batch.conditions).velocity for _ in range(2))
        assert not torch.equal(first, second)
        one.eval()
        first, second = (one.predict(batch.latents, TIMESTEPS, batch.conditions).velocity for _ in range(2))
    assert torch.equal(first, second)


def test_mixed_precision_stays_near_float32(model, batch):
    exact = model.predict(batch.latents, TIMESTEPS, batch.conditions)
    expected = gradients(model, exact)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.predict(batch.latents, TIMESTEPS, batch.conditions)
    assert (mixed.velocity.float() - exact.velocity).norm() < 0.03 * exact.velocity.norm()
    found = gradients(model, mixed)
    assert found.keys() == expected.keys()
    total = torch.cat([gradient.flatten() for gradient in expected.values()])
    assert (torch.cat([found[name].flatten() for name in expected]) - total).norm() < 0.05 * total.norm()


def test_sums_of_the_linear_attention_stay_in_float32_in_mixed_precision(model):
    class Products(TorchDispatchMode):
        types: list[torch.dtype]

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.bmm.default:
                self.types.append(args[0].dtype)
            return func(*args, **(kwargs or {}))

    products = Products()
    products.types = []
    tables = model.rotary.tables(torch.arange(5), torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), products:
        out = model.transformer_blocks[0].attn(torch.ones(2, 5, 16), model.rotary, tables, None)
    assert out.dtype is torch.bfloat16
    assert products.types == [torch.float32] * 3
