"""What a request wants done, with nothing left to decide but the source's length. Pure."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from acestep_rpc.v1 import encoder_pb2, music_pb2, sampling_pb2, vae_pb2
from orchestrator.limits import LIMITS, Problems

MAX_TAGS_CHARACTERS = 4096
MAX_LYRICS_CHARACTERS = 65536
MAX_REGIONS = 16
MAX_FRAMES = 2583  # 240 seconds
MAX_EXTENDED_FRAMES = 3 * MAX_FRAMES
FRAME_SECONDS = 4096 / 44100  # one latent frame: the shortest region


@dataclass(frozen=True)
class TextToMusic:
    """A song from nothing."""

    duration_seconds: float


@dataclass(frozen=True)
class Retake:
    """Songs near those of the seeds; one variance and one second seed a song."""

    duration_seconds: float
    retake_variances: tuple[float, ...]
    retake_seeds: tuple[int, ...]


@dataclass(frozen=True)
class Repaint:
    """New music in regions (start, end) of a source, in seconds."""

    source: str
    regions: tuple[tuple[float, float], ...]
    retake_variance: float
    retake_seeds: tuple[int, ...]
    splice_source: bool
    feather_seconds: float
    context_seconds: float | None


@dataclass(frozen=True)
class Extend:
    """A source made longer."""

    source: str
    left_seconds: float
    right_seconds: float
    retake_seeds: tuple[int, ...]


@dataclass(frozen=True)
class Edit:
    """A source with another prompt."""

    source: str
    tags: str
    lyrics: str
    negative_tags: str | None
    lyric_options: encoder_pb2.LyricOptions
    edit_n_min: float
    edit_n_max: float
    edit_n_avg: int
    retake_seeds: tuple[int, ...]


@dataclass(frozen=True)
class AudioToAudio:
    """A song that follows a source."""

    source: str
    ref_audio_strength: float


Task = TextToMusic | Retake | Repaint | Extend | Edit | AudioToAudio
NAMES = ("text_to_music", "retake", "repaint", "extend", "edit", "audio_to_audio")
"""Of the task oneof; the first is what a request without a task wants."""


def source_of(task: Task) -> str:
    """Name of the asset or result that a task starts from; empty: none."""
    return getattr(task, "source", "")


def task_name(request: music_pb2.GenerateRequest) -> str:
    """Which task a request wants."""
    return request.WhichOneof("task") or NAMES[0]


def unsuited(name: str, sampling: sampling_pb2.SamplingParams) -> dict[str, str]:
    """Parameters that a task's algorithm has no place for, and what is allowed instead."""
    scheduler, euler = sampling.scheduler_type, sampling_pb2.SCHEDULER_TYPE_EULER
    unsuited = {}
    match name:
        case "repaint" | "extend":
            unsuited = {"scheduler_type": (scheduler != euler, "SCHEDULER_TYPE_EULER")}
        case "edit":
            double = sampling.guidance_scale_text > 1 and sampling.guidance_scale_lyric > 1
            unsuited = {
                "scheduler_type": (scheduler == sampling_pb2.SCHEDULER_TYPE_HEUN, "SCHEDULER_TYPE_EULER or SCHEDULER_TYPE_PINGPONG"),
                "cfg_type": (sampling.cfg_type != sampling_pb2.CFG_TYPE_APG, "CFG_TYPE_APG"),
                "guidance_interval_decay": (sampling.guidance_interval_decay > 0, "0"),
                "guidance_scale_text": (double, "1 or less, or guidance_scale_lyric so,"),
                "oss_steps": (bool(sampling.oss_steps), "none"),
            }
        case "audio_to_audio":
            unsuited = {"oss_steps": (bool(sampling.oss_steps), "none")}
    return {field: allowed for field, (found, allowed) in unsuited.items() if found}


