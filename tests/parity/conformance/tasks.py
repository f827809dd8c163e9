"""Recorded parameters of a run to what it does: parameters, task, and the noise in the order of its draws."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from diffusion_svc.model.transformer import Row, Transformer
from diffusion_svc.sampler import Song
from diffusion_svc.sampling.denoising import Task
from diffusion_svc.sampling.edit import EditWindow
from diffusion_svc.sampling.guidance import Branch, CfgType, GuidanceParams, MomentumBuffer, apg
from diffusion_svc.sampling.params import SamplingParams, SchedulerType
from diffusion_svc.sampling.repaint import pad_source, regenerate
from diffusion_svc.sampling.schedule import Schedule
from diffusion_svc.sampling.solvers import NoiseSource
from diffusion_svc.task_fields import num_frames
from diffusion_svc.tasks import AudioToAudio, ConditionStates, Edit, Extend, Repaint, Retake, TaskSpec, TextToMusic, build_task

Tensors = Mapping[str, Tensor]
_FIRST, _SECOND = 0, 1  # stand for the seeds: their noise is recorded


def sampling_params(params: Mapping[str, Any]) -> SamplingParams:
    """Parameters of a run. With a reference, the table of oss_steps is dropped and only its length counts."""
    oss_steps = _steps(params.get("oss_steps"))
    follows_reference = bool(params.get("audio2audio_enable"))
    return SamplingParams(
        infer_step=max(oss_steps) if follows_reference and oss_steps else params["infer_step"],
        scheduler_type=SchedulerType(params["scheduler_type"]),
        omega_scale=params["omega_scale"],
        oss_steps=() if follows_reference else oss_steps,
        guidance=GuidanceParams(
            guidance_scale=params["guidance_scale"],
            cfg_type=CfgType(params["cfg_type"]),
            guidance_interval=params["guidance_interval"],
            guidance_interval_decay=params["guidance_interval_decay"],
            min_guidance_scale=params["min_guidance_scale"],
            guidance_scale_text=params.get("guidance_scale_text", 0.0),
            guidance_scale_lyric=params.get("guidance_scale_lyric", 0.0),
        ),
        use_erg_diffusion=params["use_erg_diffusion"],
    )


def _steps(given: str | Sequence[int] | None) -> tuple[int, ...]:
    if not given:
        return ()
    return tuple(int(step) for step in (given.split(",") if isinstance(given, str) else given))


def deviation(params: Mapping[str, Any], expected: Tensors) -> tuple[set[str], str]:
    """Recorded outputs that are left out because the reference returns noise or drops input there, with a remark."""
    task = params.get("task")
    if task == "edit" and params["scheduler_type"] == "pingpong":
        names = {name for name in expected if name.startswith("iter")}
        return names, "(without the part that follows the source, whose result the reference drops)"
    if task in ("repaint", "extend"):
        steps = max(_steps(params.get("oss_steps")), default=params["infer_step"])
        if int(steps * (1 - params["retake_variance"])) >= len(expected["timesteps"]):
            return {"final_latents"}, "(without final_latents: the reference returns its noise)"
    return set(), ""


def build_spec(params: Mapping[str, Any], inputs: Tensors, target: ConditionStates | None) -> TaskSpec:
    """The task of a run. Sources of one song are [8, 16, T]; those of a batch keep its axis, one recorded alone is that of every song."""
    batch, _, _, frames = inputs["randn_0"].shape
    source = inputs.get("ref_latents", inputs.get("src_latents"))
    if source is not None:
        source = source[0] if batch == 1 else source.expand(batch, -1, -1, -1)
    task = params.get("task", "text2music")
    if params.get("audio2audio_enable"):
        assert source is not None
        return AudioToAudio(source, params["ref_audio_strength"])
    if task == "text2music":
        return TextToMusic(frames)
    if task == "edit":
        assert source is not None
        assert target is not None
        n_min, n_max = params.get("edit_n_min", 0.0), params.get("edit_n_max", 1.0)
        if params["scheduler_type"] == "pingpong":
            n_min = n_max
        return Edit(source, target, EditWindow(n_min, n_max, params.get("edit_n_avg", 1)), (_SECOND,))
    variance = params["retake_variance"]
    if task == "retake":
        return Retake(frames, (variance,), (_SECOND,))
    assert source is not None
    start, end = num_frames(params["repaint_start"]), num_frames(params["repaint_end"])
    if start < 0 or end > frames:
        left = max(-start, 0)
        return Extend(source, left, end - left - frames if end > frames else 0, (_SECOND,))
    if end - start == frames:
        return Retake(frames, (variance,), (_SECOND,))
    return Repaint(source, ((start, end),), variance, (_SECOND,))


def start_task(spec: TaskSpec, params: Mapping[str, Any], sampling: SamplingParams, schedule: Schedule, inputs: Tensors) -> Task:
    """The generator of a run with its recorded noise: of the one song, or of all songs of a batch stacked."""
    draws = [inputs[f"randn_{index}"] for index in range(sum(name.startswith("randn_") for name in inputs))]
    steps = list(inputs.get("step_noise", ()))
    if draws[0].shape[0] == 1:
        draws, steps = [draw[0] for draw in draws], [step[0] for step in steps]
    if isinstance(spec, Edit):
        switch = int(len(schedule.timesteps) * spec.window.n_max)
        if steps:  # the draws that the dropped part took are left out
            skipped = switch - int(len(schedule.timesteps) * params["edit_n_min"])
            draws, steps = draws[skipped:], steps[skipped:]
        recorded = {_SECOND: iter(draws + steps)}
    else:
        recorded = {_FIRST: iter(draws[:1] + steps), _SECOND: iter(draws[1:])}
    if isinstance(spec, Extend) and params["retake_variance"] < 1:  # no request of ours asks for it
        padded = pad_source(spec.source, spec.left, spec.right, next(recorded[_FIRST]), next(recorded[_SECOND]))
        return regenerate(sampling, schedule, *padded, params["retake_variance"])

    def noise_of(seed: int, _: int) -> NoiseSource:
        return lambda: next(recorded[seed])

    return build_task(spec, 0, _FIRST, sampling, schedule, noise_of)


def edit_velocities(
    model: Transformer, song: Song, scale: float, source_momentum: MomentumBuffer, target_momentum: MomentumBuffer
) -> dict[str, Tensor]:
    """Latents and guided velocities of the evaluations that an edit waits for, by their recorded names."""
    outputs: dict[str, Tensor] = {}
    index = song.pending[0].timestep_index
    follows_source = song.pending[0].branch is Branch.FULL
    velocities = model([Row(item.latents, song.modulations[index], song.contexts[item.branch]) for item in song.pending])
    draw = {"src": -1, "tar": -1}
    for item, velocity in zip(song.pending, velocities, strict=True):
        side = "src" if item.branch in (Branch.FULL, Branch.NULL) else "tar"
        if item.branch in (Branch.FULL, Branch.TARGET):
            draw[side] += 1
            outputs[f"iter{index}_avg{draw[side]}_zt_{side}"] = item.latents[None]
            outputs[f"iter{index}_avg{draw[side]}_v_{side}"] = velocity[None]
        else:
            name = f"iter{index}_avg{draw[side]}_v_{side}"
            momentum = source_momentum if side == "src" else None if follows_source else target_momentum
            outputs[name] = apg(outputs[name], velocity[None], scale, momentum)
    return outputs
