"""A run of the trainer that takes seconds, as a process: `python -m tests.unit.training.tiny_run '{"exp_name": ...}' [RESUME]`."""

import dataclasses
import json
import sys
from pathlib import Path

import torch

from training.batches import Bucket
from training.recipes import Recipe
from training.shards import PreparedSong, write_manifest, write_shard
from training.text_to_music import Objective
from training.train import train

OBJECTIVE = Objective(learning_rate=1e-2, muon_learning_rate=0.01, warmup_steps=2, ema_decay=0.9, ssl_coefficients={"mert": 0.5})


def write_dataset(folder: Path, num_songs: int = 6) -> Path:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def song(index: int) -> PreparedSong:
        num_frames = 12 + 3 * index
        return PreparedSong(
            key=f"song {index}",
            latents=draw(8, 16, num_frames),
            texts=(draw(3, 12), draw(5, 12)),
            captions=("one", "two"),
            lyric_ids=torch.arange(2 + index),
            speaker=draw(6),
            features={"mert": draw(2 * num_frames, 10), "m-hubert": draw(num_frames, 7)},
            crop_starts=torch.arange(0, num_frames, 4),
        )

    songs = [song(index) for index in range(num_songs)]
    write_manifest(folder, [write_shard(folder, songs[:4]), write_shard(folder, songs[4:])], {})
    return folder


def recipe(dataset: Path, checkpoint: Path, logs: Path, **fields: object) -> Recipe:
    tiny = Recipe(
        dataset_path=dataset,
        checkpoint_dir=checkpoint,
        objective=OBJECTIVE,
        buckets=(Bucket(8, 3), Bucket(16, 2)),
        max_steps=6,
        precision="32",
        num_workers=0,
        every_n_train_steps=1,
        every_plot_step=0,
        logger_dir=logs,
    )
    return dataclasses.replace(tiny, **fields)  # type: ignore[arg-type]


if __name__ == "__main__":
    torch.set_num_threads(1)
    options = json.loads(sys.argv[1])
    paths = [Path(options.pop(name)) for name in ("dataset", "checkpoint", "logs")]
    objective = dataclasses.replace(OBJECTIVE, **options.pop("objective", {}))
    train(recipe(*paths, objective=objective, **options), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
