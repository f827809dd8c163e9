"""Noise levels of a run: sigmas in 0..1, timesteps = 1000 * sigma."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_TRAIN_TIMESTEPS = 1000
SHIFT = 3.0


@dataclass(frozen=True)
class Schedule:
    """Noise levels in the order of the evaluations.

    Attributes:
        timesteps: One per evaluation, 0..1000, float32 values.
        sigmas: One more than timesteps: each evaluation goes from sigmas[i] to sigmas[i + 1]; the last is 0.
        num_steps: Number of steps that the guidance interval counts: N, also for heun with its 2 N - 1 evaluations.
    """

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]
    num_steps: int


def shift(sigma: Tensor) -> Tensor:
    """Move noise levels towards 1, where music is decided."""
    return SHIFT * sigma / (1 + (SHIFT - 1) * sigma)


def training_sigmas(sigma_max: float = 1.0) -> Tensor:
    """The 1000 noise levels of training, descending, float32."""
    timesteps = torch.linspace(1.0, NUM_TRAIN_TIMESTEPS * sigma_max, NUM_TRAIN_TIMESTEPS, dtype=torch.float32).flip(0)
    return shift(timesteps / NUM_TRAIN_TIMESTEPS)


def build_schedule(num_steps: int, sigma_max: float = 1.0) -> Schedule:
    """Schedule of N steps.

    The bounds come from the shifted training table and are shifted once more, so the last noise level is 0.0089 and not 0.003. The released
    model's quality depends on this, so it is kept.

    Args:
        num_steps: N, at least 1.
        sigma_max: Noise level to start from before the shift; below 1 when a reference is followed.
    """
    table = training_sigmas(sigma_max)
    bounds = NUM_TRAIN_TIMESTEPS * table[0].item(), NUM_TRAIN_TIMESTEPS * table[-1].item()
    return from_sigmas(torch.linspace(*bounds, num_steps, dtype=torch.float64) / NUM_TRAIN_TIMESTEPS)


def from_sigmas(sigmas: Tensor) -> Schedule:
    """Schedule through given noise levels [N], which are shifted (once more)."""
    shifted = shift(sigmas).to(torch.float32)
    timesteps = shifted * NUM_TRAIN_TIMESTEPS
    return Schedule(timesteps=tuple(timesteps.tolist()), sigmas=(*shifted.tolist(), 0.0), num_steps=len(sigmas))


def select_steps(schedule: Schedule, oss_steps: Sequence[int]) -> Schedule:
    """Keep some steps of a schedule, each shifted one time more.

    Args:
        schedule: With at least max(oss_steps) steps.
        oss_steps: 1-based, ascending.
    """
    kept = torch.tensor([schedule.timesteps[step - 1] for step in oss_steps], dtype=torch.float32)
    return from_sigmas(kept / NUM_TRAIN_TIMESTEPS)


def heun_schedule(schedule: Schedule) -> Schedule:
    """Each noise level but the first is evaluated twice: once as the trial's end, once as the next start."""

    def repeat(values: Sequence[float]) -> tuple[float, ...]:
        return (values[0], *(value for value in values[1:] for _ in range(2)))

    return Schedule(timesteps=repeat(schedule.timesteps), sigmas=(*repeat(schedule.sigmas[:-1]), 0.0), num_steps=schedule.num_steps)
