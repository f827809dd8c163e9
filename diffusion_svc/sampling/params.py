"""Sampling parameters of a request, and the schedule and the solver that they choose."""

from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from diffusion_svc.sampling.guidance import GuidanceParams
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


def build_sampling_schedule(params: SamplingParams, sigma_max: float = 1.0) -> Schedule:
    """Noise levels of a request; with oss_steps, infer_step is ignored.

    Args:
        params: Of the request.
        sigma_max: Noise level to start from before the shift; below 1 when a reference is followed.
    """
    if params.oss_steps:
        return select_steps(build_schedule(max(params.oss_steps)), params.oss_steps)
    schedule = build_schedule(params.infer_step, sigma_max)
    return heun_schedule(schedule) if params.scheduler_type is SchedulerType.HEUN else schedule


def build_solver(params: SamplingParams, schedule: Schedule, noise: NoiseSource, kept: dict[str, Tensor]) -> Solver:
    """The solver of a request; only ping-pong draws noise, and only heun keeps something."""
    match params.scheduler_type:
        case SchedulerType.EULER:
            return Euler(schedule, params.omega_scale)
        case SchedulerType.HEUN:
            return Heun(schedule, params.omega_scale, kept)
        case SchedulerType.PINGPONG:
            return PingPong(schedule, noise)
