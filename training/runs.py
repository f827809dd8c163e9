"""What every trainer shares: a run's settings, its command line, and Lightning set up so that neither resumes nor processes change it.

A run has a folder `<logger_dir>/<exp_name>`: TensorBoard's events and `last.ckpt`, everything that a resume needs. Batches come by number
(`training/batches.py`), so a run is one endless pass.
"""

import argparse
import dataclasses
import logging
import re
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch.utils.data import DataLoader, Dataset

from training.batches import Numbers
from training.throughput import Throughput, TimedLoader

LAST = "last.ckpt"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
NOT_FOR_USERS = (
    "You defined a `validation_step` but have no `val_dataloader`",
    "Checkpoint directory .* exists and is not empty",
    "You're resuming from a checkpoint that ended before the epoch ended",  # batches come by number
    "The '.*_dataloader' does not have many workers",  # the user's choice
    "Using ModelCheckpoint with manual optimization and every_n_train_steps",  # the weights after the step are what a resume needs
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
)
"""Beginnings of Lightning's warnings about what runs do on purpose."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Settings of any run. Defaults are those of the reference's command line.

    Attributes:
        max_steps: Optimiser steps.
        precision: "bf16-mixed" or "32".
        devices: Of a node; on a CPU: processes.
        num_nodes: Computers.
        strategy: "ddp": every device holds the network; "fsdp": devices share it.
        accumulate_grad_batches: Micro-batches of a step.
        num_workers: Processes that read data, for each device.
        gradient_clip_val: Largest gradient norm or value; 0: any.
        gradient_clip_algorithm: "norm" or "value".
        every_n_train_steps: Steps between checkpoints.
        exp_name: Of the run's folder.
        logger_dir: Where runs have their folders.
        seed: Of everything that is random.
    """

    max_steps: int = 2_000_000
    precision: str = "bf16-mixed"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "ddp"
    accumulate_grad_batches: int = 1
    num_workers: int = 8
    gradient_clip_val: float = 0.5
    gradient_clip_algorithm: str = "norm"
    every_n_train_steps: int = 2000
    exp_name: str = "text2music_train_test"
    logger_dir: Path = Path("exps/logs")
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what Lightning would not, or not at once."""
        for name in ("max_steps", "devices", "num_nodes", "accumulate_grad_batches", "every_n_train_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("num_workers", "gradient_clip_val", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        for name, choices in (("strategy", ("ddp", "fsdp")), ("gradient_clip_algorithm", ("norm", "value"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; there are {', '.join(choices)}")
        _precision(self.precision)
        if not NAME.fullmatch(self.exp_name):
            raise ValueError(
                f"exp_name is {self.exp_name!r}; it must be 1 to 128 letters, digits, '.', '_', '-', the first a letter or a digit"
            )

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.logger_dir / self.exp_name


RunT = TypeVar("RunT", bound=Run)


def add_run_arguments(parser: argparse.ArgumentParser, of: type[Run] = Run) -> None:
    """Flags of a trainer's command line: the settings by their names, and --ckpt_path and --max_time of `fit`.

    Args:
        parser: Of the command.
        of: Kind of run; its settings with a plain default (a number, a word, a path) are flags.
    """
    documented = _documented(of)
    for field in dataclasses.fields(of):
        if isinstance(field.default, int | float | str | Path):
            parser.add_argument(f"--{field.name}", type=type(field.default), help=documented[field.name])
    parser.add_argument("--ckpt_path", type=Path, help=f"{LAST} of a run to go on with")
    parser.add_argument("--max_time", type=float, help="stop after so many seconds; --ckpt_path goes on")


def overridden(run: RunT, options: Mapping[str, Any]) -> RunT:
    """A run with the settings that a command line gave; options that are None or no setting are left alone."""
    fields = {field.name for field in dataclasses.fields(run)}
    return dataclasses.replace(run, **{name: value for name, value in options.items() if name in fields and value is not None})


class Deadline(Callback):
    """Ends a run after so many seconds, and never inside a step: the micro-batches of a cut step would be missing at the run's end.

    Unlike Lightning's timer it counts the seconds of this process only, not those of the runs that it goes on from.

    Args:
        seconds: From the start of training.
        batches_per_step: Micro-batches.
    """

    def __init__(self, seconds: float, batches_per_step: int) -> None:
        self.seconds = seconds
        self.batches_per_step = batches_per_step
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The clock starts."""
        self._started = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """All processes stop when the first one's time is over."""
        over = time.monotonic() - self._started >= self.seconds
        if (batch_idx + 1) % self.batches_per_step == 0 and trainer.strategy.broadcast(over):
            trainer.should_stop = True


