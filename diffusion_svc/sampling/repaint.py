"""New music in a part of a song, or beside it; the rest follows the source and ends as the source."""

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_svc.sampling.denoising import Task, guided_velocity
from diffusion_svc.sampling.guidance import Guidance
from diffusion_svc.sampling.params import SamplingParams
from diffusion_svc.sampling.schedule import Schedule
from diffusion_svc.sampling.solvers import Euler, NoiseSource
from diffusion_svc.sampling.text_to_music import mix_noise


def repaint(
    params: SamplingParams,
    schedule: Schedule,
    source: Tensor,
    mask: Tensor,
    variance: float,
    noise: NoiseSource,
    retake_noise: NoiseSource,
) -> Task:
    """Make new music where the mask says.

    Args:
        params: Of the request.
        schedule: Of the request.
        source: Latents of the song, [8, 16, T] float32.
        mask: [T] bool, true = new.
        variance: How much may change: 0 nothing, 1 everything.
        noise: First noise.
        retake_noise: Second noise, which the new part turns to.
    """
    start = noise()
    start = torch.where(mask, mix_noise(start, retake_noise(), variance), start)
    return regenerate(params, schedule, source, mask, start, variance)


def extend(
    params: SamplingParams, schedule: Schedule, source: Tensor, left: int, right: int, noise: NoiseSource, retake_noise: NoiseSource
) -> Task:
    """Make a song longer.

    Args:
        params: Of the request.
        schedule: Of the request.
        source: Latents of the song, [8, 16, T] float32.
        left: Frames to add before it.
        right: Frames to add after it.
        noise: Noise of the source's part, [8, 16, T].
        retake_noise: Noise of the new parts, at least as long as each.
    """
    return regenerate(params, schedule, *pad_source(source, left, right, noise(), retake_noise()), variance=1.0)


def pad_source(source: Tensor, left: int, right: int, noise: Tensor, retake_noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Room for new frames on both sides: the source, the mask and the noise of `regenerate`, each of the new length."""
    mask = F.pad(torch.zeros(source.shape[-1], dtype=torch.bool, device=source.device), (left, right), value=True)
    start = torch.cat([retake_noise[..., :left], noise, retake_noise[..., retake_noise.shape[-1] - right :]], dim=-1)
    return F.pad(source, (left, right)), mask, start


def extension_noise_frames(num_frames: int, left: int, right: int) -> int:
    """Length of the second noise of `extend`: the source's where each side fits into it, as in the reference; else that of both sides."""
    return num_frames if max(left, right) <= num_frames else left + right


def regenerate(params: SamplingParams, schedule: Schedule, source: Tensor, mask: Tensor, noise: Tensor, variance: float) -> Task:
    """Denoise what the mask selects, and hold the rest to the source at each noise level.

    Steps are those of plain euler: the held part has the noise of the start in it, which other solvers would not keep.

    Args:
        params: Of the request.
        schedule: Of the request. Its first steps, 1 - variance of them, are left out.
        source: [8, 16, T] float32.
        mask: [T] bool, true = new.
        noise: [8, 16, T] float32.
        variance: 0 to 1. 0 gives the source.
    """

    def noisy_source(sigma: float) -> Tensor:
        return (1 - sigma) * source + sigma * noise

    solver = Euler(schedule, omega_scale=0.0)
    guidance = Guidance(params.guidance, schedule.num_steps)
    first = int(schedule.num_steps * (1 - variance))
    latents = noisy_source(schedule.sigmas[first])
    for index in range(first, len(schedule.timesteps)):
        velocity = yield from guided_velocity(guidance, latents, index)
        latents = solver.step(latents, velocity, index)
        latents = torch.where(mask, latents, noisy_source(schedule.sigmas[index + 1]))
    return latents
