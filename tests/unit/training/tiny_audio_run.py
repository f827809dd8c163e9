"""A run of one of the codec's trainers that takes seconds, and as a process: `python -m THIS '{"kind": "codec", ...}' [RESUME]`."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch

from training.codec_recipes import AudioRecipe, CodecRecipe, VocoderRecipe, codec, vocoder
from training.codec_training import train_codec
from training.records import Record, write_dataset
from training.vocoder_training import train_vocoder

TINY = {
    "batch_size": 2,
    "learning_rate": 1e-3,
    "warmup_steps": 2,
    "ema_decay": 0.9,
    "max_steps": 6,
    "num_workers": 0,
    "every_n_train_steps": 1,
    "every_plot_step": 0,
    "discriminator_width": 2,
}
CODEC = {**TINY, "crop_frames": 4, "adversarial_from": 2, "feature_matching_weight": 1.0}
VOCODER = {**TINY, "crop_frames": 2, "adversarial_from": 1, "periods": (2, 3), "resolutions": (512,), "stft_sizes": (512, 1024)}


def write_songs(folder: Path, num_songs: int = 4) -> Path:
    """Stereo chords of different pitch, rate and length."""
    records = []
    for index in range(num_songs):
        rate = (44_100, 22_050)[index % 2]
        times = np.arange(round((0.4 + 0.3 * index) * rate)) / rate
        left = sum(np.sin(2 * np.pi * hertz * times) for hertz in (220 + 55 * index, 660, 1210)) / 6
        stereo = np.stack([left, left * np.cos(7 * times)], axis=1)
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"song{index}.flac", stereo, rate)
        records.append(Record(f"song{index}", str(folder / f"song{index}.flac"), ("chords",)))
    write_dataset(folder / "dataset", records)
    return folder / "dataset"


def codec_recipe(dataset: Path, checkpoint: Path, logs: Path, **fields: object) -> CodecRecipe:
    return dataclasses.replace(codec(dataset, checkpoint), logger_dir=logs, **{**CODEC, **fields})


def vocoder_recipe(dataset: Path, checkpoint: Path, logs: Path, **fields: object) -> VocoderRecipe:
    return dataclasses.replace(vocoder(dataset, checkpoint), logger_dir=logs, **{**VOCODER, **fields})


def train(recipe: AudioRecipe, ckpt_path: Path | None = None, max_time: float | None = None) -> Path:
    if isinstance(recipe, CodecRecipe):
        return train_codec(recipe, ckpt_path, max_time)
    assert isinstance(recipe, VocoderRecipe)
    return train_vocoder(recipe, ckpt_path, max_time)


if __name__ == "__main__":
    torch.set_num_threads(1)
    options = json.loads(sys.argv[1])
    make = {"codec": codec_recipe, "vocoder": vocoder_recipe}[options.pop("kind")]
    paths = [Path(options.pop(name)) for name in ("dataset", "checkpoint", "logs")]
    train(make(*paths, **options), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
