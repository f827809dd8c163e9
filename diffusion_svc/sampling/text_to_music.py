"""Sampling from pure noise."""

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from diffusion_svc.sampling.guidance import Branch, Guidance, GuidanceParams
from diffusion_svc.sampling.schedule import Schedule, build_schedule, heun_schedule, select_steps
from diffusion_svc.sampling.solvers import Euler, Heun, NoiseSource, PingPong, Solver


class SchedulerType(Enum):
    """Solver of a request."""

    EULER = "euler"
    HEUN = "heun"
    PINGPONG = "pingpong"


@dataclass(frozen=True)
class SamplingParams:
    """Sampling of a request; names, ranges and defaults are those of the SamplingParams message."""

    infer_step: int
    scheduler_type: SchedulerType
    omega_scale: float
    oss_steps: tuple[int, ...]
    guidance: GuidanceParams
    use_erg_diffusion: bool


@dataclass(frozen=True)
class Evaluation:
    """What a task wants to know before it goes on.

    Attributes:
        latents: [8, 16, T] float32.
        timestep_index: Index into the schedule's timesteps.
        branches: Conditions to evaluate the latents under; the answer has one velocity for each.
    """

    latents: Tensor
    timestep_index: int
    branches: tuple[Branch, ...]


Task = Generator[Evaluation, dict[Branch, Tensor], Tensor]


def build_sampling_schedule(params: SamplingParams) -> Schedule:
    """Noise levels of a request; with oss_steps, infer_step is ignored."""
    if params.oss_steps:
        return select_steps(build_schedule(max(params.oss_steps)), params.oss_steps)
    schedule = build_schedule(params.infer_step)
    return heun_schedule(schedule) if params.scheduler_type is SchedulerType.HEUN else schedule


def text_to_music(params: SamplingParams, schedule: Schedule, noise: NoiseSource) -> Task:
    """Denoise from pure noise to a sample.

    Args:
        params: Of the request.
        schedule: From `build_sampling_schedule`.
        noise: The song's own noise; the first draw is the start.
    Returns:
        Latents [8, 16, T] float32.
    """
    latents = noise()
    solver = _build_solver(params, schedule, noise)
    guidance = Guidance(params.guidance, schedule.num_steps)
    for index in range(len(schedule.timesteps)):
        branches = tuple(guidance.branches(index))
        velocities = (yield Evaluation(latents, index, branches)) if branches else None
        velocity = torch.zeros_like(latents) if velocities is None else guidance.combine(index, velocities)
        latents = solver.step(latents, velocity, index)
    return latents


def _build_solver(params: SamplingParams, schedule: Schedule, noise: NoiseSource) -> Solver:
    match params.scheduler_type:
        case SchedulerType.EULER:
            return Euler(schedule, params.omega_scale)
        case SchedulerType.HEUN:
            return Heun(schedule, params.omega_scale)
        case SchedulerType.PINGPONG:
            return PingPong(schedule, noise)
