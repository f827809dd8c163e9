"""New music in a part of a song, or beside it; the rest follows the source and ends as the source."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from acestep_rpc.work import extension_windows, first_step
from diffusion_svc.sampling.denoising import Task, guided_velocity
from diffusion_svc.sampling.estimates import NO_ESTIMATES, Estimates
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
    windows: Sequence[tuple[int, int]] | None = None,
    estimates: Estimates = NO_ESTIMATES,
) -> Task:
    """Make new music where the mask says.

    Args:
        params: Of the request.
        schedule: Of the request.
        source: Latents of the song, [8, 16, T] float32.
        mask: [T] float32, share of the new: 1 new, 0 kept, between them the edges.
        variance: How much may change: 0 nothing, 1 everything.
        noise: First noise.
        retake_noise: Second noise, which the new part turns to.
        windows: Frames [start, stop) to compute, one window after another, with the noise that they have in the whole; the network sees
            nothing outside of them. None: the whole song.
        estimates: What to take on the way.
    """
    start = mix_noise(noise(), retake_noise(), variance, mask)
    result = source.clone()
    for window, (low, high) in enumerate(windows or [(0, source.shape[-1])]):
        part = (source[..., low:high], mask[low:high], start[..., low:high])
        result[..., low:high] = yield from regenerate(params, schedule, *part, variance, window, estimates.inside(result, low, high))
    return result


def build_mask(num_frames: int, regions: Sequence[tuple[int, int]], feather: float = 0.0) -> Tensor:
    """Share of the new at each frame, [T] float32: 1 in the regions, 0 outside.

    Args:
        num_frames: T.
        regions: Frames [start, stop), sorted, not touching.
        feather: Frames at either edge, inside the region, over which the share rises in a line; at most half of the region. An edge at
            an end of the song has none.
    """
    frames = torch.arange(num_frames, dtype=torch.float32) + 0.5
    mask = torch.zeros(num_frames)
    for start, stop in regions:
        width = max(min(feather, (stop - start) / 2), 1e-6)
        rising = (frames - start) / width if start > 0 else torch.ones(num_frames)
        falling = (stop - frames) / width if stop < num_frames else torch.ones(num_frames)
        mask[start:stop] = torch.minimum(rising, falling).clamp(0, 1)[start:stop]
    return mask


def extend(
    params: SamplingParams,
    schedule: Schedule,
    source: Tensor,
    left: int,
    right: int,
    noise: NoiseSource,
    retake_noise: NoiseSource,
    estimates: Estimates = NO_ESTIMATES,
) -> Task:
    """Make a song longer, past the longest that the network takes by windows that overlap: what one made, the next one hears and keeps.

    Args:
        params: Of the request.
        schedule: Of the request.
        source: Latents of the song, [8, 16, T] float32.
        left: Frames to add before it.
        right: Frames to add after it.
        noise: Noise of the source's part, [8, 16, T].
        retake_noise: Noise of the new parts, at least as long as each.
        estimates: What to take on the way.
    """
    result, mask, start = pad_source(source, left, right, noise(), retake_noise())
    for window, (low, high) in enumerate(extension_windows(source.shape[-1], left, right)):
        part = (result[..., low:high].clone(), mask[low:high].clone(), start[..., low:high])
        result[..., low:high] = yield from regenerate(params, schedule, *part, 1.0, window, estimates.inside(result, low, high))
        mask[low:high] = 0
    return result


def pad_source(source: Tensor, left: int, right: int, noise: Tensor, retake_noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Room for new frames on both sides: the source, the mask and the noise of `regenerate`, each of the new length."""
    mask = F.pad(torch.zeros(source.shape[-1], device=source.device), (left, right), value=1.0)
    start = torch.cat([retake_noise[..., :left], noise, retake_noise[..., retake_noise.shape[-1] - right :]], dim=-1)
    return F.pad(source, (left, right)), mask, start


def extension_noise_frames(num_frames: int, left: int, right: int) -> int:
    """Length of the second noise of `extend`: the source's where each side fits into it, as in the reference; else that of both sides."""
    return num_frames if max(left, right) <= num_frames else left + right


def regenerate(
    params: SamplingParams,
    schedule: Schedule,
    source: Tensor,
    mask: Tensor,
    noise: Tensor,
    variance: float,
    window: int = 0,
    estimates: Estimates = NO_ESTIMATES,
) -> Task:
    """Denoise what the mask selects, and hold the rest to the source at each noise level.

    Steps are those of plain euler: the held part has the noise of the start in it, which other solvers would not keep.

    Args:
        params: Of the request.
        schedule: Of the request. Its first steps, 1 - variance of them, are left out.
        source: [8, 16, T] float32.
        mask: [T] float32, share of the new: 1 new, 0 held.
        noise: [8, 16, T] float32.
        variance: 0 to 1. 0 gives the source.
        window: Number of this part of the song.
        estimates: What to take on the way.
    """

    def noisy_source(sigma: float) -> Tensor:
        return (1 - sigma) * source + sigma * noise

    solver = Euler(schedule, omega_scale=0.0)
    guidance = Guidance(params.guidance, schedule.num_steps)
    first = first_step(schedule.num_steps, variance)
    latents = noisy_source(schedule.sigmas[first])
    for index in range(first, len(schedule.timesteps)):
        velocity = yield from guided_velocity(guidance, latents, index, window)
        if estimates.wants(index, window):
            estimates.take(index, torch.lerp(source, solver.estimate(latents, velocity, index), mask))
        latents = solver.step(latents, velocity, index)
        latents = torch.lerp(noisy_source(schedule.sigmas[index + 1]), latents, mask)  # exact at 0 and 1
    return latents
