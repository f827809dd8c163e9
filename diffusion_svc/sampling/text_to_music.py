"""Sampling from pure noise: a song of a seed, and its neighbours."""

import math

from torch import Tensor

from diffusion_svc.sampling.denoising import Task, denoise
from diffusion_svc.sampling.estimates import NO_ESTIMATES, Estimates
from diffusion_svc.sampling.params import SamplingParams
from diffusion_svc.sampling.schedule import Schedule
from diffusion_svc.sampling.solvers import NoiseSource


def text_to_music(params: SamplingParams, schedule: Schedule, noise: NoiseSource, estimates: Estimates = NO_ESTIMATES) -> Task:
    """Denoise from pure noise to a sample.

    Args:
        params: Of the request.
        schedule: From `build_sampling_schedule`.
        noise: The song's own noise; the first draw is the start.
        estimates: What to take on the way.
    """
    return denoise(params, schedule, noise(), noise, estimates)


def retake(
    params: SamplingParams,
    schedule: Schedule,
    variance: float,
    noise: NoiseSource,
    retake_noise: NoiseSource,
    estimates: Estimates = NO_ESTIMATES,
) -> Task:
    """As `text_to_music`, from a start between those of two seeds.

    Args:
        params: Of the request.
        schedule: From `build_sampling_schedule`.
        variance: 0 is the song of the first noise, 1 that of the second.
        noise: First noise, which ping-pong goes on with.
        retake_noise: Second noise.
        estimates: What to take on the way.
    """
    return denoise(params, schedule, mix_noise(noise(), retake_noise(), variance), noise, estimates)


def mix_noise(first: Tensor, second: Tensor, variance: float, share: Tensor | None = None) -> Tensor:
    """Turn from one noise to another; what lies between is standard normal too.

    Args:
        first: [..., T].
        second: As the first.
        variance: 0 the first, 1 the second.
        share: [T], how much of the variance each frame gets, 0 to 1. None: all of it.
    """
    angle = variance * math.pi / 2
    if share is None:
        return math.cos(angle) * first + math.sin(angle) * second
    angles = angle * share.cpu().double()  # in float64 where every device has it, as the one angle above
    cosine, sine = (part.float().to(first.device) for part in (angles.cos(), angles.sin()))
    return cosine * first + sine * second
