"""What a request wants to hear before its song is done: which steps, and which stretch. Pure."""

import math
from dataclasses import dataclass

from acestep_rpc.errors import InvalidRequest
from acestep_rpc.v1 import music_pb2, sampling_pb2
from acestep_rpc.work import first_step, reference_steps
from orchestrator.limits import Problems
from orchestrator.tasks import FRAME_SECONDS, AudioToAudio, Edit, Extend, Repaint, Retake, Task, TextToMusic

DEFAULT_SECONDS = 10.0
MAX_STEPS = 16


@dataclass(frozen=True)
class Preview:
    """Previews of every song.

    Attributes:
        at_steps: After which they are decoded, ascending.
        window: Seconds (start, end) of the song; None: the first DEFAULT_SECONDS of what is new.
    """

    at_steps: tuple[int, ...]
    window: tuple[float, float] | None


def read_preview(output: music_pb2.OutputSpec, sampling: sampling_pb2.SamplingParams, task: Task, problems: Problems) -> Preview | None:
    """Check what a request says of previews; None: it wants none.

    Args:
        output: Of the request.
        sampling: Every field set.
        task: Of the request.
        problems: Collects what is wrong.
    """
    if not output.HasField("preview"):
        return None
    steps, possible = list(output.preview.at_steps), steps_run(sampling, task)
    allowed = f"{possible[0]} to {possible[-1]}, the steps that are run" if possible else "none, for no step is run"
    field = "output.preview.at_steps"
    if not 1 <= len(steps) <= MAX_STEPS:
        problems.add(field, f"{len(steps)} steps", f"1 to {MAX_STEPS} steps")
    if len(set(steps)) < len(steps):
        problems.add(field, steps, "a step once")
    for index, step in enumerate(steps):
        if step not in possible:
            problems.add(f"{field}[{index}]", step, allowed)
    if not output.preview.HasField("window"):
        return Preview(tuple(sorted(steps)), None)
    start, end = output.preview.window.start_seconds, output.preview.window.end_seconds
    problems.number("output.preview.window.start_seconds", start)
    if problems.number("output.preview.window.end_seconds", end) < start + FRAME_SECONDS:
        problems.add("output.preview.window.end_seconds", end, f"at least {FRAME_SECONDS:.3f} above start_seconds ({start:g})")
    if isinstance(task, TextToMusic | Retake) and end > task.duration_seconds:  # other songs are as long as their sources make them
        problems.add("output.preview.window.end_seconds", end, f"at most {task.duration_seconds:g}, the end of the song")
    return Preview(tuple(sorted(steps)), (start, end))


def steps_run(sampling: sampling_pb2.SamplingParams, task: Task) -> range:
    """The steps of the schedule that a task does not leave out, 1-based."""
    steps = len(sampling.oss_steps) or sampling.infer_step
    match task:
        case Repaint(retake_variance=variance):
            return range(first_step(steps, variance) + 1, steps + 1)
        case Edit(edit_n_min=n_min):
            return range(int(steps * n_min) + 1, steps + 1)
        case AudioToAudio(ref_audio_strength=strength):
            return range(1, reference_steps(steps, strength) + 1)
        case _:
            return range(1, steps + 1)


def check_window(preview: Preview | None, duration_seconds: float) -> None:
    """Refuse a window beyond the end of the song.

    Raises:
        InvalidRequest: It is.
    """
    if preview is not None and preview.window is not None and preview.window[1] > duration_seconds:
        raise InvalidRequest("output.preview.window.end_seconds", preview.window[1], f"at most {duration_seconds:g}, the end of the song")


def heard_window(preview: Preview, task: Task, duration_seconds: float, source_frames: int) -> tuple[float, float]:
    """Seconds (start, end) of the song that its previews have.

    Args:
        preview: Of the request.
        task: Of the request.
        duration_seconds: Of the song.
        source_frames: Latent frames of its source; 0: it has none.
    """
    if preview.window is not None:
        return preview.window[0], min(preview.window[1], duration_seconds)
    start = 0.0
    match task:
        case Repaint(regions=regions):
            start = min(region[0] for region in regions)
        case Extend(left_seconds=left, right_seconds=right) if left < FRAME_SECONDS <= right:
            start = source_frames * FRAME_SECONDS
    return start, min(start + DEFAULT_SECONDS, duration_seconds)


def decoded_window(window: tuple[float, float], duration_seconds: float, margin_seconds: float) -> tuple[float, float]:
    """The stretch that has to be decoded to hear a window of a song, in seconds (start, end)."""
    return max(window[0] - margin_seconds, 0.0), min(window[1] + margin_seconds, duration_seconds)


def decoded_frames(window: tuple[float, float]) -> int:
    """Latent frames of a stretch, those that it only touches too."""
    return math.ceil(window[1] / FRAME_SECONDS - 1e-6) - int(window[0] / FRAME_SECONDS + 1e-6)
