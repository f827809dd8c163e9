"""`acestep-train train`: run a recipe over preprocessed songs, on Lightning.

A run has a folder `<logger_dir>/<exp_name>`: TensorBoard's events, `last.ckpt` (everything that a resume needs) and `checkpoints/step=N`,
the weights in the official layout, beside the other networks of the checkpoint that the run started from.
"""

import argparse
import dataclasses
import shutil
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from training.batches import MicroBatches, Numbers
from training.checkpoint import load_trainable, save_transformer
from training.recipes import RECIPES, Recipe
from training.shards import ShardedDataset
from training.text_to_music import TextToMusic

TRANSFORMER_FOLDER = "ace_step_transformer"


class OfficialCheckpoints(Callback):
    """Writes the weights in the official layout every so many steps, averaged ones if the run averages.

    Args:
        folder: Receives `step=N` folders.
        source: Checkpoint whose other networks are copied.
        every: Steps.
        dtype: Of the files.
    """

    def __init__(self, folder: Path, source: Path, every: int, dtype: torch.dtype) -> None:
        self.folder = folder
        self.source = source
        self.every = every
        self.dtype = dtype

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write after the last micro-batch of a step that is due."""
        step = trainer.global_step
        due = step % self.every == 0 or step == trainer.max_steps
        target = self.folder / f"step={step}"
        if due and (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and trainer.is_global_zero and not target.exists():
            export(pl_module, self.source, target, self.dtype)


def export(module: TextToMusic, source: Path, target: Path, dtype: torch.dtype) -> None:
    """Write a checkpoint in the official layout.

    Args:
        module: Its averaged weights are written if it has some.
        source: Checkpoint that the other networks are copied from.
        target: Must not exist.
        dtype: Of the transformer's file.
    """
    partial = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, ignore=shutil.ignore_patterns(TRANSFORMER_FOLDER))
    kept = {name: parameter.detach().clone() for name, parameter in module.model.named_parameters() if name in module.averaged}
    try:
        module.model.load_state_dict(module.averaged, strict=False)
        save_transformer(module.model, partial, dtype, with_dead=False)
    finally:
        module.model.load_state_dict(kept, strict=False)
    partial.rename(target)


def train(recipe: Recipe, resume: Path | None = None, seconds: float | None = None) -> Path:
    """Run a recipe.

    Args:
        recipe: What to run.
        resume: A `last.ckpt` to go on from.
        seconds: Stop after this long, as if killed between two steps; resume goes on. None: run to the end.
    Returns:
        The run's folder.
    """
    torch.manual_seed(recipe.seed)
    folder = recipe.logger_dir / recipe.exp_name
    model = load_trainable(recipe.checkpoint_dir, gradient_checkpointing=recipe.gradient_checkpointing)
    module = TextToMusic(model, recipe.objective, recipe.max_steps, recipe.seed)
    saved = ModelCheckpoint(folder, filename="last", every_n_train_steps=recipe.every_n_train_steps, enable_version_counter=False)
    official = OfficialCheckpoints(folder / "checkpoints", recipe.checkpoint_dir, recipe.every_n_train_steps, torch.float16)
    trainer = Trainer(
        accelerator="auto",
        devices=recipe.devices,
        num_nodes=recipe.num_nodes,
        # A projector without targets gets no gradient.
        strategy="ddp_find_unused_parameters_true" if recipe.devices * recipe.num_nodes > 1 else "auto",
        precision=_precision(recipe.precision),
        max_steps=recipe.max_steps,
        max_time=None if seconds is None else timedelta(seconds=seconds),
        accumulate_grad_batches=recipe.accumulate_grad_batches,
        gradient_clip_val=recipe.gradient_clip_val,
        gradient_clip_algorithm=recipe.gradient_clip_algorithm,
        callbacks=[saved, official],
        logger=TensorBoardLogger(recipe.logger_dir, name=recipe.exp_name, version=""),
        log_every_n_steps=10,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
    )
    first = 0 if resume is None else int(torch.load(resume, map_location="cpu", weights_only=True)["global_step"])
    world = trainer.world_size
    per_step = recipe.accumulate_grad_batches
    numbers = Numbers(recipe.max_steps * per_step * world, trainer.global_rank, world, first * per_step)
    batches = MicroBatches(ShardedDataset(recipe.dataset_path), recipe.buckets, recipe.seed)
    loader = DataLoader(
        batches, batch_size=None, sampler=numbers, num_workers=recipe.num_workers, persistent_workers=recipe.num_workers > 0
    )
    trainer.fit(module, loader, ckpt_path=resume)
    trainer.save_checkpoint(folder / "last.ckpt")  # every process takes part
    return folder


def _precision(name: str) -> Literal["bf16-mixed", "32-true"]:
    """The reference's names too: fp32, 32."""
    if name == "bf16-mixed":
        return "bf16-mixed"
    if name in ("32", "fp32", "32-true"):
        return "32-true"
    raise ValueError(f"precision is {name!r}; there are bf16-mixed, 32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the command: fields of the recipe, by their names."""
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="base")
    parser.add_argument("--dataset_path", type=Path, required=True)
    parser.add_argument("--checkpoint_dir", type=Path, required=True)
    parser.add_argument("--ckpt_path", type=Path, help="last.ckpt of a run to go on with")
    parser.add_argument("--max_time", type=float, metavar="SECONDS", help="stop after this long")
    for name, kind in (
        ("max_steps", int),
        ("precision", str),
        ("devices", int),
        ("num_nodes", int),
        ("accumulate_grad_batches", int),
        ("num_workers", int),
        ("gradient_clip_val", float),
        ("gradient_clip_algorithm", str),
        ("every_n_train_steps", int),
        ("exp_name", str),
        ("logger_dir", Path),
        ("seed", int),
    ):
        parser.add_argument(f"--{name}", type=kind)


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    add_arguments(parser)
    options = vars(parser.parse_args(arguments))
    recipe = RECIPES[options["recipe"]](options["dataset_path"], options["checkpoint_dir"])
    fields = {field.name for field in dataclasses.fields(Recipe)}
    recipe = dataclasses.replace(recipe, **{name: value for name, value in options.items() if name in fields and value is not None})
    print(train(recipe, options["ckpt_path"], options["max_time"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
