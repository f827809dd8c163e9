"""Measure the transformer and the stages: python -m benchmarks.bench [SECTION ...]; prints JSON.

Each section runs in a process of its own, so that its peak memory is its own. Ratios hold within one run only: machines are noisy.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from training.recipes import Recipe

SONG_SECONDS = 30.0
STEPS = 27
TRAINING_STEPS = 21
LORA_STEPS = 1
CUDA_LORA_STEPS = 8
PAIRS = 7
REPEATS = 5
TOKENS = 167  # speaker, 40 of text and 126 of lyrics: a song of 30 s
CPU = torch.device("cpu")


def transformer() -> dict[str, Any]:
    """One evaluation at the official width, 2 of 24 blocks, one thread: ours against a plain evaluation of the specification."""
    from benchmarks.plain_transformer import plain_velocity
    from diffusion_svc.model.config import TransformerConfig
    from diffusion_svc.model.transformer import Row, Transformer
    from diffusion_svc.task_fields import num_frames

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = TransformerConfig(num_layers=2, attention_head_dim=128, num_attention_heads=20, mlp_ratio=2.5)
    model = Transformer(config).eval().requires_grad_(False)
    latents = torch.randn(1, 8, 16, num_frames(SONG_SECONDS))
    conditions, timestep = torch.randn(1, TOKENS, config.inner_dim), torch.tensor([500.0])
    with torch.inference_mode():
        row = Row(latents[0], model.modulate(timestep)[0], model.project_context(conditions[0]))
        ours: Callable[[], Any] = lambda: model([row])[0]  # noqa: E731
        plain: Callable[[], Any] = lambda: plain_velocity(model, latents, conditions, torch.ones(1, TOKENS), timestep)[0]  # noqa: E731
        error = (ours() - plain()).abs().max().item()
        pairs = [(_cpu_seconds(ours), _cpu_seconds(plain)) for _ in range(PAIRS)]
        half = model.to(torch.bfloat16)
        row = Row(latents[0], half.modulate(timestep)[0], half.project_context(conditions[0].to(torch.bfloat16)))
        bfloat16 = [_cpu_seconds(lambda: half([row])) for _ in range(PAIRS)]
    return {
        "float32_cpu_seconds": statistics.median(pair[0] for pair in pairs),
        "plain_float32_cpu_seconds": statistics.median(pair[1] for pair in pairs),
        "plain_over_ours": statistics.median(pair[1] / pair[0] for pair in pairs),
        "largest_difference": error,
        "bfloat16_cpu_seconds": statistics.median(bfloat16),
    }


def batching() -> dict[str, Any]:
    """Rows of different lengths: one after another, length by length, packed and padded."""
    from benchmarks.batching import batching

    return batching()


def encode(checkpoint: Path) -> dict[str, Any]:
    """Tags and lyrics to conditioning, both branches."""
    from encoder_svc.encoder import NullCondition, PromptEncoder

    encoder = PromptEncoder.load(checkpoint, CPU, torch.float32)
    ids = [3 + index % 50 for index in range(126)]
    return _measure(lambda: encoder.encode("funk, female vocals, 105 bpm", ids, NullCondition.WEAKENED))


def sample(checkpoint: Path) -> dict[str, Any]:
    """A whole run with the default guidance."""
    from benchmarks import official
    from diffusion_svc.sampler import Sampler
    from diffusion_svc.weights import load_transformer

    sampler = Sampler(load_transformer(checkpoint, CPU, torch.float32))
    request = official.request(sampler, SONG_SECONDS, STEPS)
    steps: list[float] = []

    def run() -> None:
        (song,) = sampler.start(request)
        while song.pending:
            started = time.perf_counter()
            sampler.tick([song])
            steps.append(time.perf_counter() - started)

    return {**_measure(run), "steps": STEPS, "median_step_seconds": statistics.median(steps)}


def decode(checkpoint: Path, seconds: float = SONG_SECONDS, repeats: int = REPEATS) -> dict[str, Any]:
    """Latents to waveform at 48 kHz, and the time to the first piece."""
    from diffusion_svc.task_fields import num_frames
    from vae_svc.weights import load_codec

    codec = load_codec(checkpoint, CPU, torch.float32).codec
    latents = torch.randn(8, 16, num_frames(seconds), generator=torch.Generator().manual_seed(0))
    first: list[float] = []

    def run() -> None:
        started = time.perf_counter()
        for index, _ in enumerate(codec.decode(latents, 48000)):
            if index == 0:
                first.append(time.perf_counter() - started)

    return {**_measure(run, seconds, repeats), "median_first_piece_seconds": statistics.median(first)}


def train(folder: Path, steps: int = TRAINING_STEPS) -> dict[str, Any]:
    """Steps of the recipe of the checkpoint that comes with the package, over songs of noise of 60 s, with one process that reads."""
    from training import embedded, recipes

    torch.manual_seed(0)
    checkpoint = folder.parent / "embedded"
    embedded.write_untrained(checkpoint, (torch.rand(2, 128, 64) for _ in range(4)), seed=0)
    return _train(recipes.embedded(_noise_songs(checkpoint, folder.parent / "songs"), checkpoint), folder.parent, steps)


def train_lora(folder: Path) -> dict[str, Any]:
    """Steps of the recipe for small graphics cards at the official size, random weights: on the graphics card where there is one."""
    from benchmarks import official
    from training import recipes

    steps = CUDA_LORA_STEPS if torch.cuda.is_available() else LORA_STEPS
    checkpoint = official.checkpoint_near(folder)
    result = _train(recipes.low_memory_lora(_noise_songs(checkpoint, folder.parent / "songs"), checkpoint), folder.parent, steps)
    if torch.cuda.is_available():
        result["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated() // 2**20
    return result


def _noise_songs(checkpoint: Path, folder: Path) -> Path:
    """Preprocessed songs of noise of 60 s, with the widths of a checkpoint."""
    from training.shards import PreparedSong, write_manifest, write_shard

    config = json.loads((checkpoint / "ace_step_transformer" / "config.json").read_text(encoding="utf-8"))
    widths = dict(zip(config["ssl_names"], config["ssl_latent_dims"], strict=True))

    def song(index: int) -> PreparedSong:
        features = {name: torch.randn(646, width) for name, width in widths.items()}
        texts, ids = (torch.randn(8, config["text_embedding_dim"]),), torch.randint(3, 100, (80,))
        return PreparedSong(str(index), torch.randn(8, 16, 646), texts, ("",), ids, torch.zeros(config["speaker_embedding_dim"]), features)

    write_manifest(folder, [write_shard(folder, [song(index) for index in range(64)])], {})
    return folder


def _train(recipe: "Recipe", folder: Path, steps: int) -> dict[str, Any]:
    """Run so many steps of a recipe; nothing is written but what a run's end writes."""
    import dataclasses

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from training.train import train as run

    recipe = dataclasses.replace(recipe, max_steps=steps, every_plot_step=0, logger_dir=folder, exp_name="run")
    events = EventAccumulator(str(run(recipe)))
    events.Reload()
    names = ("audio_seconds_per_second", "audio_seconds_per_cpu_second", "waiting_share")
    return {"steps": steps, **{name: events.Scalars(f"speed/{name}")[-1].value for name in names}}


