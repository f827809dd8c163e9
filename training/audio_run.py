"""What the trainers of DCAE and vocoder share: their runs, samples and command lines.

Beside what every run writes (`training/runs.py`) its folder has `checkpoints/step=N`, which the codec stage loads as they are, and

    eval_results/step_N/target_wav_KEY_I.wav   a song
                        pred_wav_KEY_I.wav     what the network makes of it
                        mel_KEY_I.png          both as log-mel pictures

The same songs every time. TensorBoard has the audio, the pictures and `samples/mel_l1`: how far, in nats, the log-mel that the network
is to blame for is off: what the DCAE gives to the vocoder, or that of what the vocoder gives.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from training.adversarial import AdversarialTraining
from training.audio_crops import AudioCrops, CropBatch
from training.codec_checkpoint import CodecCheckpoints
from training.codec_recipes import AudioRecipe
from training.records import RecordError, read_dataset
from training.report import Report
from training.runs import add_run_arguments, fit, overridden
from training.samples import MAX_SONGS, write_pair
from training.shards import DatasetError
from training.train import embedded_checkpoint
from vae_svc.codec import SAMPLE_RATE, SAMPLES_PER_LATENT
from vae_svc.model.mel import LogMel, MelConfig
from vae_svc.weights import CheckpointError

logger = logging.getLogger(__name__)

RecipeT = TypeVar("RecipeT", bound=AudioRecipe)


class Resynthesis(Callback):
    """Samples a few songs at the start, and every so many steps.

    Args:
        recipe: Of the run.
        songs: [C, S] each, S a multiple of 4096.
    """

    def __init__(self, recipe: AudioRecipe, songs: CropBatch) -> None:
        self.recipe = recipe
        self.songs = songs

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Samples of the weights that the run starts from."""
        if trainer.global_step == 0:
            self._sample(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Samples after a step that is due."""
        if pl_module.step_ended and trainer.global_step % self.recipe.every_plot_step == 0:
            self._sample(trainer, pl_module)

    def _sample(self, trainer: Trainer, pl_module: AdversarialTraining) -> None:
        if not trainer.is_global_zero:
            return
        target = self.recipe.folder / "eval_results" / f"step_{trainer.global_step}"
        target.mkdir(parents=True, exist_ok=True)
        log_mel = LogMel(MelConfig(), torch.device("cpu"))
        errors = []
        with pl_module.final_network():
            for index, (key, waveform) in enumerate(zip(self.songs.keys, self.songs.waveforms, strict=True)):
                made, mel = pl_module.resynthesise(waveform)
                errors.append(float((mel - log_mel(waveform)).abs().mean()))
                write_pair(target, f"{key}_{index}", {"target": waveform, "pred": made}, trainer, pl_module)
        for writer in pl_module.loggers:
            writer.log_metrics({"samples/mel_l1": sum(errors) / len(errors)}, trainer.global_step)


def train_audio(
    recipe: AudioRecipe,
    build: Callable[[], AdversarialTraining],
    mono: bool,
    ckpt_path: Path | None = None,
    max_time: float | None = None,
) -> Path:
    """Run a recipe.

    Args:
        recipe: What to run.
        build: Makes the module, after the seed is set.
        mono: Train on one channel at a time.
        ckpt_path: A `last.ckpt` to go on from.
        max_time: Stop after so many seconds; a resume goes on.
    Returns:
        The run's folder.
    Raises:
        RecordError: There is no dataset.
        DatasetError: Not one song can be used; with the reasons.
        CheckpointError: The weights to start from cannot be loaded.
    """
    torch.manual_seed(recipe.seed)
    module = build()
    dataset = read_dataset(recipe.dataset_path)
    report = Report(len(dataset.records), list(dataset.problems))
    if not dataset.records:
        raise DatasetError(f"{recipe.dataset_path}: not one song can be used\n{report}")
    if dataset.problems:
        logger.warning("%s: %s", recipe.dataset_path, report)
    num_samples = recipe.crop_frames * SAMPLES_PER_LATENT
    crops = AudioCrops(dataset.records, num_samples, recipe.batch_size, recipe.seed, mono, recipe.quieter_db)
    callbacks: list[Callback] = [CodecCheckpoints(recipe)]
    if recipe.every_plot_step:
        sample_frames = max(1, round(recipe.sample_seconds * SAMPLE_RATE / SAMPLES_PER_LATENT))
        songs = AudioCrops(dataset.records, sample_frames * SAMPLES_PER_LATENT, MAX_SONGS, recipe.seed, mono)
        callbacks.append(Resynthesis(recipe, songs[0]))
    else:
        crops[0]  # a dataset without a usable song is refused before anything is written
    return fit(recipe, module, crops, callbacks, ckpt_path, max_time)


def run_command(
    name: str,
    description: str,
    of: type[RecipeT],
    recipes: Mapping[str, Callable[[Path, Path], RecipeT]],
    train: Callable[[RecipeT, Path | None, float | None], Path],
    arguments: list[str] | None,
) -> int:
    """The command line of one of the trainers; 1 when it cannot run.

    Args:
        name: Of the command.
        description: Of its help.
        of: Kind of its recipes.
        recipes: By name; the first is the default.
        train: Runs one.
        arguments: Of the command line; None: the process's.
    """
    parser = argparse.ArgumentParser(prog=f"acestep-train {name}", description=description)
    parser.add_argument("--dataset_path", type=Path, required=True, help="folder that convert wrote")
    parser.add_argument("--checkpoint_dir", type=Path, help="what to start from; default: the small model of this package")
    parser.add_argument("--recipe", choices=tuple(recipes), default=next(iter(recipes)), help="defaults of everything else")
    add_run_arguments(parser, of)
    options = vars(parser.parse_args(arguments))
    try:
        recipe = recipes[options["recipe"]](options["dataset_path"], options["checkpoint_dir"] or embedded_checkpoint())
        print(train(overridden(recipe, options), options["ckpt_path"], options["max_time"]))
    except (DatasetError, RecordError, CheckpointError, ValueError) as error:
        print(f"acestep-train {name}: {error}", file=sys.stderr)
        return 1
    return 0