def fit(
    run: Run,
    module: LightningModule,
    batches: Dataset[Any],
    callbacks: Sequence[Callback] = (),
    ckpt_path: Path | None = None,
    max_time: float | None = None,
    validation: DataLoader[Any] | None = None,
    val_check_interval: int | None = None,
) -> Path:
    """Train.

    Args:
        run: Its settings.
        module: What is trained. With automatic optimisation Lightning accumulates and clips; a module that does it by hand takes one step
            that Lightning counts (of a `LightningOptimizer`) for every `accumulate_grad_batches` micro-batches.
        batches: By number, for as long as the run lasts; each says its `audio_seconds`.
        callbacks: Beside the one that writes `last.ckpt`.
        ckpt_path: A `last.ckpt` to go on from.
        max_time: Stop after so many seconds between two steps; a resume goes on.
        validation: Batches of every validation.
        val_check_interval: Steps between validations.
    Returns:
        The run's folder.
    """
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)  # else it advertises
    saved = ModelCheckpoint(run.folder, filename="last", every_n_train_steps=run.every_n_train_steps, enable_version_counter=False)
    timing: list[Callback] = [] if max_time is None else [Deadline(max_time, run.accumulate_grad_batches)]
    automatic = module.automatic_optimization
    trainer = Trainer(
        accelerator="auto",
        devices=run.devices,
        num_nodes=run.num_nodes,
        strategy=_strategy(run),
        precision=_precision(run.precision),
        max_steps=run.max_steps,
        accumulate_grad_batches=run.accumulate_grad_batches if automatic else 1,
        gradient_clip_val=run.gradient_clip_val if automatic else None,
        gradient_clip_algorithm=run.gradient_clip_algorithm if automatic else None,
        callbacks=[Throughput(), saved, *timing, *callbacks],
        logger=TensorBoardLogger(run.logger_dir, name=run.exp_name, version=""),
        log_every_n_steps=min(10, run.max_steps),
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        val_check_interval=None if val_check_interval is None else val_check_interval * run.accumulate_grad_batches,
    )
    first = 0 if ckpt_path is None else int(torch.load(ckpt_path, map_location="cpu", weights_only=True)["global_step"])
    world = trainer.world_size
    per_step = run.accumulate_grad_batches
    numbers = Numbers(run.max_steps * per_step * world, trainer.global_rank, world, first * per_step)
    loader = TimedLoader(batches, batch_size=None, sampler=numbers, num_workers=run.num_workers, persistent_workers=run.num_workers > 0)
    with warnings.catch_warnings():
        for message in NOT_FOR_USERS:
            warnings.filterwarnings("ignore", message)
        trainer.fit(module, loader, validation, ckpt_path=ckpt_path)
        trainer.save_checkpoint(run.folder / LAST)  # every process takes part
    return run.folder


def _strategy(run: Run) -> str | Strategy:
    if run.strategy == "fsdp":
        return ModelParallelStrategy(
            data_parallel_size=run.devices * run.num_nodes, tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    # Networks have parts that some batches do not use: a projector without targets gets no gradient.
    return "ddp_find_unused_parameters_true" if run.devices * run.num_nodes > 1 else "auto"


def _precision(name: str) -> Literal["bf16-mixed", "32-true"]:
    """The reference's names too: fp32, 32."""
    if name == "bf16-mixed":
        return "bf16-mixed"
    if name in ("32", "fp32", "32-true"):
        return "32-true"
    raise ValueError(f"precision is {name!r}; there are bf16-mixed, 32")


def _documented(of: type) -> dict[str, str]:
    """Attributes of the docstrings of a class and of those that it comes from."""
    lines = [line for kind in reversed(of.__mro__) for line in (kind.__doc__ or "").partition("Attributes:\n")[2].splitlines()]
    return dict(line.strip().split(": ", 1) for line in lines if ": " in line)
