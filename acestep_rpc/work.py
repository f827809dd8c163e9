"""How much work a request is, counted before any of it is done. Pure arithmetic on what a request says, for who asks and who works.

A forward of the transformer evaluates rows: latents under one condition. What it costs grows with its rows, their frames, and frames x
tokens of the conditions.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from acestep_rpc.v1 import encoder_pb2

FRAME_SAMPLES = 4096  # at 44.1 kHz: a latent frame
WINDOW_FRAMES = 2583
"""240 seconds, the longest that the network was trained on."""
CFG_STAR_ZERO_STEPS = 1  # evaluations 0 and 1


@dataclass(frozen=True)
class Work:
    """Forwards of one or more songs, each song alone in them.

    Attributes:
        forwards: How many, one after another.
        rows: In all of them.
        row_frames: Frames of all rows.
        row_frame_tokens: Frames of all rows, each times the tokens that it attends to.
    """

    forwards: int = 0
    rows: int = 0
    row_frames: int = 0
    row_frame_tokens: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.forwards + other.forwards,
            self.rows + other.rows,
            self.row_frames + other.row_frames,
            self.row_frame_tokens + other.row_frame_tokens,
        )

    def features(self) -> dict[str, float]:
        """For a cost model."""
        return vars(self).copy()

    def shared_features(self, forward_size: int) -> dict[str, float]:
        """As `features`, where others share each forward: of so many row_frames in it, its own count.

        Args:
            forward_size: Rows x frames of a full forward.
        """
        return self.features() | {"forwards": self.row_frames / forward_size}


NOTHING = Work()


def forward_work(rows: int, frames: int, tokens: int) -> Work:
    """One forward of rows of one length."""
    return Work(1, rows, rows * frames, rows * frames * tokens) if rows else NOTHING


def totals_left(forwards: Sequence[Work]) -> list[Work]:
    """The work that is left before each forward, and after the last."""
    return list(itertools.accumulate(reversed(forwards), initial=NOTHING))[::-1]


@dataclass(frozen=True)
class Steps:
    """What decides how many rows each step evaluates; names are those of SamplingParams."""

    infer_step: int
    heun: bool
    num_oss_steps: int
    guidance_scale: float
    guidance_interval: float
    double_condition: bool
    cfg_star: bool

    @property
    def guided(self) -> bool:
        """Scale 0 and 1 switch guidance off."""
        return self.guidance_scale not in (0.0, 1.0)

    @property
    def num_steps(self) -> int:
        """Steps that the guidance interval counts."""
        return self.num_oss_steps or self.infer_step

    @property
    def num_evaluations(self) -> int:
        """Heun evaluates every noise level but the first twice."""
        return 2 * self.num_steps - 1 if self.heun and not self.num_oss_steps else self.num_steps


def guided_range(num_steps: int, guidance_interval: float) -> range:
    """Indices of the evaluations that are guided: the middle of the run.

    For heun the reference counts N steps although it makes 2 N - 1 evaluations, so that its window sits early; kept for equal results.
    """
    start = int(num_steps * ((1 - guidance_interval) / 2))
    end = int(num_steps * (guidance_interval / 2 + 0.5))
    return range(start, end)


def rows_by_evaluation(steps: Steps, guided_rows: int) -> list[int]:
    """Rows of each evaluation of the schedule; 0 where the velocity is zero whatever they give.

    Args:
        steps: Of the request.
        guided_rows: Rows of a guided step: different conditions, see `guided_rows`.
    """
    guided = guided_range(steps.num_steps, steps.guidance_interval) if steps.guided else range(0)
    zero = CFG_STAR_ZERO_STEPS if steps.cfg_star and not steps.double_condition else -1
    return [1 if index not in guided else guided_rows if index > zero else 0 for index in range(steps.num_evaluations)]


def guided_rows(steps: Steps, lyrics: bool) -> int:
    """Rows of a guided step: a condition each, but without lyrics the full and the tags-only one are the same."""
    return (3 if lyrics else 2) if steps.double_condition else 2


def repaint_rows(steps: Steps, guided_rows: int, variance: float) -> list[int]:
    """Rows of each forward of one window of a repaint, whose first steps are left out."""
    return rows_by_evaluation(steps, guided_rows)[first_step(steps.num_steps, variance) :]


def edit_rows(steps: Steps, n_min: float, n_max: float, n_avg: int, conditions: tuple[int, int, int]) -> list[int]:
    """Rows of each forward of an edit, which guides every step and knows no solver but those of one evaluation a step.

    Args:
        steps: Of the request.
        n_min: Share of the schedule that is left out.
        n_max: Share up to which source and target are evaluated.
        n_avg: Draws a step until then.
        conditions: Different ones of source and target together in the first step, where the latents of both are equal; of both in the
            other steps; of the target alone after n_max.
    """
    first, switch = int(steps.infer_step * n_min), int(steps.infer_step * n_max)
    at_first, following, alone = conditions
    rows = [following * n_avg] * (switch - first) + [alone] * (steps.infer_step - switch)
    if switch > first:
        rows[0] = at_first * n_avg
    return rows


def first_step(num_steps: int, variance: float) -> int:
    """The first step of a repaint that is run."""
    return int(num_steps * (1 - variance))


def reference_steps(infer_step: int, strength: float) -> int:
    """Steps that follow a reference: the lower part of the schedule, but at least one; none when nothing is to change."""
    return 0 if strength == 1 else max(int((1 - strength) * infer_step + 1e-6), 1)  # 0.1 x 10 is 0.99..., and one step


def encode_features(
    null_condition: encoder_pb2.NullCondition, text_tokens: float, lyric_tokens: float, negative_tokens: float = 0.0
) -> dict[str, float]:
    """What encoding a prompt is: tokens of all branches that are computed; a null branch of zeros costs nothing."""
    weakened = null_condition == encoder_pb2.NULL_CONDITION_WEAKENED
    weakened_lyrics = weakened or null_condition == encoder_pb2.NULL_CONDITION_WEAKENED_LYRICS
    text = text_tokens * (2 if weakened else 1) + negative_tokens
    return {"prompts": 1.0, "text_tokens": text, "lyric_tokens": lyric_tokens * (2 if weakened_lyrics else 1)}


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
