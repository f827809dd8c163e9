"""`acestep-train train`: run a recipe over preprocessed songs.

Beside what every run writes (`training/runs.py`) its folder has `checkpoints/step=N`: weights in the official layout, beside the other
networks of the checkpoint that the run started from, or, with --lora_config_path, a store of one adapter, named as the run; and samples
(`training/samples.py`).
"""

import argparse
import dataclasses
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from diffusion_svc.model.config import LATENT_CHANNELS, LATENT_HEIGHT, TransformerConfig
from diffusion_svc.weights import FOLDER, CheckpointError
from training.batches import Batch, MicroBatches
from training.checkpoint import load_trainable, save_transformer
from training.lora import LoraConfigError, adapter_state, add_adapter, read_lora_config, save_adapter
from training.model import TrainableTransformer
from training.recipes import RECIPES, Recipe
from training.runs import add_run_arguments, fit, overridden
from training.samples import Samples
from training.shards import DatasetError, ShardedDataset
from training.text_to_music import TextToMusic, frozen_weights

VALIDATION_BATCHES = 8


class Checkpoints(Callback):
    """Writes what is trained every so many steps and at the end, averaged if the run averages.

    Args:
        recipe: Of the run.
        lora: Settings of the adapter; None: the whole transformer is trained.
    """

    def __init__(self, recipe: Recipe, lora: Mapping[str, Any] | None) -> None:
        self.recipe = recipe
        self.lora = lora

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write after the last micro-batch of a step that is due."""
        step = trainer.global_step
        due = step % self.recipe.every_n_train_steps == 0 or step == trainer.max_steps
        target = self.recipe.folder / "checkpoints" / f"step={step}"
        if not due or (batch_idx + 1) % trainer.accumulate_grad_batches or target.exists():
            return
        weights = pl_module.final_weights()  # every process takes part
        if self.lora is None:
            weights |= frozen_weights(pl_module.model)
        if not trainer.is_global_zero:
            return
        if self.lora is None:
            export(pl_module.model, weights, self.recipe.checkpoint_dir, target)
        else:
            save_adapter(target / self.recipe.exp_name, adapter_state(pl_module.model, weights), self.lora)


def freeze(model: TrainableTransformer, beginnings: Sequence[str]) -> None:
    """Leave weights as they are.

    Args:
        model: Changed in place.
        beginnings: Of their names.
    Raises:
        ValueError: No weight is called so, or none is left to train.
    """
    for beginning in beginnings:
        named = [parameter for name, parameter in model.named_parameters() if name.startswith(beginning)]
        if not named:
            raise ValueError(f"frozen names {beginning!r}, with which no weight of this transformer begins")
        for parameter in named:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"frozen {list(beginnings)} leaves nothing to train")


def export(
    model: TrainableTransformer, weights: Mapping[str, Tensor], source: Path, target: Path, dtype: torch.dtype = torch.float16
) -> None:
    """Write a checkpoint in the official layout.

    Args:
        model: Says the configuration.
        weights: Of the model, whole.
        source: Checkpoint that the other networks are copied from.
        target: Must not exist.
        dtype: Of the transformer's file.
    """
    partial = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, ignore=shutil.ignore_patterns(FOLDER))
    save_transformer(model, partial, dtype, with_dead=False, weights=weights)
    partial.rename(target)


def train(recipe: Recipe, ckpt_path: Path | None = None, max_time: float | None = None) -> Path:
    """Run a recipe.

    Args:
        recipe: What to run.
        ckpt_path: A `last.ckpt` to go on from.
        max_time: Stop after so many seconds; a resume goes on.
    Returns:
        The run's folder.
    Raises:
        DatasetError: There is no dataset, or not one song that can be read.
        CheckpointError: The weights to start from cannot be loaded.
        LoraConfigError: The adapter's configuration does not fit.
        ValueError: The dataset was made for networks of other widths.
    """
    torch.manual_seed(recipe.seed)
    dataset = ShardedDataset(recipe.dataset_path)
    lora = None if recipe.lora_config_path is None else read_lora_config(recipe.lora_config_path)
    frozen = torch.bfloat16 if lora is not None and recipe.frozen_precision == "bf16" else torch.float32
    model = load_trainable(recipe.checkpoint_dir, dtype=frozen, gradient_checkpointing=recipe.gradient_checkpointing)
    batches = MicroBatches(dataset, recipe.buckets, recipe.seed)
    first = batches[0]
    check_widths(first, model.config)
    freeze(model, recipe.frozen)
    if lora is not None:
        add_adapter(model, lora)
    if recipe.epochs != -1:
        recipe = dataclasses.replace(recipe, max_steps=min(recipe.max_steps, steps_of_epochs(recipe, len(dataset))))
    module = TextToMusic(model, recipe.objective, recipe.max_steps, recipe.seed)
    callbacks: list[Callback] = [Checkpoints(recipe, lora)]
    if recipe.every_plot_step:
        callbacks.append(Samples(recipe.folder, recipe.checkpoint_dir, recipe.every_plot_step, recipe.samples, first))
    validation = None
    if recipe.validation_path is not None:
        held_out = MicroBatches(ShardedDataset(recipe.validation_path), recipe.buckets, recipe.seed)
        validation = DataLoader(Subset(held_out, range(VALIDATION_BATCHES)), batch_size=None)
    interval = None if validation is None else recipe.val_check_interval or recipe.every_n_train_steps
    return fit(recipe, module, batches, callbacks, ckpt_path, max_time, validation, interval)


def check_widths(batch: Batch, config: TransformerConfig) -> None:
    """Compare the widths of a batch with the transformer's.

    Raises:
        ValueError: The dataset was made for other networks; the message says where they differ.
    """
    pairs = {
        "text states": (batch.conditions.text.shape[-1], config.text_embedding_dim),
        "speaker vectors": (batch.conditions.speaker.shape[-1], config.speaker_embedding_dim),
        "latents": (tuple(batch.latents.shape[1:3]), (LATENT_CHANNELS, LATENT_HEIGHT)),
    }
    widths = dict(zip(config.ssl_names, config.ssl_latent_dims, strict=True))
    pairs |= {f"features {name}": (items[0].shape[-1], widths[name]) for name, items in batch.features.items() if name in widths}
    for name, (found, expected) in pairs.items():
        if found != expected:
            raise ValueError(
                f"the dataset's {name} have width {found}, the checkpoint asks for {expected}: preprocess with this checkpoint"
            )


def embedded_checkpoint() -> Path:
    """Folder of the small checkpoint that comes with the package."""
    return Path(str(resources.files("clients") / "checkpoint"))


def _coefficient(text: str) -> tuple[str, float | tuple[tuple[float, float], ...]]:
    """NAME=WEIGHT or NAME=SHARE:WEIGHT,SHARE:WEIGHT,..."""
    name, _, value = text.partition("=")
    try:
        if ":" not in value:
            return name, float(value)
        points = tuple((float(share), float(weight)) for share, _, weight in (point.partition(":") for point in value.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither NAME=WEIGHT nor NAME=SHARE:WEIGHT,...") from error
    if sorted(points) != list(points) or not all(0 <= share <= 1 for share, _ in points):
        raise argparse.ArgumentTypeError(f"{text!r}: shares of the run must ascend from 0 to 1")
    return name, points


def steps_of_epochs(recipe: Recipe, num_songs: int) -> int:
    """Steps after which as many crops have been drawn, on average, as `epochs` passes over the songs have."""
    shares = sum(bucket.share for bucket in recipe.buckets)
    crops = sum(bucket.batch_size * bucket.share for bucket in recipe.buckets) / shares
    per_step = crops * recipe.accumulate_grad_batches * recipe.devices * recipe.num_nodes
    return max(1, math.ceil(recipe.epochs * num_songs / per_step))


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="acestep-train train", description=__doc__)
    parser.add_argument("--dataset_path", type=Path, required=True, help="folder that preprocess wrote")
    parser.add_argument("--checkpoint_dir", type=Path, help="weights to start from; default: the small model of this package")
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="base", help="defaults of everything else; base: the reference's")
    parser.add_argument("--lora_config_path", type=Path, help="JSON of a LoRA configuration: train an adapter only")
    parser.add_argument("--learning_rate", type=float, help="at its peak")
    parser.add_argument("--shift", type=float, help="of the noise levels")
    parser.add_argument(
        "--ssl_coefficient",
        type=_coefficient,
        action="append",
        default=[],
        metavar="NAME=WEIGHT",
        help="weight of a projection loss, or points of the run's share and the weight: m-hubert=0:1,0.8:1,0.85:0.01",
    )
    parser.add_argument("--epochs", type=int, help="passes over the songs; -1: max_steps alone")
    parser.add_argument("--every_plot_step", type=int, help="steps between samples; 0: none")
    parser.add_argument("--validation_path", type=Path, help="preprocessed songs to validate on")
    parser.add_argument("--val_check_interval", type=int, help="steps between validations")
    parser.add_argument("--gradient_checkpointing", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument("--frozen_precision", help="of the weights under an adapter: 32 or bf16")
    parser.add_argument(
        "--reload_dataloaders_every_n_epochs",
        type=int,
        help="for the reference's command lines: batches are drawn anew throughout, nothing needs reloading",
    )
    add_run_arguments(parser)
    options = vars(parser.parse_args(arguments))
    try:
        recipe = RECIPES[options["recipe"]](options["dataset_path"], options["checkpoint_dir"] or embedded_checkpoint())
        changes = {name: options[name] for name in ("learning_rate", "shift") if options[name] is not None}
        changes["ssl_coefficients"] = {**recipe.objective.ssl_coefficients, **dict(options["ssl_coefficient"])}
        objective = dataclasses.replace(recipe.objective, **changes)
        del options["checkpoint_dir"]
        recipe = overridden(dataclasses.replace(recipe, objective=objective), options)
        print(train(recipe, options["ckpt_path"], options["max_time"]))
    except (DatasetError, CheckpointError, LoraConfigError, ValueError) as error:
        print(f"acestep-train train: {error}", file=sys.stderr)
        return 1
    return 0
