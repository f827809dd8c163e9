"""The task of a request, checked field by field: seconds to frames, messages to what the sampler takes."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from acestep_rpc.errors import InvalidRequest
from acestep_rpc.torch_tensor import unpack
from acestep_rpc.v1 import diffusion_pb2, tensor_pb2
from diffusion_svc.sampling.edit import EditWindow
from diffusion_svc.sampling.guidance import CfgType
from diffusion_svc.sampling.params import SamplingParams, SchedulerType
from diffusion_svc.tasks import AudioToAudio, ConditionStates, Edit, Extend, Repaint, Retake, TaskSpec, TextToMusic

SAMPLE_RATE = 44100
FRAME_SAMPLES = 512 * 8  # mel hop x time compression of the codec: 10.77 latent frames a second
MIN_DURATION_SECONDS = 0.1
MAX_DURATION_SECONDS = 240.0
MAX_REGIONS = 16
MAX_FEATHER_SECONDS = 5.0
MAX_AVERAGED_DRAWS = 16
TASKS = ("text_to_music", "retake", "repaint", "extend", "edit", "audio_to_audio")


def num_frames(duration_seconds: float) -> int:
    """Latent frames of a duration, rounded towards zero in this order of operations."""
    return int(duration_seconds * SAMPLE_RATE / 512 / 8)


MAX_FRAMES = num_frames(MAX_DURATION_SECONDS)  # 2583
MAX_EXTENDED_FRAMES = 3 * MAX_FRAMES  # 720 seconds: sixteen such songs still fit into one message


def read_task(request: diffusion_pb2.SampleRequest, params: SamplingParams, target: ConditionStates | None) -> TaskSpec:
    """Check the task and take its tensors out.

    Args:
        request: Its seeds are checked already.
        params: Its parameters, read already.
        target: Conditions of an edit's target, read already.
    Raises:
        InvalidRequest: A field is missing or out of its range, or a parameter means nothing to the task.
    """
    match request.WhichOneof("task"):
        case "text_to_music":
            return TextToMusic(_duration("text_to_music", request.text_to_music.duration_seconds))
        case "retake":
            return _read_retake(request)
        case "repaint":
            return _read_repaint(request, params)
        case "extend":
            return _read_extend(request, params)
        case "edit":
            assert target is not None
            return _read_edit(request, params, target)
        case "audio_to_audio":
            return _read_audio_to_audio(request, params)
        case _:
            raise InvalidRequest("task", None, ", ".join(TASKS))


def _read_retake(request: diffusion_pb2.SampleRequest) -> Retake:
    message = request.retake
    if len(message.retake_variances) != len(request.seeds):
        raise InvalidRequest("retake.retake_variances", len(message.retake_variances), f"{len(request.seeds)}, one a seed")
    for variance in message.retake_variances:
        _check_range("retake.retake_variances", variance, 0, 1)
    seeds = _retake_seeds("retake", message.retake_seeds, len(request.seeds))
    return Retake(_duration("retake", message.duration_seconds), tuple(message.retake_variances), seeds)


def _read_repaint(request: diffusion_pb2.SampleRequest, params: SamplingParams) -> Repaint | Retake:
    message = request.repaint
    source = _source("repaint", message.source)
    frames = source.shape[-1]
    if not 1 <= len(message.regions) <= MAX_REGIONS:
        raise InvalidRequest("repaint.regions", len(message.regions), f"1 to {MAX_REGIONS} regions")
    regions = sorted(_read_region(region, frames) for region in message.regions)
    for (_, end), (start, _) in itertools.pairwise(regions):
        if start < end:
            raise InvalidRequest(
                "repaint.regions", f"{start / SAMPLE_RATE * FRAME_SAMPLES:g} s in two regions", "regions that do not overlap"
            )
    _check_range("repaint.retake_variance", message.retake_variance, 0, 1)
    seeds = _retake_seeds("repaint", message.retake_seeds, len(request.seeds))
    if sum(end - start for start, end in regions) == frames:
        return Retake(frames, (message.retake_variance,) * len(seeds), seeds)
    _check_euler("repaint", params)
    _check_range("repaint.feather_seconds", message.feather_seconds, 0, MAX_FEATHER_SECONDS)
    context = None
    if message.HasField("context_seconds"):
        _check_range("repaint.context_seconds", message.context_seconds, 0, MAX_DURATION_SECONDS)
        context = math.ceil(message.context_seconds * SAMPLE_RATE / FRAME_SAMPLES - 1e-6)
    feather = message.feather_seconds * SAMPLE_RATE / FRAME_SAMPLES
    return Repaint(source, tuple(regions), message.retake_variance, seeds, feather, context)


def _read_region(region: diffusion_pb2.SamplingRegion, frames: int) -> tuple[int, int]:
    length_seconds = frames * FRAME_SAMPLES / SAMPLE_RATE
    start, end = region.start_seconds, region.end_seconds
    # A source's audio is up to a frame longer than its latents.
    for name, value in (("start_seconds", start), ("end_seconds", end)):
        _check_range(f"repaint.regions.{name}", value, 0, length_seconds + FRAME_SAMPLES / SAMPLE_RATE)
    first, last = _boundary(start), min(_boundary(end), frames)
    if first >= last:
        raise InvalidRequest("repaint.regions", f"{start:g} to {end:g} s", "an end at least 0.093 s (a frame) after the start")
    return first, last


def _read_extend(request: diffusion_pb2.SampleRequest, params: SamplingParams) -> Extend:
    message = request.extend
    source = _source("extend", message.source, MAX_EXTENDED_FRAMES)
    for name in ("left_seconds", "right_seconds"):
        _check_range(f"extend.{name}", getattr(message, name), 0, 3 * MAX_DURATION_SECONDS)
    left, right = _boundary(message.left_seconds), _boundary(message.right_seconds)
    total = left + source.shape[-1] + right
    if total > MAX_EXTENDED_FRAMES:
        raise InvalidRequest("extend", f"{total} frames in all", f"at most {MAX_EXTENDED_FRAMES} ({3 * MAX_DURATION_SECONDS:g} s)")
    _check_euler("extend", params)
    return Extend(source, left, right, _retake_seeds("extend", message.retake_seeds, len(request.seeds)))


def _read_edit(request: diffusion_pb2.SampleRequest, params: SamplingParams, target: ConditionStates) -> Edit:
    message, guidance = request.edit, params.guidance
    refused = {
        "params.scheduler_type": (params.scheduler_type is SchedulerType.HEUN, "euler or pingpong with edit"),
        "params.cfg_type": (guidance.cfg_type is not CfgType.APG, "apg with edit"),
        "params.guidance_interval_decay": (guidance.guidance_interval_decay != 0, "0 with edit"),
        "params.guidance_scale_text": (guidance.double_condition, "no double condition with edit"),
        "params.oss_steps": (bool(params.oss_steps), "none with edit"),
    }
    for field, (wrong, allowed) in refused.items():
        if wrong:
            raise InvalidRequest(field, getattr(request.params, field.removeprefix("params.")), allowed)
    _check_range("edit.edit_n_min", message.edit_n_min, 0, 1)
    _check_range("edit.edit_n_max", message.edit_n_max, message.edit_n_min, 1)
    _check_range("edit.edit_n_avg", message.edit_n_avg, 1, MAX_AVERAGED_DRAWS)
    window = EditWindow(message.edit_n_min, message.edit_n_max, message.edit_n_avg)
    return Edit(_source("edit", message.source), target, window, _retake_seeds("edit", message.retake_seeds, len(request.seeds)))


def _read_audio_to_audio(request: diffusion_pb2.SampleRequest, params: SamplingParams) -> AudioToAudio:
    message = request.audio_to_audio
    if params.oss_steps:
        raise InvalidRequest("params.oss_steps", list(params.oss_steps), "none with audio_to_audio")
    _check_range("audio_to_audio.ref_audio_strength", message.ref_audio_strength, 0, 1)
    return AudioToAudio(_source("audio_to_audio", message.source), message.ref_audio_strength)


def _duration(task: str, seconds: float) -> int:
    _check_range(f"{task}.duration_seconds", seconds, MIN_DURATION_SECONDS, MAX_DURATION_SECONDS)
    return num_frames(seconds)


def _boundary(seconds: float) -> int:
    """As `num_frames`, but seconds that were computed from frames give those frames back despite their rounding."""
    return int(seconds * SAMPLE_RATE / FRAME_SAMPLES + 1e-6)


def _source(task: str, message: tensor_pb2.Tensor, max_frames: int = MAX_FRAMES) -> Tensor:
    field = f"{task}.source"
    source = unpack(message, field, (torch.float32, torch.bfloat16), (8, 16, None))
    if not 1 <= source.shape[-1] <= max_frames:
        raise InvalidRequest(field, f"{source.shape[-1]} frames", f"1 to {max_frames}")
    return source


def _retake_seeds(task: str, seeds: Sequence[int], count: int) -> tuple[int, ...]:
    field = f"{task}.retake_seeds"
    if len(seeds) != count:
        raise InvalidRequest(field, len(seeds), f"{count}, one a seed")
    if max(seeds) >= 2**32:
        raise InvalidRequest(field, max(seeds), "0 to 4294967295")
    return tuple(seeds)


def _check_range(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # NaN fails here too
        raise InvalidRequest(field, value, f"{low:g} to {high:g}")


def _check_euler(task: str, params: SamplingParams) -> None:
    if params.scheduler_type is not SchedulerType.EULER:
        raise InvalidRequest("params.scheduler_type", params.scheduler_type.value, f"euler with {task}: its steps are those of euler")
