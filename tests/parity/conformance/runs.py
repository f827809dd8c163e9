"""Schedules, solvers, guidance, and whole runs from token ids to final latents."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_svc.adapters import Adaptation, AdapterStore
from diffusion_svc.model.low_rank import Updates
from diffusion_svc.model.transformer import Context, Row
from diffusion_svc.sampler import Sampler, SamplingRequest
from diffusion_svc.sampling.denoising import Task
from diffusion_svc.sampling.guidance import Branch, Guidance, MomentumBuffer, apg, cfg, cfg_star, double_condition
from diffusion_svc.sampling.params import SamplingParams, SchedulerType
from diffusion_svc.sampling.schedule import NUM_TRAIN_TIMESTEPS, Schedule, build_schedule, from_sigmas, heun_schedule, training_sigmas
from diffusion_svc.sampling.solvers import Euler, Heun, PingPong, Solver, seeded_noise
from diffusion_svc.tasks import ConditionStates, Edit, build_task_schedule
from encoder_svc.adapters import AdapterStore as EncoderAdapterStore
from encoder_svc.encoder import Conditioning, NullCondition
from tests.parity.conformance.checkpoint import CPU, Checkpoint
from tests.parity.conformance.tasks import build_spec, deviation, edit_velocities, sampling_params, start_task

Tensors = Mapping[str, Tensor]
_SUFFIX = {Branch.FULL: "", Branch.NULL: "_null", Branch.TEXT_ONLY: "_no_lyric"}
_BRANCHES = {"cond": Branch.FULL, "uncond": Branch.NULL, "text_only": Branch.TEXT_ONLY}
_VELOCITY = re.compile(r"decode_(cond|uncond|text_only)_iter(\d+)")


def recorded_inputs(params: Mapping[str, Any], inputs: Tensors) -> dict[str, Tensor]:
    """Inputs of the recorded loop that our encoder stage and our seeds must give."""
    names = ["text_input_ids", "encoder_text_hidden_states", "encoder_text_hidden_states_null", "target_encoder_text_hidden_states"]
    names += ["randn_0"] if params.get("task") == "edit" else ["randn_0", "randn_1"]
    return {name: inputs[name] for name in names if name in inputs}


def checked(params: Mapping[str, Any], expected: Tensors) -> tuple[dict[str, Tensor], str]:
    """Recorded outputs that a run has, and what is left out with the reason.

    The latents before evaluations that cfg_star leaves out are not among them, as their velocity counts 0.
    """
    count = len(expected["timesteps"])
    sampling = sampling_params(params)
    guidance = Guidance(sampling.guidance, (count + 1) // 2 if sampling.scheduler_type is SchedulerType.HEUN else count)
    left_out = {f"latents_before_iter{index}" for index in range(count) if not guidance.branches(index)}
    names, note = deviation(params, expected)
    return {name: tensor for name, tensor in expected.items() if name not in left_out | names}, note


def compute(checkpoint: Checkpoint, params: Mapping[str, Any], inputs: Tensors, expected: Tensors) -> Tensors:
    """Run a case from its prompt and token ids, with its recorded noise."""
    sampling, null_condition = sampling_params(params), _null_condition(params)
    conditioning = _encode(checkpoint, params)
    batch, frames = inputs["randn_0"].shape[0], inputs["randn_0"].shape[-1]
    target = None
    outputs: dict[str, Tensor] = {}
    if params.get("task") == "edit":
        encoded = checkpoint.encoder.encode(params["edit_target_prompt"], params["edit_target_lyrics"]["token_ids"], null_condition)
        outputs["target_encoder_text_hidden_states"] = encoded.text_hidden_states[None]
        target = _condition_states(encoded)
    spec = build_spec(params, inputs, target)
    schedule = build_task_schedule(spec, sampling)
    outputs["timesteps"] = torch.tensor(schedule.timesteps)

    text_ids = checkpoint.encoder.text_tokenizer.encode(params["prompt"])
    outputs["text_input_ids"] = torch.tensor([text_ids])
    outputs["encoder_text_hidden_states"] = conditioning.text_hidden_states.expand(batch, -1, -1)
    weakened = checkpoint.encoder.text_encoder(outputs["text_input_ids"], torch.ones_like(outputs["text_input_ids"]), weakened=True)
    outputs["encoder_text_hidden_states_null"] = weakened.expand(batch, -1, -1)
    for name, seeds in (("randn_0", "retake_seeds" if target else "manual_seeds"), ("randn_1", "retake_seeds")):
        outputs[name] = torch.stack([seeded_noise(seed, (8, 16, frames), CPU)() for seed in _seeds(params[seeds], batch)])

    # Conditions, embedded; a run without guidance has recorded the null branch too.
    states = _condition_states(conditioning)
    model = checkpoint.transformer
    adaptation = _adaptation(checkpoint, params)
    updates = adaptation.updates if adaptation else None
    lyric_mask = conditioning.lyric_attention_mask
    mask = torch.cat([torch.ones(1 + len(states.text)), lyric_mask.float()])
    outputs["encoder_hidden_mask"] = mask.expand(batch, -1)
    null_text = torch.zeros_like(states.text) if states.null_text is None else states.null_text
    assert states.null_lyrics is not None
    sources = {
        Branch.FULL: (states.text, states.lyrics),
        Branch.NULL: (null_text, states.null_lyrics),
        Branch.TEXT_ONLY: (states.text, states.null_lyrics),
    }
    contexts: dict[Branch, Context] = {}
    for branch, (text, lyrics) in sources.items():
        embedded = model.embed_conditions(text[None], lyrics[None], updates=updates)[0]
        outputs[f"encoder_hidden_states{_SUFFIX[branch]}"] = embedded.expand(batch, -1, -1)
        contexts[branch] = model.project_context(embedded, None if bool(lyric_mask.all()) else mask, updates)

    task = start_task(spec, params, sampling, schedule, inputs)
    if batch == 1:
        outputs |= _run_song(Sampler(model), SamplingRequest(states, sampling, (0,), spec, adaptation), task)
    else:
        outputs |= _run_stacked(checkpoint, sampling, schedule, contexts, task, updates)

    # Recorded velocities, also where our run does not ask for them: cfg_star's zero steps, which leave the latents as they began.
    modulations = model.modulate(torch.tensor(schedule.timesteps), updates)
    for name in expected:
        if found := _VELOCITY.fullmatch(name):
            branch, index = _BRANCHES[found.group(1)], int(found.group(2))
            weak = branch is Branch.NULL and sampling.use_erg_diffusion
            before = outputs.get(f"latents_before_iter{index}", inputs["randn_0"])
            rows = [Row(latents, modulations[index], contexts[branch], weakened=weak, updates=updates) for latents in before]
            outputs[name] = torch.stack(model(rows))
    return outputs


def _run_song(sampler: Sampler, request: SamplingRequest, task: Task) -> dict[str, Tensor]:
    """A song as the sampler runs it, but with recorded noise."""
    (song,) = sampler.start(request)
    song.task, song.result = task, None
    sampler.resume(song, None)
    outputs: dict[str, Tensor] = {}
    momentum = MomentumBuffer(), MomentumBuffer()
    while song.pending:
        if isinstance(request.task, Edit):
            outputs |= edit_velocities(sampler.model, song, request.params.guidance.guidance_scale, *momentum)
        outputs[f"latents_before_iter{song.pending[0].timestep_index}"] = song.pending[0].latents[None]
        sampler.tick([song])
    assert isinstance(song.result, Tensor), song.result
    return outputs | {"final_latents": song.result[None]}


def _run_stacked(
    checkpoint: Checkpoint,
    sampling: SamplingParams,
    schedule: Schedule,
    contexts: Mapping[Branch, Context],
    task: Task,
    updates: Updates | None,
) -> dict[str, Tensor]:
    """A batch as one song: the reference takes the mean of omega over the whole batch, so its samples are not independent as ours are."""
    model = checkpoint.transformer
    modulations = model.modulate(torch.tensor(schedule.timesteps), updates)
    outputs: dict[str, Tensor] = {}
    velocities: list[Tensor] | None = None
    while True:
        try:
            evaluations = next(task) if velocities is None else task.send(velocities)
        except StopIteration as stop:
            outputs["final_latents"] = stop.value
            return outputs
        outputs[f"latents_before_iter{evaluations[0].timestep_index}"] = evaluations[0].latents
        velocities = []
        for evaluation in evaluations:
            modulation, context = modulations[evaluation.timestep_index], contexts[evaluation.branch]
            weak = evaluation.branch is Branch.NULL and sampling.use_erg_diffusion
            rows = [Row(latents, modulation, context, weak, updates=updates) for latents in evaluation.latents]
            velocities.append(torch.stack(model(rows)))


def _seeds(given: int | str | Sequence[int], batch: int) -> list[int]:
    if isinstance(given, int | str):
        given = [int(seed) for seed in str(given).split(",")]
    return [given[min(index, len(given) - 1)] for index in range(batch)]


def _null_condition(params: Mapping[str, Any]) -> NullCondition:
    if params.get("task") == "edit":
        return NullCondition.MASKED
    if params["use_erg_lyric"]:
        return NullCondition.WEAKENED if params["use_erg_tag"] else NullCondition.WEAKENED_LYRICS
    return NullCondition.ZEROS


def _encode(checkpoint: Checkpoint, params: Mapping[str, Any]) -> Conditioning:
    store, selections = _adapters(checkpoint, params)
    adaptation = EncoderAdapterStore(store, checkpoint.encoder.lyric_encoder, 1).select(selections)
    return checkpoint.encoder.encode(params["prompt"], params["lyrics"]["token_ids"], _null_condition(params), adaptation)


def _adaptation(checkpoint: Checkpoint, params: Mapping[str, Any]) -> Adaptation | None:
    store, selections = _adapters(checkpoint, params)
    return AdapterStore(store, checkpoint.transformer, 1).select(selections)


def _adapters(checkpoint: Checkpoint, params: Mapping[str, Any]) -> tuple[Path | None, list[tuple[str, float]]]:
    """The store, a folder beside the checkpoint, and name and scale of the adapter of a run, if it has one."""
    given = params.get("lora_name_or_path", "none")
    if given == "none":
        return None, []
    path = checkpoint.folder.parent / given
    return path.parent, [(path.name, params["lora_weight"])]


def _condition_states(conditioning: Conditioning) -> ConditionStates:
    return ConditionStates(
        text=conditioning.text_hidden_states,
        lyrics=conditioning.lyric_hidden_states,
        lyric_mask=conditioning.lyric_attention_mask,
        null_text=conditioning.null_text_hidden_states,
        null_lyrics=conditioning.null_lyric_hidden_states,
        null_lyric_mask=conditioning.null_lyric_attention_mask,
    )


def compute_schedule(params: Mapping[str, Any], inputs: Tensors, expected: Tensors) -> Tensors:
    """Tables of noise levels, or a chain of solver steps on given velocities."""
    return _solver_chain(params, inputs) if inputs else _tables(params, expected)


def _solver_chain(params: Mapping[str, Any], inputs: Tensors) -> Tensors:
    schedule = Schedule(tuple(inputs["timesteps"].tolist()), tuple(inputs["sigmas"].tolist()), params["steps"])
    solver: Solver
    match SchedulerType(params["scheduler"]):
        case SchedulerType.EULER:
            solver = Euler(schedule, params["omega"])
        case SchedulerType.HEUN:
            solver = Heun(schedule, params["omega"])
        case SchedulerType.PINGPONG:
            noise = iter(inputs["step_noise"])
            solver = PingPong(schedule, lambda: next(noise))
    latents, chain = inputs["sample"], []
    for index, velocity in enumerate(inputs["model_outputs"]):
        latents = solver.step(latents, velocity, index)
        chain.append(latents)
    return {"chain": torch.stack(chain)}


def _tables(params: Mapping[str, Any], expected: Tensors) -> Tensors:
    outputs: dict[str, Tensor] = {}
    for sigma_max in params["sigma_max"]:
        train = training_sigmas(sigma_max)
        for scheduler in SchedulerType:
            prefix = f"{scheduler.value}_smax{sigma_max}"
            outputs[f"{prefix}_train_sigmas"], outputs[f"{prefix}_train_timesteps"] = train, train * NUM_TRAIN_TIMESTEPS
            for steps in params["steps"]:
                schedule = build_schedule(steps, sigma_max)
                if scheduler is SchedulerType.HEUN:
                    schedule = heun_schedule(schedule)
                outputs[f"{prefix}_n{steps}_sigmas"] = torch.tensor(schedule.sigmas)
                outputs[f"{prefix}_n{steps}_timesteps"] = torch.tensor(schedule.timesteps)
    given = expected["custom_sigmas_given"]
    custom = from_sigmas(given)
    outputs["custom_sigmas_given"] = given
    outputs["euler_custom_sigmas_sigmas"] = torch.tensor(custom.sigmas)
    outputs["euler_custom_sigmas_timesteps"] = torch.tensor(custom.timesteps)
    return outputs


def compute_guidance(params: Mapping[str, Any], inputs: Tensors, expected: Tensors) -> Tensors:
    """Every guidance rule on given velocities; what is computed shows in the names of the recorded outputs."""
    full, null, scale = inputs["cond_0"], inputs["uncond_0"], params["other_scale"]
    outputs: dict[str, Tensor] = {
        "cfg": cfg(full, null, scale),
        "double": double_condition(full, inputs["text_only"], null, params["text_scale"], params["lyric_scale"]),
        "apg_nobuffer": apg(full, null, scale, None),
        "apg_zero_diff": apg(full, full, scale, None),
    }
    buffer = MomentumBuffer(params["momentum"])
    for index in range(sum(name.startswith("cond_") for name in inputs)):
        pair = inputs[f"cond_{index}"], inputs[f"uncond_{index}"]
        outputs[f"apg_momentum_{index}"] = apg(*pair, params["apg_momentum_scale"], buffer)
        assert isinstance(buffer.running, Tensor)
        outputs[f"apg_running_average_{index}"] = buffer.running
    for name in expected:
        if found := re.fullmatch(r"cfg_zero_star_i(\d+)(_noinit)?", name):
            zero = int(found.group(1)) <= params["cfg_zero_steps"] and not found.group(2)
            outputs[name] = torch.zeros_like(full) if zero else cfg_star(full, null, scale)
        elif found := re.fullmatch(r"apg_eta([\dp]+)_norm([\dp]+)", name):
            eta, threshold = (float(number.replace("p", ".")) for number in found.groups())
            outputs[name] = apg(full, null, scale, None, eta, threshold)
    return outputs


def compute_noise(params: Mapping[str, Any]) -> Tensors:
    """First draw of each seed."""
    shape = tuple(params["shape"][1:])
    return {"noise": torch.stack([seeded_noise(seed, shape, CPU)() for seed in params["seeds"]])}