def official_size(name: str, folder: Path) -> dict[str, Any]:
    """A section of benchmarks/official.py."""
    from benchmarks import official

    section: Callable[[Path], dict[str, Any]] = getattr(official, name)
    with torch.inference_mode():
        return section(folder)


def endurance(name: str, **options: Any) -> dict[str, Any]:
    """A run of benchmarks/endurance, with its verdict."""
    import asyncio
    import importlib

    report: dict[str, Any] = asyncio.run(importlib.import_module(f"benchmarks.endurance.{name}").run(**options))
    return report


SECTIONS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "transformer_official_width_2_blocks": lambda _: transformer(),
    "batching": lambda _: batching(),
    "tiny_encode": encode,
    "tiny_sample": sample,
    "tiny_decode": decode,
    "tiny_decode_60s": lambda checkpoint: decode(checkpoint, 60.0, 1),
    "train_embedded": train,
    "tiny_decode_240s": lambda checkpoint: decode(checkpoint, 240.0, 1),
    "train_low_memory_lora": train_lora,
    "official_encode": lambda folder: official_size("encode", folder),
    "official_sample": lambda folder: official_size("sample", folder),
    "official_batching": lambda folder: official_size("batching", folder),
    "official_decode": lambda folder: official_size("decode", folder),
    "concurrency": lambda _: endurance("concurrency", pairs=3, seed=0),
    "overload": lambda _: endurance("overload", seconds=120.0, peak_seconds=60.0, seed=0),
    "grpc_overhead": lambda _: endurance("overhead", pairs=9),
}
OFFICIAL = ("official_encode", "official_sample", "official_batching", "official_decode", "train_low_memory_lora")
ON_REQUEST = (*OFFICIAL, "concurrency", "overload", "grpc_overhead")
"""Measured only where they are named: the first draw a checkpoint of 8.8 GB where none is named, the others start several servers each."""


def _cpu_seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _measure(work: Callable[[], Any], audio_seconds: float = SONG_SECONDS, repeats: int = REPEATS) -> dict[str, Any]:
    times = []
    for _ in range(repeats + (repeats > 1)):  # the first of several warms up
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    median = statistics.median(times[1:] or times)
    return {"audio_seconds": audio_seconds, "median_seconds": median, "real_time_factor": audio_seconds / median}


def main(arguments: list[str] | None = None) -> int:
    """Run sections, each in a child process, on a random tiny checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    usual = ", ".join(name for name in SECTIONS if name not in ON_REQUEST)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"{usual} (default: these); {', '.join(ON_REQUEST)}")
    names = parser.parse_args(arguments).sections
    if unknown := set(names) - SECTIONS.keys():
        parser.error(f"no section is named {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    results: dict[str, Any] = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "amx": torch.cpu._is_amx_tile_supported(),
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "load_average_before": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "tiny"
        command = [sys.executable, "-m", "clients.cli.main", "init-checkpoint", "--size", "tiny", "--seed", "0", str(checkpoint)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for name in names or [name for name in SECTIONS if name not in ON_REQUEST]:
            child = subprocess.run(
                [sys.executable, "-m", "benchmarks.bench", "--child", name, str(checkpoint)], check=True, stdout=subprocess.PIPE, text=True
            )
            results[name] = json.loads(child.stdout)
    print(json.dumps(results, indent=2))
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        section = SECTIONS[sys.argv[2]](Path(sys.argv[3]))
        section["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps(section))
    else:
        sys.exit(main())
