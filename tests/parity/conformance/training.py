"""The trainer: losses and gradients of one batch, noise levels, learning rates, features of audio encoders."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusion_svc.weights import FOLDER, WEIGHTS_NAME
from training.checkpoint import load_trainable
from training.conditions import Conditions
from training.flow_matching import add_noise, draw_timestep_indices, flow_matching_losses, noise_levels
from training.learning_rate import learning_rate_multiplier
from training.model import TrainableTransformer
from training.projection_losses import projection_losses
from training.ssl_features import MERT, MHUBERT, SOURCE_RATE, ssl_features

Tensors = Mapping[str, Tensor]
Computed = tuple[str, Callable[[], Tensors], Tensors, float, float]
"""Name of a case, our outputs, the recorded ones, atol, rtol."""

# Of tensors that are compared by element, beside a relative tolerance: float32 sums of some hundred terms around 1.
ELEMENT_ATOL = 1e-5
# The bias of the lyric encoder's keys cannot influence the result: its gradient is rounding, 1e-9 here.
GRADIENT_NORM_ATOL = 1e-6
# The quantiles are recorded over the first half of the draws, all else of the density over all of them.
QUANTILE_DRAWS = 100_000


def cases(folder: Path, entry: Mapping[str, Any]) -> Iterator[Computed]:
    """The cases of one entry: a recorded training step has several."""
    report = json.loads((folder / entry["report"]).read_text())
    if "tensors" in entry:
        expected = load_file(folder / entry["tensors"])
        yield "", lambda: _features(report, expected), _without(expected, {"wav_lengths"}), entry["tolerance"]["atol"], 0.0
        return
    inputs = load_file(folder / entry["inputs"])
    step = cache(lambda: _Step(folder / entry["model"], inputs, report))
    loss_rtol, grad_rtol = entry["tolerance"]["loss_rtol"], entry["tolerance"]["grad_norm_rtol"]
    recorded = ("model_output", "noisy_latents", "sigmas", "timesteps")
    logged = {name: torch.tensor(value) for name, value in report["logged"].items()} | {"total": torch.tensor(report["total_loss"])}
    yield ".losses", lambda: step().losses, logged, 0.0, loss_rtol
    yield ".tensors", lambda: step().tensors, {name: inputs[name] for name in recorded}, ELEMENT_ATOL, loss_rtol
    norms = {name: torch.tensor(value) for name, value in report["gradient_norms"].items()}
    norms["total"] = torch.tensor(report["gradient_norm_total"])
    yield ".gradient_norms", lambda: step().gradient_norms, norms, GRADIENT_NORM_ATOL, grad_rtol
    gradients = {name: tensor for name, tensor in inputs.items() if name.startswith("grad.")}
    yield ".gradients", lambda: step().gradients, gradients, ELEMENT_ATOL, grad_rtol
    yield ".schedules", lambda: _schedules(report), _recorded_schedules(report), 0.0, loss_rtol


class _Step:
    """One training step without its optimiser."""

    def __init__(self, model_folder: Path, inputs: Tensors, report: Mapping[str, Any]) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            model = _load(model_folder)
            assert bool((inputs["attention_mask"] == 1).all())
            sigmas = noise_levels(report["schedule"]["shift"])[inputs["timestep_indices"]]
            conditions = Conditions(
                text=inputs["encoder_text_hidden_states"],
                text_mask=inputs["text_attention_mask"],
                speaker=inputs["speaker_embeds"],
                lyric_ids=inputs["lyric_token_ids"],
                lyric_mask=inputs["lyric_mask"],
            )
            latents, noise = inputs["target_latents"], inputs["noise"]
            targets = [[inputs[f"{encoder}.{item}"] for item in range(len(latents))] for encoder in ("mert", "mhubert")]
            coefficients = dict.fromkeys(model.config.ssl_names, report["ssl_coeff"])
            losses = flow_matching_losses(model, latents, conditions, targets, coefficients, noise, sigmas)
            losses.total.backward()  # type: ignore[no-untyped-call]
            noisy = add_noise(latents, noise, sigmas)
            velocity = model.predict(noisy, 1000 * sigmas, conditions).velocity
            gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
        self.tensors = {"model_output": velocity.detach(), "noisy_latents": noisy, "sigmas": sigmas, "timesteps": 1000 * sigmas}
        self.losses = {f"train/{name}_loss": loss.detach() for name, loss in losses.projections.items()} | {
            "train/denoising_loss": losses.denoising.detach(),
            "train/loss": losses.total.detach(),
            "total": losses.total.detach(),
        }
        self.gradients = {f"grad.{name}": gradient for name, gradient in gradients.items()}
        self.gradient_norms = {name: gradient.norm() for name, gradient in gradients.items()}
        self.gradient_norms["total"] = torch.stack(list(self.gradient_norms.values())).norm()


def _load(folder: Path) -> TrainableTransformer:
    """Through our loader, after filling in the embedding, of which only the used rows are recorded. Recorded without dropout."""
    tensors = load_file(folder / WEIGHTS_NAME)
    config = json.loads((folder / "config.json").read_text())
    rows = tensors.pop("lyric_embs.used_rows")
    embedding = torch.zeros(config["lyric_encoder_vocab_size"], config["lyric_hidden_size"])
    embedding[rows] = tensors.pop("lyric_embs.used_values")
    with tempfile.TemporaryDirectory() as checkpoint:
        dense = Path(checkpoint) / FOLDER
        dense.mkdir()
        save_file(tensors | {"lyric_embs.weight": embedding}, dense / WEIGHTS_NAME)
        (dense / "config.json").write_text(json.dumps(config))
        return load_trainable(Path(checkpoint)).eval()


def _schedules(report: Mapping[str, Any]) -> Tensors:
    sigmas = noise_levels(report["schedule"]["shift"])
    density, rates = report["timestep_density"], report["lr_multiplier"]
    drawn = 1000 * sigmas[draw_timestep_indices(density["n"], torch.Generator().manual_seed(density["seed"]))]
    wide = drawn.double()
    return {
        "first": torch.stack([1000 * sigmas[:5], sigmas[:5]]),
        "last": torch.stack([1000 * sigmas[-5:], sigmas[-5:]]),
        "density": torch.stack([wide.mean(), wide.std(), wide.min(), wide.max()]),
        "density quantiles": torch.quantile(wide[:QUANTILE_DRAWS], wide.new_tensor([float(level) for level in density["quantiles"]])),
        "density draws": drawn[: len(density["first_16_for_seed"])],
        "learning rates": torch.tensor(
            [
                learning_rate_multiplier(int(step), report["lr_max_steps"], report["lr_warmup_steps"], first_step_at_zero=True)
                for step in rates
            ]
        ),
    }


def _recorded_schedules(report: Mapping[str, Any]) -> Tensors:
    schedule, density = report["schedule"], report["timestep_density"]
    return {
        "first": torch.tensor([schedule["timesteps_first"], schedule["sigmas_first"]]),
        "last": torch.tensor([schedule["timesteps_last"], schedule["sigmas_last"]]),
        "density": torch.tensor([density[name] for name in ("mean", "std", "min", "max")]),
        "density quantiles": torch.tensor(list(density["quantiles"].values())),
        "density draws": torch.tensor(density["first_16_for_seed"]),
        "learning rates": torch.tensor(list(report["lr_multiplier"].values())),
    }


def _features(report: Mapping[str, Any], expected: Tensors) -> Tensors:
    """The recorded audio is a formula, and so is the encoder."""
    lengths = report["lengths"]
    times = torch.arange(max(lengths)) / SOURCE_RATE
    base = 0.3 * torch.sin(2 * torch.pi * (220 * times + 40 * times * times)) * (0.3 + 0.7 * torch.sin(3 * times).abs()) + 0.1
    first = torch.stack([base, base.flip(0) * 0.5])
    waveforms = [item[:, :length] for item, length in zip((first, 0.6 * first), lengths, strict=True)]

    def extractor(chunks: Tensor) -> Tensor:
        blocks = chunks[:, : chunks.shape[1] // 320 * 320].unflatten(1, (-1, 320))
        return torch.stack([blocks.mean(-1), blocks.std(-1), blocks.amax(-1), blocks[..., 0]], dim=-1)

    features = {
        f"{name}.{index}": item
        for name, ssl in (("mert", MERT), ("mhubert", MHUBERT))
        for index, item in enumerate(ssl_features(waveforms, ssl, extractor))
    }
    assert features.keys() == expected.keys() - {"wav_lengths"}
    return features


def recorded_projection_losses(model: TrainableTransformer, inputs: Tensors) -> Tensors:
    """The single evaluation with projection losses; the recording lets padding leak."""
    conditions = Conditions(
        text=inputs["encoder_text_hidden_states"],
        text_mask=inputs["text_attention_mask"],
        speaker=inputs["speaker_embeds"],
        lyric_ids=inputs["lyric_token_idx"],
        lyric_mask=inputs["lyric_mask"],
    )
    prediction = model.predict(inputs["hidden_states"], inputs["timestep"], conditions, inputs["attention_mask"], isolate_padding=False)
    names = model.config.ssl_names
    batch = range(len(inputs["hidden_states"]))
    targets = [[inputs[f"ssl_{encoder}_{item}"] for item in batch] for encoder in range(len(names))]
    both = projection_losses(model.projectors, names, prediction.hidden_states, targets)  # type: ignore[arg-type]
    without_first = projection_losses(model.projectors, names, prediction.hidden_states, [None, *targets[1:]])  # type: ignore[arg-type]
    return {
        "sample": prediction.velocity,
        **{f"proj_loss_{index}": loss[None] for index, (_, loss) in enumerate(both)},
        "first_missing_proj_loss": without_first[0][1][None],
    }


def _without(tensors: Tensors, names: set[str]) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name not in names}
