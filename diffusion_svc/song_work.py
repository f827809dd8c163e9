"""The forwards that a song will ask for, counted from its task before the first of them."""

from collections.abc import Mapping

from acestep_rpc.work import Steps, Work, edit_rows, forward_work, reference_steps, repaint_rows, rows_by_evaluation
from diffusion_svc.model.transformer import Context
from diffusion_svc.sampling.guidance import Branch, CfgType
from diffusion_svc.sampling.params import SamplingParams, SchedulerType
from diffusion_svc.tasks import AudioToAudio, Edit, Extend, Repaint, TaskSpec, windows_of


def song_work(spec: TaskSpec, params: SamplingParams, contexts: Mapping[Branch, Context], weaken_null: bool) -> list[Work]:
    """Work of each forward of a song, in their order.

    Exact but for an edit without guidance to the prompt of its source: its rows stay equal, and fewer are evaluated.

    Args:
        spec: What is done.
        params: Of the request.
        contexts: Of every branch; those under equal conditions are one.
        weaken_null: The null branch is weakened in the transformer.
    """
    tokens = max(context.keys[0].shape[2] for context in contexts.values())

    def different(*branches: Branch) -> int:
        """Rows that these branches are on the same latents."""
        return len({(id(contexts[branch]), weaken_null and branch is Branch.NULL) for branch in branches if branch in contexts})

    steps = steps_of(params)
    guided = different(Branch.FULL, Branch.TEXT_ONLY, Branch.NULL)
    windows = [stop - start for start, stop in windows_of(spec)]
    match spec:
        case AudioToAudio(strength=strength):
            reference = steps_of(params, reference_steps(params.infer_step, strength))
            rows = rows_by_evaluation(reference, guided) if reference.infer_step else []
        case Edit(window=window):
            source, target = different(Branch.FULL, Branch.NULL), different(Branch.TARGET, Branch.TARGET_NULL)
            together = different(Branch.FULL, Branch.NULL, Branch.TARGET, Branch.TARGET_NULL)
            rows = edit_rows(steps, window.n_min, window.n_max, window.n_avg, (together, source + target, target))
        case Repaint(variance=variance):
            rows = repaint_rows(steps, guided, variance)
        case Extend():
            rows = repaint_rows(steps, guided, 1.0)
        case _:
            rows = rows_by_evaluation(steps, guided)
    return [forward_work(count, frames, tokens) for frames in windows for count in rows if count]


def steps_of(params: SamplingParams, infer_step: int | None = None) -> Steps:
    """What of the parameters decides the rows."""
    guidance = params.guidance
    return Steps(
        infer_step=params.infer_step if infer_step is None else infer_step,
        heun=params.scheduler_type is SchedulerType.HEUN,
        num_oss_steps=len(params.oss_steps),
        guidance_scale=guidance.guidance_scale,
        guidance_interval=guidance.guidance_interval,
        double_condition=guidance.double_condition,
        cfg_star=guidance.cfg_type is CfgType.CFG_STAR,
    )
