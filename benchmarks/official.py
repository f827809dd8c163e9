"""The official size, stage by stage: python -m benchmarks.bench official_encode official_sample official_batching official_decode.

Takes the checkpoint that OFFICIAL_CHECKPOINT names, and draws a random one where it is unset (8.8 GB, minutes); times do not depend on the
weights' values. On the graphics card where there is one.
"""

import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from diffusion_svc.sampler import Sampler, SamplingRequest, Song
from diffusion_svc.sampling.guidance import CfgType, GuidanceParams
from diffusion_svc.sampling.params import SamplingParams, SchedulerType
from diffusion_svc.task_fields import num_frames
from diffusion_svc.tasks import ConditionStates, TextToMusic
from diffusion_svc.weights import load_transformer

if TYPE_CHECKING:
    from vae_svc.codec import Codec

T = TypeVar("T")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16
SECONDS = (30.0, 60.0, 240.0)
RUNS = ((30.0, 27), (60.0, 27), (60.0, 60), (240.0, 27))  # seconds and steps
TEXT_TOKENS, LYRIC_TOKENS = 40, 126
COMPANY = (1, 2, 4, 8, 16)
MIXED = (5.0, 10.0, 30.0, 60.0)
REPEATS = 3
TICKS = 8


def checkpoint_near(folder: Path) -> Path:
    """The checkpoint to measure, drawn beside a folder where none is named."""
    named = os.environ.get("OFFICIAL_CHECKPOINT")
    checkpoint = Path(named) if named else folder.parent / "official"
    if not checkpoint.exists():
        command = [sys.executable, "-m", "clients.cli.main", "init-checkpoint", "--size", "official", "--seed", "0", str(checkpoint)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return checkpoint


def encode(folder: Path) -> dict[str, Any]:
    """Tags and lyrics to conditioning, both branches."""
    from encoder_svc.encoder import NullCondition, PromptEncoder

    encoder, result = _loaded(lambda: PromptEncoder.load(checkpoint_near(folder), DEVICE, DTYPE))
    ids = [3 + index % 50 for index in range(LYRIC_TOKENS)]
    return {**result, **_measured(lambda: encoder.encode("funk, female vocals, 105 bpm", ids, NullCondition.WEAKENED), 3 * REPEATS)}


def sample(folder: Path) -> dict[str, Any]:
    """Whole runs with the default guidance, one song at a time."""
    sampler, result = _loaded_sampler(folder)
    for seconds, steps in RUNS:
        work = functools.partial(_finish, sampler, [request(sampler, seconds, steps)])
        result[f"{seconds:g} s, {steps} steps"] = _measured(work, REPEATS, seconds)
    return result


def batching(folder: Path) -> dict[str, Any]:
    """A step of several songs together: of one length, and of mixed lengths."""
    sampler, result = _loaded_sampler(folder)
    alone = 0.0
    for count in COMPANY:
        step = _step_seconds(sampler, [request(sampler, 30.0, 60, seed) for seed in range(count)])
        alone = alone or step
        result[f"{count} of 30 s"] = {"step_seconds": step, "throughput_over_one": count * alone / step}
    requests = [request(sampler, seconds, 60) for seconds in MIXED]
    together = _step_seconds(sampler, requests)
    result["mixed"] = {
        "seconds": MIXED,
        "step_seconds": together,
        "one_by_one_over_packed": sum(_step_seconds(sampler, [one]) for one in requests) / together,
    }
    return result


def decode(folder: Path) -> dict[str, Any]:
    """Latents to waveform at 48 kHz, and the time to the first piece."""
    from vae_svc.weights import load_codec

    codec, result = _loaded(lambda: load_codec(checkpoint_near(folder), DEVICE, DTYPE).codec)
    for seconds in SECONDS:
        latents = torch.randn(8, 16, num_frames(seconds), generator=torch.Generator().manual_seed(0))
        first: list[float] = []
        result[f"{seconds:g} s"] = _measured(functools.partial(_decode, codec, latents, first), REPEATS, seconds)
        result[f"{seconds:g} s"]["first_piece_seconds"] = statistics.median(first[1:])
    return result


def _decode(codec: "Codec", latents: torch.Tensor, first: list[float]) -> None:
    started = time.perf_counter()
    for index, _ in enumerate(codec.decode(latents, 48000)):
        if index == 0:
            first.append(time.perf_counter() - started)


def request(sampler: Sampler, seconds: float, steps: int, seed: int = 0) -> SamplingRequest:
    """A song with the default guidance, its conditions drawn."""
    config, random = sampler.model.config, torch.Generator().manual_seed(seed)
    states = ConditionStates(
        text=torch.randn(TEXT_TOKENS, config.text_embedding_dim, generator=random),
        lyrics=torch.randn(LYRIC_TOKENS, config.lyric_hidden_size, generator=random),
        lyric_mask=torch.ones(LYRIC_TOKENS, dtype=torch.bool),
        null_lyrics=torch.randn(LYRIC_TOKENS, config.lyric_hidden_size, generator=random),
    )
    guidance = GuidanceParams(15.0, CfgType.APG, 0.5, 0.0, 3.0, 0.0, 0.0)
    params = SamplingParams(steps, SchedulerType.EULER, 10.0, (), guidance, use_erg_diffusion=True)
    return SamplingRequest(states, params, (seed,), TextToMusic(num_frames(seconds)))


def _finish(sampler: Sampler, requests: Sequence[SamplingRequest]) -> None:
    songs = [song for one in requests for song in sampler.start(one)]
    while waiting := [song for song in songs if song.pending]:
        sampler.tick(waiting)
    for song in songs:
        assert isinstance(song.result, torch.Tensor), song.result  # an error is no measurement


def _step_seconds(sampler: Sampler, requests: Sequence[SamplingRequest]) -> float:
    """Median seconds of a guided step, in the middle of the schedule: two rows a song."""
    songs = [song for one in requests for song in sampler.start(one)]
    _tick(sampler, songs, 20)  # into the interval of the guidance
    times = []
    for _ in range(TICKS):
        assert all(len(song.rows) == 2 for song in songs)
        _synchronize()
        started = time.perf_counter()
        _tick(sampler, songs, 1)
        _synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _tick(sampler: Sampler, songs: Sequence[Song], times: int) -> None:
    for _ in range(times):
        sampler.tick(songs)


def _loaded_sampler(folder: Path) -> tuple[Sampler, dict[str, Any]]:
    model, result = _loaded(lambda: load_transformer(checkpoint_near(folder), DEVICE, DTYPE))
    return Sampler(model), result


def _loaded(load: Callable[[], T]) -> tuple[T, dict[str, Any]]:
    started = time.perf_counter()
    loaded = load()
    result: dict[str, Any] = {"device": _device_name(), "load_seconds": time.perf_counter() - started}
    if DEVICE.type == "cuda":
        result["weights_gpu_memory_mib"] = torch.cuda.memory_allocated() // 2**20
    return loaded, result


def _measured(work: Callable[[], Any], repeats: int, audio_seconds: float = 0.0) -> dict[str, Any]:
    """Median seconds after a first run that warms up, and the peak of the card's memory."""
    work()
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        _synchronize()
        started = time.perf_counter()
        work()
        _synchronize()
        times.append(time.perf_counter() - started)
    median = statistics.median(times)
    result: dict[str, Any] = {"median_seconds": median}
    if audio_seconds:
        result["real_time_factor"] = audio_seconds / median
    if DEVICE.type == "cuda":
        result["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated() // 2**20
    return result


def _synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def _device_name() -> str:
    return torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