def read_task(
    request: music_pb2.GenerateRequest,
    sampling: sampling_pb2.SamplingParams,
    num_seeds: int,
    seed_source: random.Random,
    problems: Problems,
) -> tuple[Task, int]:
    """Check the task of a request and fill its defaults.

    Args:
        request: As it came.
        sampling: Every field set.
        num_seeds: Seeds of the request.
        seed_source: Where second seeds come from.
        problems: Collects what is wrong.
    Returns:
        The task, and how many songs it makes of each seed.
    """
    name = task_name(request)
    message = getattr(request, name)
    for field, allowed in unsuited(name, sampling).items():
        value = getattr(sampling, field)
        problems.add(f"sampling.{field}", list(value) if field == "oss_steps" else value, f"{allowed} with {name}")

    def number(field: str) -> float:
        return problems.number(f"{name}.{field}", getattr(message, field) if message.HasField(field) else None)

    def second_seeds() -> tuple[int, ...]:
        return _second_seeds(f"{name}.retake_seeds", message.retake_seeds, num_seeds, seed_source, problems)

    match name:
        case "retake":
            return _retake(message, number("duration_seconds"), second_seeds(), num_seeds, problems)
        case "repaint":
            source, regions = _asset(name, message.source, problems), _regions(message, problems)
            splice = message.splice_source if message.HasField("splice_source") else True
            context = problems.optional_number(
                "repaint.context_seconds", message.context_seconds if message.HasField("context_seconds") else None
            )
            variance, feather = number("retake_variance"), number("feather_seconds")
            return Repaint(source, regions, variance, second_seeds(), splice, feather, context), 1
        case "extend":
            left, right = number("left_seconds"), number("right_seconds")
            if not (message.HasField("left_seconds") or message.HasField("right_seconds")):
                problems.add("extend", "neither left_seconds nor right_seconds", "at least one of them")
            return Extend(_asset(name, message.source, problems), left, right, second_seeds()), 1
        case "edit":
            return _edit(message, number("edit_n_min"), number("edit_n_max"), number("edit_n_avg"), second_seeds(), sampling, problems), 1
        case "audio_to_audio":
            return AudioToAudio(_asset(name, message.source, problems), number("ref_audio_strength")), 1
    return TextToMusic(number("duration_seconds")), 1


def fix_task(request: music_pb2.GenerateRequest, task: Task) -> int:
    """Set in a request's task what `read_task` made of it; returns how many songs it makes of each seed."""
    message = getattr(request, task_name(request))
    message.SetInParent()
    songs_per_seed = len(message.retake_variances) or 1 if isinstance(task, Retake) else 1
    for field in message.DESCRIPTOR.fields:
        value: Any = getattr(task, field.name, None)
        if field.name == "retake_seeds":
            message.retake_seeds[:] = value[::songs_per_seed]
        elif field.name == "retake_variances":
            message.retake_variances[:] = value[:songs_per_seed]
        elif field.has_presence and field.message_type is None and value is not None:
            setattr(message, field.name, value)
    return songs_per_seed


def task_warnings(task: Task) -> list[str]:
    """What a task allows that was hardly meant."""
    if isinstance(task, Extend) and max(task.left_seconds, task.right_seconds) < FRAME_SECONDS:
        return [f"extend: nothing is added, for both sides are shorter than a latent frame ({FRAME_SECONDS:.3f} s); the song is its source"]
    return []


def song_seconds(task: Task, source: vae_pb2.EncodeAudioResponse | None) -> float:
    """Length of the songs of a task; checks the task against its source.

    Args:
        task: From `read_task`.
        source: What `source_of(task)` names.
    Raises:
        InvalidRequest: The source is too short or too long for it.
    """
    if isinstance(task, TextToMusic | Retake):
        return task.duration_seconds
    assert source is not None
    problems = Problems()
    frames = int(source.latents.shape[2])
    match task:
        case Repaint(regions=regions):
            for index, (_, end) in enumerate(regions):
                if end > source.duration_seconds:
                    problems.add(
                        f"repaint.regions[{index}].end_seconds", end, f"at most {source.duration_seconds:g}, the end of the source"
                    )
        case Extend(left_seconds=left, right_seconds=right):
            frames += int(left / FRAME_SECONDS) + int(right / FRAME_SECONDS)
    field, most = ("extend", MAX_EXTENDED_FRAMES) if isinstance(task, Extend) else ("source", MAX_FRAMES)
    if frames > most:
        problems.add(field, f"{frames * FRAME_SECONDS:.2f} seconds in all", f"at most {most * FRAME_SECONDS:.2f}")
    problems.raise_if_any()
    if isinstance(task, Repaint) and task.splice_source:
        return source.duration_seconds
    return frames * FRAME_SECONDS


