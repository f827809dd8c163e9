"""Runs of the trainer that are known to make sense: functions that return one dataclass, whose fields the command line may override."""

from dataclasses import dataclass, field
from pathlib import Path

from training.batches import Bucket
from training.embedded import PHONE, SCORE
from training.text_to_music import Objective

FRAMES_PER_SONG = 2584
"""240 s, the longest that is trained."""


@dataclass(frozen=True)
class Recipe:
    """A run of the transformer's trainer. Defaults are those of the reference's command line.

    Attributes:
        dataset_path: Preprocessed songs.
        checkpoint_dir: Weights to start from, in the official layout.
        objective: Losses and optimiser.
        buckets: Lengths and sizes of micro-batches.
        max_steps: Optimiser steps.
        precision: As Lightning names it: "bf16-mixed" or "32".
        devices: Of a node; on a CPU: processes.
        num_nodes: Computers.
        accumulate_grad_batches: Micro-batches of a step.
        num_workers: Processes that read data, for each device.
        gradient_clip_val: Largest gradient norm or value.
        gradient_clip_algorithm: "norm" or "value".
        every_n_train_steps: Steps between checkpoints.
        exp_name: Of the run's folder.
        logger_dir: Where runs have their folders.
        gradient_checkpointing: Trade time for memory.
        seed: Of everything that is random.
    """

    dataset_path: Path
    checkpoint_dir: Path
    objective: Objective = field(default_factory=Objective)
    buckets: tuple[Bucket, ...] = (Bucket(FRAMES_PER_SONG, 1),)
    max_steps: int = 2_000_000
    precision: str = "bf16-mixed"
    devices: int = 1
    num_nodes: int = 1
    accumulate_grad_batches: int = 1
    num_workers: int = 8
    gradient_clip_val: float = 0.5
    gradient_clip_algorithm: str = "norm"
    every_n_train_steps: int = 2000
    exp_name: str = "text2music_train_test"
    logger_dir: Path = Path("exps/logs")
    gradient_checkpointing: bool = False
    seed: int = 0


def base(dataset_path: Path, checkpoint_dir: Path) -> Recipe:
    """The full-size transformer: the reference's losses, densities and optimiser."""
    return Recipe(dataset_path, checkpoint_dir, gradient_checkpointing=True)


def embedded(dataset_path: Path, checkpoint_dir: Path) -> Recipe:
    """The checkpoint that ships with the project, on two CPU cores: Muon, flat velocity loss, crops of 6, 12 and 30 s."""
    objective = Objective(
        learning_rate=1e-3,
        muon_learning_rate=0.02,
        betas=(0.9, 0.95),
        warmup_steps=60,
        decay_from=0.65,
        velocity_loss=True,
        ssl_coefficients={SCORE: 0.6, PHONE: 0.3},
        text_dropout=0.1,
        speaker_dropout=0.0,
        lyric_dropout=0.1,
        ema_decay=0.998,
    )
    return Recipe(
        dataset_path,
        checkpoint_dir,
        objective,
        buckets=(Bucket(64, 40, 0.4), Bucket(128, 20, 0.25), Bucket(324, 8, 0.35)),
        gradient_clip_val=1.0,
        num_workers=1,
        every_n_train_steps=200,
        exp_name="embedded",
    )


RECIPES = {"base": base, "embedded": embedded}
