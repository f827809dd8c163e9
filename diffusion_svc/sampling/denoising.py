"""What tasks are made of: a generator yields the evaluations that it waits for and is resumed with their velocities."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_svc.sampling.estimates import NO_ESTIMATES, Estimates
from diffusion_svc.sampling.guidance import Branch, Guidance
from diffusion_svc.sampling.params import SamplingParams, build_solver
from diffusion_svc.sampling.schedule import Schedule
from diffusion_svc.sampling.solvers import NoiseSource


@dataclass(frozen=True)
class Evaluation:
    """One velocity that a task wants to know before it goes on.

    Attributes:
        latents: [8, 16, T] float32.
        timestep_index: Index into the schedule's timesteps.
        branch: Condition to evaluate the latents under.
        window: Which of the song's windows the latents are; most songs are one. All that is yielded together is of one window.
    """

    latents: Tensor
    timestep_index: int
    branch: Branch
    window: int = 0


# Yields evaluations that are made together, is sent their velocities in the same order, and returns the final latents [8, 16, T].
Task = Generator[Sequence[Evaluation], Sequence[Tensor], Tensor]


def guided_velocity(guidance: Guidance, latents: Tensor, index: int, window: int = 0) -> Task:
    """The velocity to follow at an evaluation index of a window; nothing is evaluated where it is zero whatever the network says."""
    branches = guidance.branches(index)
    if not branches:
        return torch.zeros_like(latents)
    velocities = yield [Evaluation(latents, index, branch, window) for branch in branches]
    return guidance.combine(index, dict(zip(branches, velocities, strict=True)))


def denoise(params: SamplingParams, schedule: Schedule, latents: Tensor, noise: NoiseSource, estimates: Estimates = NO_ESTIMATES) -> Task:
    """Follow the flow from noisy latents to a sample.

    Args:
        params: Of the request.
        schedule: Noise levels; the latents are at the first.
        latents: [8, 16, T] float32.
        noise: The song's own noise, for solvers that add some.
        estimates: What to take on the way.
    """
    solver = build_solver(params, schedule, noise)
    guidance = Guidance(params.guidance, schedule.num_steps)
    for index in range(len(schedule.timesteps)):
        velocity = yield from guided_velocity(guidance, latents, index)
        if estimates.wants(index):
            estimates.take(index, solver.estimate(latents, velocity, index))
        latents = solver.step(latents, velocity, index)
    return latents
