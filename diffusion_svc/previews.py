"""Which clean estimates of its songs a request wants to hear of, and at which evaluations they are taken."""

import math
from dataclasses import dataclass

from acestep_rpc.errors import InvalidRequest
from acestep_rpc.v1 import diffusion_pb2
from diffusion_svc.sampling.estimates import NO_ESTIMATES, Estimates
from diffusion_svc.sampling.params import SamplingParams
from diffusion_svc.sampling.schedule import Schedule
from diffusion_svc.task_fields import FRAME_SAMPLES, SAMPLE_RATE
from diffusion_svc.tasks import Extend, Repaint, TaskSpec, build_task_schedule, windows_of

MAX_PREVIEWS = 16


@dataclass(frozen=True)
class Preview:
    """Steps, 1-based, after which the frames start to stop are estimated."""

    steps: tuple[int, ...]
    start: int
    stop: int

    @property
    def start_seconds(self) -> float:
        """Where it begins in the song."""
        return self.start * FRAME_SAMPLES / SAMPLE_RATE


def read_preview(request: diffusion_pb2.SampleRequest, task: TaskSpec, params: SamplingParams) -> Preview | None:
    """What a request wants of its task; None: nothing.

    Raises:
        InvalidRequest: A field is out of its range.
    """
    steps, window = tuple(request.preview_steps), request.preview_window
    if not steps:
        return None
    num_steps = build_task_schedule(task, params).num_steps
    if len(steps) > MAX_PREVIEWS or len(set(steps)) < len(steps):
        raise InvalidRequest("preview_steps", list(steps), f"at most {MAX_PREVIEWS} steps, none twice")
    for step in steps:
        if not 1 <= step <= num_steps:
            raise InvalidRequest("preview_steps", step, f"1 to {num_steps}")
    length_seconds = task.num_frames * FRAME_SAMPLES / SAMPLE_RATE
    if not (window.start_seconds >= 0 and _frames(window.start_seconds) + 1e-6 < task.num_frames):  # NaN fails here too
        raise InvalidRequest("preview_window.start_seconds", window.start_seconds, f"0 to below {length_seconds:g}, the end of the song")
    if not window.start_seconds < window.end_seconds < math.inf:
        raise InvalidRequest("preview_window.end_seconds", window.end_seconds, f"above start_seconds ({window.start_seconds:g})")
    start = int(_frames(window.start_seconds) + 1e-6)
    return Preview(steps, start, min(max(math.ceil(_frames(window.end_seconds) - 1e-6), start + 1), task.num_frames))


def build_estimates(preview: Preview | None, spec: TaskSpec, schedule: Schedule) -> Estimates:
    """What to take of a song that a request wants to hear of early."""
    if preview is None:
        return NO_ESTIMATES
    steps = {last_evaluation(step, schedule): step for step in preview.steps}
    return Estimates(steps, (preview.start, preview.stop), preview_window(preview, spec))


def last_evaluation(step: int, schedule: Schedule) -> int:
    """Index of the evaluation that ends a step: heun makes two of each but its last."""
    twice = len(schedule.timesteps) > schedule.num_steps
    return min(2 * step - 1, len(schedule.timesteps) - 1) if twice else step - 1


def preview_window(preview: Preview, spec: TaskSpec) -> int:
    """Of the windows that a song is computed in, the last that makes some of the preview new; where it is all kept, the first."""
    found = 0
    for window, spans in enumerate(_new_frames(spec)):
        if any(start < preview.stop and stop > preview.start for start, stop in spans):
            found = window
    return found


def _new_frames(spec: TaskSpec) -> list[list[tuple[int, int]]]:
    """Spans [start, stop) that each window makes; its other frames are kept as they are by then."""
    windows = windows_of(spec)
    match spec:
        case Repaint(regions=regions):
            return [[span for span in regions if low < span[1] and span[0] < high] for low, high in windows]
        case Extend(source=source, left=left):
            spans, known_start, known_stop = [], left, left + source.shape[-1]
            for low, high in windows:
                spans.append([(low, max(low, known_start)), (min(known_stop, high), high)])
                known_start, known_stop = min(known_start, low), max(known_stop, high)
            return [[span for span in window if span[0] < span[1]] for window in spans]
        case _:
            return [[span] for span in windows]


def _frames(seconds: float) -> float:
    return seconds * SAMPLE_RATE / FRAME_SAMPLES
