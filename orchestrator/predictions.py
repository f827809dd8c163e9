"""A plan in seconds: what each stage will do for it, priced by what the stages say of themselves. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from acestep_rpc.cost import predict
from acestep_rpc.v1 import sampling_pb2, stage_pb2
from acestep_rpc.work import (
    FRAME_SAMPLES,
    NOTHING,
    Steps,
    Work,
    context_windows,
    edit_rows,
    encode_features,
    extension_windows,
    forward_work,
    guided_rows,
    reference_steps,
    repaint_rows,
    rows_by_evaluation,
)
from orchestrator.plan import Plan
from orchestrator.preview_spec import decoded_frames, decoded_window, heard_window
from orchestrator.tasks import FRAME_SECONDS, AudioToAudio, Edit, Extend, Repaint, Retake, TextToMusic

SAMPLE_RATE = 44100


@dataclass(frozen=True)
class Prediction:
    """Seconds of a request, by stage as in STAGES.

    Attributes:
        alone: How long each stage takes, were it alone there.
        load: What each stage's device has to do for it: less, where requests share forwards.
    """

    alone: tuple[float, ...]
    load: tuple[float, ...]

    @property
    def device_seconds(self) -> float:
        """All that devices do for it."""
        return sum(self.load)


def predict_plan(plan: Plan, source_frames: int, descriptions: Sequence[stage_pb2.DescribeResponse]) -> Prediction | None:
    """What a plan will take; None: a stage does not say what its work costs.

    Args:
        plan: What is made.
        source_frames: Latent frames of its source; 0: it has none.
        descriptions: Of the encoder, the diffusion and the vae stage.
    """
    encoder, diffusion, vae = (_costs(description) for description in descriptions)
    if not ("encode" in encoder and "forward" in diffusion and "decode" in vae):
        return None
    prompts = [(plan.tags, plan.lyrics, plan.negative_tags)]
    if isinstance(plan.task, Edit):
        prompts.append((plan.task.tags, plan.task.lyrics, plan.task.negative_tags))
    encode, tokens = 0.0, 0.0
    for tags, lyrics, negative_tags in prompts:
        text, negative = (predict(encoder["text_tokens"], {"characters": len(part or "")}) for part in (tags, negative_tags))
        lyric = predict(encoder["lyric_tokens"], {"characters": len(lyrics)})
        encode += predict(encoder["encode"], encode_features(plan.null_condition, text, lyric, negative))
        tokens = max(tokens, 1 + max(text, negative) + lyric)
    frames, forwards = song_forwards(plan, source_frames, round(tokens))
    songs = len(plan.seeds)
    work = sum(forwards, NOTHING)
    total = sum((work for _ in range(songs)), NOTHING)
    forward_size = int(descriptions[1].limits["forward_row_frames"]) or 1
    # Songs of a request share forwards with each other at least.
    alone = predict(diffusion["forward"], total.features() | {"forwards": max(work.forwards, total.row_frames / forward_size)})
    load = predict(diffusion["forward"], total.shared_features(forward_size))
    decode = predict(vae["decode"], {"songs": songs, "frames": songs * frames})
    # Previews are decoded beside the sampling: work of the device, which the song does not wait for.
    return Prediction((encode, alone, decode), (encode, load, decode + _preview_seconds(plan, frames, source_frames, descriptions[2])))


def _preview_seconds(plan: Plan, frames: int, source_frames: int, vae: stage_pb2.DescribeResponse) -> float:
    if plan.preview is None:
        return 0.0
    duration = frames * FRAME_SECONDS
    window = decoded_window(heard_window(plan.preview, plan.task, duration, source_frames), duration, vae.limits["decode_margin_seconds"])
    previews = len(plan.seeds) * len(plan.preview.at_steps)
    return predict(_costs(vae)["decode"], {"songs": previews, "frames": previews * decoded_frames(window)})


def song_forwards(plan: Plan, source_frames: int, tokens: int) -> tuple[int, list[Work]]:
    """Frames of one song of a plan, and the forwards that make it; the count of `diffusion_svc.song_work`, before there are conditions.

    Args:
        plan: What is made.
        source_frames: Latent frames of its source; 0: it has none.
        tokens: Of the longest condition.
    """
    steps = steps_of(plan.sampling)
    guided = guided_rows(steps, bool(plan.lyrics.strip()))
    frames, windows, rows = source_frames, [source_frames], rows_by_evaluation(steps, guided)
    match plan.task:
        case TextToMusic(duration_seconds=seconds) | Retake(duration_seconds=seconds):
            frames = int(seconds * SAMPLE_RATE / 512 / 8)
            windows = [frames]
        case AudioToAudio(ref_audio_strength=strength):
            count = reference_steps(steps.infer_step, strength)
            rows = rows_by_evaluation(steps_of(plan.sampling, count), guided) if count else []
        case Edit() as task:
            branches = 2 if steps.guided else 1
            rows = edit_rows(steps, task.edit_n_min, task.edit_n_max, task.edit_n_avg, (2 * branches, 2 * branches, branches))
        case Repaint() as task:
            regions = [(_frame(start), min(_frame(end), frames)) for start, end in sorted(task.regions)]
            if sum(end - start for start, end in regions) != frames:  # else it is a retake
                rows = repaint_rows(steps, guided, task.retake_variance)
                if task.context_seconds is not None:
                    context = math.ceil(task.context_seconds * SAMPLE_RATE / FRAME_SAMPLES - 1e-6)
                    windows = [stop - start for start, stop in context_windows(frames, regions, context)]
        case Extend() as task:
            left, right = _frame(task.left_seconds), _frame(task.right_seconds)
            windows = [stop - start for start, stop in extension_windows(frames, left, right)]
            frames += left + right
            rows = repaint_rows(steps, guided, 1.0)
    return frames, [forward_work(count, window, tokens) for window in windows for count in rows if count]


def steps_of(sampling: sampling_pb2.SamplingParams, infer_step: int | None = None) -> Steps:
    """What of the parameters decides the rows; all of them are set."""
    return Steps(
        infer_step=sampling.infer_step if infer_step is None else infer_step,
        heun=sampling.scheduler_type == sampling_pb2.SCHEDULER_TYPE_HEUN,
        num_oss_steps=len(sampling.oss_steps),
        guidance_scale=sampling.guidance_scale,
        guidance_interval=sampling.guidance_interval,
        double_condition=sampling.guidance_scale_text > 1 and sampling.guidance_scale_lyric > 1,
        cfg_star=sampling.cfg_type == sampling_pb2.CFG_TYPE_CFG_STAR,
    )


def _frame(seconds: float) -> int:
    """The frame that a moment falls into."""
    return int(seconds * SAMPLE_RATE / FRAME_SAMPLES + 1e-6)


def _costs(description: stage_pb2.DescribeResponse) -> dict[str, dict[str, float]]:
    return {cost.name: dict(cost.coefficients) for cost in description.costs}
