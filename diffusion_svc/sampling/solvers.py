"""Solvers: from latents and a velocity to the latents of the next noise level. One object per song; latents and velocities are float32."""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from diffusion_svc.sampling.schedule import Schedule

NoiseSource = Callable[[], Tensor]


class Solver(Protocol):
    """Takes one step per evaluation of the schedule."""

    def step(self, latents: Tensor, velocity: Tensor, index: int) -> Tensor:
        """Latents at sigmas[index + 1], from the velocity evaluated at timesteps[index]."""

    def estimate(self, latents: Tensor, velocity: Tensor, index: int) -> Tensor:
        """Clean latents as `step` would give them, were the next noise level 0; ask before it."""


def omega_factor(omega_scale: float) -> float:
    """Gain on a step's deviation from its mean: 0.9 to 1.1, 1 at 0."""
    return 0.9 + 0.2 / (1 + math.exp(-0.1 * omega_scale))


def shift_mean(update: Tensor, factor: float) -> Tensor:
    """Scale the deviation of an update from its mean over the song; the mean stays."""
    mean = update.mean()
    return (update - mean) * factor + mean


class Euler:
    """First order.

    Args:
        schedule: Noise levels.
        omega_scale: Granularity.
    """

    def __init__(self, schedule: Schedule, omega_scale: float) -> None:
        self._sigmas = schedule.sigmas
        self._factor = omega_factor(omega_scale)

    def step(self, latents: Tensor, velocity: Tensor, index: int) -> Tensor:
        """One step: x + (s_next - s) v, mean-shifted."""
        return latents + shift_mean((self._sigmas[index + 1] - self._sigmas[index]) * velocity, self._factor)

    def estimate(self, latents: Tensor, velocity: Tensor, index: int) -> Tensor:
        """See Solver."""
        return latents + shift_mean(-self._sigmas[index] * velocity, self._factor)


class Heun:
    """Second order: a trial step, then a step from the same start with the mean of both slopes. It ends on a trial.

    Args:
        schedule: Noise levels of `heun_schedule`.
        omega_scale: Granularity.
    """

    def __init__(self, schedule: Schedule, omega_scale: float) -> None:
        self._sigmas = schedule.sigmas
        self._factor = omega_factor(omega_scale)
        self._trial: tuple[Tensor, Tensor, float] | None = None  # start, slope, width of the trial under way

    def step(self, latents: Tensor, velocity: Tensor, index: int) -> Tensor:
        """Latents of the trial, or of the corrected step."""
        if self._trial is None:
            width = self._sigmas[index + 1] - self._sigmas[index]
            self._trial = latents, velocity, width
            return latents + shift_mean(width * velocity, self._factor)
        start, slope, width = self._trial
        self._trial = None
        return start + shift_mean(width * (slope + velocity) / 2, self._factor)

    def estimate(self, latents: Tensor, velocity: Tensor, index: int) -> Tensor:
        """See Solver; after the second evaluation of a step with the mean of both slopes."""
        if self._trial is None:
            return latents + shift_mean(-self._sigmas[index] * velocity, self._factor)
        start, slope, _ = self._trial
        return start + shift_mean(-self._sigmas[index - 1] * (slope + velocity) / 2, self._factor)


class PingPong:
    """Stochastic: to the clean estimate, and back up with fresh noise. omega has no place in it.

    Args:
        schedule: Noise levels.
        noise: Draws standard normal noise like the latents.
    """

    def __init__(self, schedule: Schedule, noise: NoiseSource) -> None:
        self._sigmas = schedule.sigmas
        self._noise = noise

    def step(self, latents: Tensor, velocity: Tensor, index: int) -> Tensor:
        """(1 - s_next) (x - s v) + s_next n; the last step draws nothing."""
        clean = self.estimate(latents, velocity, index)
        sigma_next = self._sigmas[index + 1]
        if sigma_next == 0:
            return clean
        return (1 - sigma_next) * clean + sigma_next * self._noise()

    def estimate(self, latents: Tensor, velocity: Tensor, index: int) -> Tensor:
        """See Solver."""
        return latents - self._sigmas[index] * velocity


def seeded_noise(seed: int, shape: tuple[int, ...], device: torch.device) -> NoiseSource:
    """Noise of one song: drawn on the CPU in float32 at its exact shape, so that a seed means the same song on any device.

    The first draw is the initial noise; ping-pong goes on with the same generator.
    """
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator).to(device)
