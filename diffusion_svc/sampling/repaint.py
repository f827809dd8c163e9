"""New music in a part of a song, or beside it; the rest follows the source and ends as the source."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_svc.sampling.denoising import Task, guided_velocity
from diffusion_svc.sampling.guidance import Guidance
from diffusion_svc.sampling.params import SamplingParams
from diffusion_svc.sampling.schedule import Schedule
from diffusion_svc.sampling.solvers import Euler, NoiseSource
from diffusion_svc.sampling.text_to_music import mix_noise

WINDOW_FRAMES = 2583  # 240 seconds, the longest that the network was trained on


def repaint(
    params: SamplingParams,
    schedule: Schedule,
    source: Tensor,
    mask: Tensor,
    variance: float,
    noise: NoiseSource,
    retake_noise: NoiseSource,
    windows: Sequence[tuple[int, int]] | None = None,
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
    """
    start = mix_noise(noise(), retake_noise(), variance, mask)
    result = source.clone()
    for window, (low, high) in enumerate(windows or [(0, source.shape[-1])]):
        part = (source[..., low:high], mask[low:high], start[..., low:high])
        result[..., low:high] = yield from regenerate(params, schedule, *part, variance, window)
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


def context_windows(num_frames: int, regions: Sequence[tuple[int, int]], context: int) -> list[tuple[int, int]]:
    """The regions with so many frames of the song on either side; windows that touch are one.

    Args:
        num_frames: T.
        regions: Frames [start, stop), sorted.
        context: Frames, at least 0.
    """
    return merge_spans((max(start - context, 0), min(stop + context, num_frames)) for start, stop in regions)


def merge_spans(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans [start, stop) in ascending order of their starts, those that touch or overlap made one."""
    merged: list[tuple[int, int]] = []
    for start, stop in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def extend(
    params: SamplingParams, schedule: Schedule, source: Tensor, left: int, right: int, noise: NoiseSource, retake_noise: NoiseSource
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
    """
    result, mask, start = pad_source(source, left, right, noise(), retake_noise())
    for window, (low, high) in enumerate(extension_windows(source.shape[-1], left, right)):
        part = (result[..., low:high].clone(), mask[low:high].clone(), start[..., low:high])
        result[..., low:high] = yield from regenerate(params, schedule, *part, variance=1.0, window=window)
        mask[low:high] = 0
    return result


def extension_windows(num_frames: int, left: int, right: int) -> list[tuple[int, int]]:
    """Frames [start, stop) of the longer song that are computed, window by window: first its end, then its start.

    Nothing when nothing is added, and all of it when it fits. Otherwise a window has as much of the known song as fits beside the new
    frames, half a window or more where there is so much.

    Args:
        num_frames: Length of the source.
        left: Frames to add before it.
        right: Frames to add after it.
    """
    total = left + num_frames + right
    if total == num_frames:
        return []
    if total <= WINDOW_FRAMES:
        return [(0, total)]
    windows, known_start, known_stop = [], left, left + num_frames

    def room() -> int:
        return WINDOW_FRAMES - min(WINDOW_FRAMES // 2, known_stop - known_start)

    while known_stop < total:
        stop = min(known_stop + room(), total)
        windows.append((max(stop - WINDOW_FRAMES, known_start), stop))
        known_stop = stop
    while known_start > 0:
        start = max(known_start - room(), 0)
        windows.append((start, min(start + WINDOW_FRAMES, known_stop)))
        known_start = start
    return windows


def pad_source(source: Tensor, left: int, right: int, noise: Tensor, retake_noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Room for new frames on both sides: the source, the mask and the noise of `regenerate`, each of the new length."""
    mask = F.pad(torch.zeros(source.shape[-1], device=source.device), (left, right), value=1.0)
    start = torch.cat([retake_noise[..., :left], noise, retake_noise[..., retake_noise.shape[-1] - right :]], dim=-1)
    return F.pad(source, (left, right)), mask, start


def extension_noise_frames(num_frames: int, left: int, right: int) -> int:
    """Length of the second noise of `extend`: the source's where each side fits into it, as in the reference; else that of both sides."""
    return num_frames if max(left, right) <= num_frames else left + right


def regenerate(
    params: SamplingParams, schedule: Schedule, source: Tensor, mask: Tensor, noise: Tensor, variance: float, window: int = 0
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
    """

    def noisy_source(sigma: float) -> Tensor:
        return (1 - sigma) * source + sigma * noise

    solver = Euler(schedule, omega_scale=0.0)
    guidance = Guidance(params.guidance, schedule.num_steps)
    first = int(schedule.num_steps * (1 - variance))
    latents = noisy_source(schedule.sigmas[first])
    for index in range(first, len(schedule.timesteps)):
        velocity = yield from guided_velocity(guidance, latents, index, window)
        latents = solver.step(latents, velocity, index)
        latents = torch.lerp(noisy_source(schedule.sigmas[index + 1]), latents, mask)  # exact at 0 and 1
    return latents
