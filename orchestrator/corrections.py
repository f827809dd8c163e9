"""Where a song differs in numbers from what the reference implementation would have made of the same request, and why. Pure.

Only what the request meets is named. docs/tasks.md says what each name stands for.
"""

from acestep_rpc.v1 import sampling_pb2
from orchestrator.plan import Plan, is_guided
from orchestrator.tasks import FRAME_SECONDS, MAX_FRAMES, AudioToAudio, Edit, Extend, Repaint


def corrections(plan: Plan, audio_duration: float) -> list[str]:
    """Names of the corrected behaviours that shaped the songs of a plan.

    Args:
        plan: What was made.
        audio_duration: Length of each song in seconds, as asked for.
    """
    sampling, several = plan.sampling, len(plan.seeds) > 1
    solver = sampling.scheduler_type
    steps = len(sampling.oss_steps) or sampling.infer_step
    guided = range(int(steps * ((1 - sampling.guidance_interval) / 2)), int(steps * (sampling.guidance_interval / 2 + 0.5)))
    mean_shifted = not isinstance(plan.task, Repaint | Extend | Edit) and solver != sampling_pb2.SCHEDULER_TYPE_PINGPONG
    decays = sampling.guidance_interval_decay > 0 and is_guided(sampling)
    met = {
        "omega_mean_per_song": several and mean_shifted and sampling.omega_scale != 0,
        "pingpong_noise_per_song": several and solver == sampling_pb2.SCHEDULER_TYPE_PINGPONG,
        "decay_over_one_step": decays and len(guided) == 1,
        "oss_steps_in_float32": bool(sampling.oss_steps),
    }
    match plan.task:
        case Repaint() as task:
            met["repaint_variance_0_is_the_source"] = task.retake_variance == 0
            met["repaint_counts_oss_steps"] = bool(sampling.oss_steps) and task.retake_variance < 1
            met["repaint_of_several_regions"] = len(task.regions) > 1
        case Extend() as task:
            met |= _extension(task, audio_duration)
        case Edit():
            met["edit_noise_per_song"] = several
            met["pingpong_edit_follows_the_source"] = solver == sampling_pb2.SCHEDULER_TYPE_PINGPONG
        case AudioToAudio() as task:
            exact = (1 - task.ref_audio_strength) * sampling.infer_step
            met["audio_to_audio_steps_rounded"] = task.ref_audio_strength < 1 and int(exact) != max(int(exact + 1e-6), 1)
    return [name for name, applies in met.items() if applies]


def _extension(task: Extend, audio_duration: float) -> dict[str, bool]:
    left, right, total = (int(seconds / FRAME_SECONDS + 1e-6) for seconds in (task.left_seconds, task.right_seconds, audio_duration))
    return {
        "extension_of_both_sides": left > 0 and right > 0,
        "extension_longer_than_its_source": max(left, right) > total - left - right,
        "extension_in_windows": total > MAX_FRAMES,
    }
