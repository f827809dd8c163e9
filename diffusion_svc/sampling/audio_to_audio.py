"""A song that follows a reference: the reference with noise added, denoised under new conditions."""

from dataclasses import replace

import torch
from torch import Tensor

from acestep_rpc.work import reference_steps
from diffusion_svc.sampling.denoising import Task, denoise
from diffusion_svc.sampling.estimates import NO_ESTIMATES, Estimates
from diffusion_svc.sampling.params import SamplingParams, build_sampling_schedule
from diffusion_svc.sampling.schedule import Schedule, shift
from diffusion_svc.sampling.solvers import NoiseSource


def build_reference_schedule(params: SamplingParams, strength: float) -> Schedule:
    """The lower part of the noise levels and as much of the steps, but at least one; none when nothing is to change.

    Args:
        params: Of the request, without oss_steps.
        strength: How closely to follow the reference, 0 to 1.
    """
    if strength == 1:
        return Schedule(timesteps=(), sigmas=(0.0,), num_steps=0)
    num_steps = reference_steps(params.infer_step, strength)
    return build_sampling_schedule(replace(params, infer_step=num_steps), sigma_max=1 - strength)


def audio_to_audio(
    params: SamplingParams,
    schedule: Schedule,
    source: Tensor,
    strength: float,
    noise: NoiseSource,
    estimates: Estimates = NO_ESTIMATES,
) -> Task:
    """Denoise from a mix of the reference and noise.

    The mix is at the noise level shifted once, sampling starts at the one shifted twice, which is higher: kept for equal results.

    Args:
        params: Of the request.
        schedule: From `build_reference_schedule`.
        source: Latents of the reference, [8, 16, T] float32.
        strength: How closely to follow it, 0 to 1.
        noise: The song's own noise; the first draw goes into the mix.
        estimates: What to take on the way.
    """
    sigma = shift(torch.tensor(1 - strength)).item()
    return denoise(params, schedule, (1 - sigma) * source + sigma * noise(), noise, estimates)
