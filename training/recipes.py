"""Runs of the trainer that are known to make sense: functions that return one dataclass, whose fields the command line may override."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from training.batches import Bucket
from training.embedded import PHONE, SCORE
from training.runs import Run
from training.samples import SampleSettings
from training.text_to_music import Objective

FRAMES_PER_SONG = 2584
"""240 s, the longest that is trained."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Run):
    """A run of the transformer's trainer.

    Attributes:
        dataset_path: Preprocessed songs.
        checkpoint_dir: Weights to start from, in the official layout.
        objective: Losses and optimiser.
        buckets: Lengths and sizes of micro-batches.
        frozen: Beginnings of the names of weights that stay as they are.
        lora_config_path: JSON of a `peft.LoraConfig`: only an adapter is trained. None: everything is.
        frozen_precision: Of the weights under an adapter: "32" or "bf16", which halves their memory.
        gradient_checkpointing: Trade time for memory.
        epochs: End after so many passes over the songs, if max_steps do not end before. -1: max_steps alone.
        every_plot_step: Steps between samples, which are pictures and audio for TensorBoard and files; 0: none.
        samples: How they are made.
        validation_path: Preprocessed songs to validate on. None: none.
        val_check_interval: Steps between validations. None: every_n_train_steps.
    """

    dataset_path: Path
    checkpoint_dir: Path
    objective: Objective = field(default_factory=Objective)
    buckets: tuple[Bucket, ...] = (Bucket(FRAMES_PER_SONG, 1),)
    frozen: tuple[str, ...] = ()
    lora_config_path: Path | None = None
    frozen_precision: str = "32"
    gradient_checkpointing: bool = True
    epochs: int = -1
    every_plot_step: int = 2000
    samples: SampleSettings = field(default_factory=SampleSettings)
    validation_path: Path | None = None
    val_check_interval: int | None = None

    def __post_init__(self) -> None:
        """Check values that nothing else checks."""
        super().__post_init__()
        if self.frozen_precision not in ("32", "bf16"):
            raise ValueError(f"frozen_precision is {self.frozen_precision!r}; there are 32, bf16")
        if self.epochs != -1 and self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}; it must be -1 or 1 and more")
        if self.lora_config_path and self.objective.muon_learning_rate is not None:
            raise ValueError("Muon trains whole matrices: a recipe with lora_config_path needs muon_learning_rate None")
        if self.every_plot_step < 0:
            raise ValueError(f"every_plot_step is {self.every_plot_step}; it must be 0 or more")
        if self.strategy == "fsdp" and self.every_plot_step:
            raise ValueError("no device holds the whole network that samples need: a recipe with strategy fsdp needs every_plot_step 0")
        if self.strategy == "fsdp" and self.objective.muon_learning_rate is not None:
            raise ValueError("Muon needs whole matrices: a recipe with strategy fsdp needs muon_learning_rate None")


LORA_CONFIGS = Path(__file__).parent / "lora_configs"


def base(dataset_path: Path, checkpoint_dir: Path) -> Recipe:
    """The full-size transformer: the reference's losses, densities and optimiser."""
    return Recipe(dataset_path=dataset_path, checkpoint_dir=checkpoint_dir)


def rap_machine(dataset_path: Path, checkpoint_dir: Path) -> Recipe:
    """An adapter for a way to sing, as the published RapMachine: rank 256 on attention, lyric encoder and speaker."""
    return dataclasses.replace(
        base(dataset_path, checkpoint_dir), lora_config_path=LORA_CONFIGS / "rap_machine.json", exp_name="rap_machine"
    )


def lyric2vocal(dataset_path: Path, checkpoint_dir: Path) -> Recipe:
    """An adapter that sings lyrics without a band, from vocal stems with lyrics: lyrics are seldom left out, crops are verses."""
    recipe = rap_machine(dataset_path, checkpoint_dir)
    return dataclasses.replace(
        recipe,
        objective=dataclasses.replace(recipe.objective, lyric_dropout=0.05),
        buckets=(Bucket(FRAMES_PER_SONG // 4, 4),),
        exp_name="lyric2vocal",
    )


def text2samples(dataset_path: Path, checkpoint_dir: Path) -> Recipe:
    """An adapter for loops and single instruments from tags, from short clips without lyrics."""
    recipe = rap_machine(dataset_path, checkpoint_dir)
    return dataclasses.replace(
        recipe,
        buckets=(Bucket(FRAMES_PER_SONG // 48, 16), Bucket(FRAMES_PER_SONG // 16, 8)),
        exp_name="text2samples",
    )


def low_memory_lora(dataset_path: Path, checkpoint_dir: Path) -> Recipe:
    """An adapter of rank 16 on a graphics card of 10 GB: weights in bfloat16, crops of 60 s, nothing kept inside blocks."""
    return dataclasses.replace(
        base(dataset_path, checkpoint_dir),
        lora_config_path=LORA_CONFIGS / "low_memory.json",
        frozen_precision="bf16",
        buckets=(Bucket(FRAMES_PER_SONG // 4, 1),),
        accumulate_grad_batches=4,
        exp_name="low_memory_lora",
    )


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
        dataset_path=dataset_path,
        checkpoint_dir=checkpoint_dir,
        objective=objective,
        buckets=(Bucket(64, 40, 0.4), Bucket(128, 20, 0.25), Bucket(324, 8, 0.35)),
        gradient_clip_val=1.0,
        gradient_checkpointing=False,
        num_workers=1,
        every_n_train_steps=200,
        every_plot_step=1000,
        samples=SampleSettings(infer_step=30, guidance_scale=1.5, cfg_type="cfg", omega_scale=0.0),
        exp_name="embedded",
    )


def embedded_clock(dataset_path: Path, checkpoint_dir: Path) -> Recipe:
    """On from a small checkpoint that `training.corpus.clock` gave a clock: looking at it is learnt where noise hides all else.

    The clock itself is exact and would not survive a step of Muon.
    """
    recipe = embedded(dataset_path, checkpoint_dir)
    objective = dataclasses.replace(
        recipe.objective,
        learning_rate=5e-4,
        muon_learning_rate=0.01,
        warmup_steps=5,
        decay_from=0.4,
        logit_mean=0.5,
        ssl_coefficients={SCORE: 2.0, PHONE: 0.3},
        ema_decay=0.97,
    )
    return dataclasses.replace(
        recipe,
        objective=objective,
        buckets=(Bucket(64, 20, 0.25), Bucket(128, 10, 0.5), Bucket(324, 4, 0.25)),
        every_n_train_steps=20,
        every_plot_step=0,
        frozen=("transformer_blocks.0.", "transformer_blocks.1."),
        exp_name="embedded_clock",
    )


def embedded_lora(dataset_path: Path, checkpoint_dir: Path) -> Recipe:
    """An adapter of the checkpoint that ships with the project: minutes on two CPU cores for a new instrument from 20 clips."""
    recipe = embedded(dataset_path, checkpoint_dir)
    return dataclasses.replace(
        recipe,
        objective=dataclasses.replace(recipe.objective, learning_rate=2e-3, muon_learning_rate=None, warmup_steps=10, ema_decay=0.0),
        buckets=(Bucket(64, 16),),
        lora_config_path=LORA_CONFIGS / "low_memory.json",
        max_steps=300,
        exp_name="embedded_lora",
    )


RECIPES = {
    recipe.__name__: recipe
    for recipe in (base, rap_machine, lyric2vocal, text2samples, low_memory_lora, embedded, embedded_clock, embedded_lora)
}