def _second_seeds(field: str, given: Sequence[int], num_seeds: int, seed_source: random.Random, problems: Problems) -> tuple[int, ...]:
    problems.each(field, given)
    if len(given) > num_seeds:
        problems.add(field, f"{len(given)} seeds", f"at most {num_seeds}, one for each seed")
    return (*given, *(seed_source.randrange(2**32) for _ in range(num_seeds - len(given))))


def _retake(
    message: music_pb2.Retake, duration: float, second_seeds: tuple[int, ...], num_seeds: int, problems: Problems
) -> tuple[Retake, int]:
    field = "retake.retake_variances"
    default = LIMITS[field].default
    assert default is not None
    variances = tuple(message.retake_variances) or (default,)
    problems.each(field, variances)
    most = int(LIMITS["num_variants"].maximum)
    if num_seeds * len(variances) > most:
        problems.add(field, f"{len(variances)} variances for {num_seeds} seeds", f"a grid of at most {most} songs")
    # The songs of one seed stand together, in the order of the variances, and share their second seed.
    return Retake(duration, variances * num_seeds, tuple(seed for seed in second_seeds for _ in variances)), len(variances)


def _regions(message: music_pb2.Repaint, problems: Problems) -> tuple[tuple[float, float], ...]:
    regions = [(region.start_seconds, region.end_seconds) for region in message.regions]
    if not 1 <= len(regions) <= MAX_REGIONS:
        problems.add("repaint.regions", f"{len(regions)} regions", f"1 to {MAX_REGIONS}")
    last_end = 0.0
    for index, (start, end) in sorted(enumerate(regions), key=lambda item: item[1]):
        field = f"repaint.regions[{index}]"
        if not (math.isfinite(start) and start >= last_end):
            problems.add(f"{field}.start_seconds", start, f"at least {last_end:g}, where the region before it ends")
        if not (math.isfinite(end) and end >= start + FRAME_SECONDS):
            problems.add(f"{field}.end_seconds", end, f"at least {FRAME_SECONDS:.3f} above start_seconds")
        last_end = max(last_end, end)
    return tuple(regions)


def _edit(
    message: music_pb2.Edit,
    n_min: float,
    n_max: float,
    n_avg: float,
    second_seeds: tuple[int, ...],
    sampling: sampling_pb2.SamplingParams,
    problems: Problems,
) -> Edit:
    source = _asset("edit", message.source, problems)
    tags = problems.text("edit.target.tags", message.target.tags, MAX_TAGS_CHARACTERS)
    lyrics = problems.text("edit.target.lyrics", message.target.lyrics, MAX_LYRICS_CHARACTERS)
    if not tags.strip() and not lyrics.strip():
        problems.add("edit.target", "", "tags, lyrics or both")
    negative_tags = read_negative_tags("edit.target", message.target, sampling, True, problems)
    if n_min > n_max:
        problems.add("edit.edit_n_min", n_min, f"at most edit_n_max ({n_max:g})")
    return Edit(source, tags, lyrics, negative_tags, message.target.lyric_options, n_min, n_max, int(n_avg), second_seeds)


def read_negative_tags(
    field: str, prompt: music_pb2.Prompt, sampling: sampling_pb2.SamplingParams, all_steps: bool, problems: Problems
) -> str | None:
    """What a prompt steers away from, if it does.

    Args:
        field: Of the prompt.
        prompt: As it came.
        sampling: Every field set.
        all_steps: The task guides every step, whatever the interval.
        problems: Collects what is wrong.
    """
    if not prompt.HasField("negative_tags"):
        return None
    field = f"{field}.negative_tags"
    scale = sampling.guidance_scale
    if scale in (0, 1):
        problems.add(field, prompt.negative_tags, f"none with sampling.guidance_scale {scale:g}, which switches guidance off")
    elif sampling.guidance_interval == 0 and not all_steps:
        problems.add(field, prompt.negative_tags, "none with sampling.guidance_interval 0, which guides no step")
    return problems.text(field, prompt.negative_tags, MAX_TAGS_CHARACTERS)


def _asset(name: str, source: music_pb2.AudioSource, problems: Problems) -> str:
    if source.WhichOneof("source") is None:
        problems.add(f"{name}.source", "", "an asset, as UploadAudio names it, or an earlier result")
    return source.asset or source.result
