"""Schedules, solvers, guidance, and whole runs from token ids to final latents."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_svc.adapters import Adaptation, AdapterStore
from diffusion_svc.model.low_rank import Updates
from diffusion_svc.model.transformer import Context, Row
from diffusion_svc.sampler import ConditionStates, Sampler, SamplingRequest, Song
from diffusion_svc.sampling.guidance import Branch, CfgType, Guidance, GuidanceParams, MomentumBuffer, apg, cfg, cfg_star, double_condition
from diffusion_svc.sampling.schedule import NUM_TRAIN_TIMESTEPS, Schedule, build_schedule, from_sigmas, heun_schedule, training_sigmas
from diffusion_svc.sampling.solvers import Euler, Heun, PingPong, Solver, seeded_noise
from diffusion_svc.sampling.text_to_music import SamplingParams, SchedulerType, build_sampling_schedule, text_to_music
from encoder_svc.adapters import AdapterStore as EncoderAdapterStore
from encoder_svc.encoder import Conditioning, NullCondition
from tests.parity.conformance.checkpoint import CPU, Checkpoint

Tensors = Mapping[str, Tensor]
_SUFFIX = {Branch.FULL: "", Branch.NULL: "_null", Branch.TEXT_ONLY: "_no_lyric"}
_BRANCHES = {"cond": Branch.FULL, "uncond": Branch.NULL, "text_only": Branch.TEXT_ONLY}
_VELOCITY = re.compile(r"decode_(cond|uncond|text_only)_iter(\d+)")
_EVALUATED = re.compile(r"latents_before_iter(\d+)")


def unsupported(params: Mapping[str, Any]) -> str:
    """Which later issue owns the run; empty: none."""
    if params.get("audio2audio_enable") or params.get("task", "text2music") != "text2music":
        return f"task {'audio2audio' if params.get('audio2audio_enable') else params['task']}, issue 3/7"
    return ""


def recorded_inputs(inputs: Tensors) -> dict[str, Tensor]:
    """Inputs of the recorded loop that our encoder stage and our seeds must give."""
    names = ("text_input_ids", "encoder_text_hidden_states", "encoder_text_hidden_states_null", "randn_0")
    return {name: inputs[name] for name in names if name in inputs}


def checked(params: Mapping[str, Any], expected: Tensors) -> dict[str, Tensor]:
    """Recorded outputs that a run has: all, but the latents before evaluations that cfg_star leaves out, as their velocity counts 0."""
    schedule = build_sampling_schedule(_sampling_params(params))
    guidance = Guidance(_sampling_params(params).guidance, schedule.num_steps)
    left_out = {index for index in range(len(schedule.timesteps)) if not guidance.branches(index)}
    return {
        name: tensor for name, tensor in expected.items() if not ((found := _EVALUATED.fullmatch(name)) and int(found.group(1)) in left_out)
    }


def compute(checkpoint: Checkpoint, params: Mapping[str, Any], inputs: Tensors, expected: Tensors) -> Tensors:
    """Run a case from its prompt and token ids, with its recorded noise."""
    conditioning = _encode(checkpoint, params)
    sampling = _sampling_params(params)
    schedule = build_sampling_schedule(sampling)
    batch, frames = inputs["randn_0"].shape[0], inputs["randn_0"].shape[-1]
    outputs: dict[str, Tensor] = {"timesteps": torch.tensor(schedule.timesteps)}

    text_ids = checkpoint.encoder.text_tokenizer.encode(params["prompt"])
    outputs["text_input_ids"] = torch.tensor([text_ids])
    outputs["encoder_text_hidden_states"] = conditioning.text_hidden_states.expand(batch, -1, -1)
    weakened = checkpoint.encoder.text_encoder(outputs["text_input_ids"], torch.ones_like(outputs["text_input_ids"]), weakened=True)
    outputs["encoder_text_hidden_states_null"] = weakened.expand(batch, -1, -1)
    outputs["randn_0"] = torch.stack([seeded_noise(seed, (8, 16, frames), CPU)() for seed in _seeds(params, batch)])

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

    sampler = Sampler(model)
    if batch == 1:
        song = _start(sampler, SamplingRequest(states, sampling, (0,), frames, adaptation), schedule, _recorded_noise(inputs, 0))
        while song.pending:
            outputs[f"latents_before_iter{song.pending.timestep_index}"] = song.pending.latents[None]
            sampler.tick([song])
        assert isinstance(song.result, Tensor), song.result
        outputs["final_latents"] = song.result[None]
    else:
        outputs |= _run_stacked(checkpoint, sampling, schedule, contexts, inputs, updates)

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


def _start(sampler: Sampler, request: SamplingRequest, schedule: Schedule, noise: Iterator[Tensor]) -> Song:
    """A song as the sampler starts it, but with recorded noise."""
    (song,) = sampler.start(request)
    song.task = text_to_music(request.params, schedule, lambda: next(noise))
    song.pending = next(song.task)
    return song


def _run_stacked(
    checkpoint: Checkpoint,
    sampling: SamplingParams,
    schedule: Schedule,
    contexts: Mapping[Branch, Context],
    inputs: Tensors,
    updates: Updates | None,
) -> dict[str, Tensor]:
    """A batch as one song: the reference takes the mean of omega over the whole batch, so its samples are not independent as ours are."""
    model = checkpoint.transformer
    modulations = model.modulate(torch.tensor(schedule.timesteps), updates)
    noise = _recorded_noise(inputs, None)
    task = text_to_music(sampling, schedule, lambda: next(noise))
    outputs: dict[str, Tensor] = {}
    velocities: dict[Branch, Tensor] | None = None
    while True:
        try:
            evaluation = next(task) if velocities is None else task.send(velocities)
        except StopIteration as stop:
            outputs["final_latents"] = stop.value
            return outputs
        index = evaluation.timestep_index
        outputs[f"latents_before_iter{index}"] = evaluation.latents
        velocities = {
            branch: torch.stack(
                model(
                    [
                        Row(
                            latents,
                            modulations[index],
                            contexts[branch],
                            branch is Branch.NULL and sampling.use_erg_diffusion,
                            updates=updates,
                        )
                        for latents in evaluation.latents
                    ]
                )
            )
            for branch in evaluation.branches
        }


def _recorded_noise(inputs: Tensors, sample: int | None) -> Iterator[Tensor]:
    """The draws of one sample of the batch, or of all of them stacked."""
    which = slice(None) if sample is None else sample
    yield inputs["randn_0"][which]
    if "step_noise" in inputs:
        yield from inputs["step_noise"][:, which]


def _seeds(params: Mapping[str, Any], batch: int) -> list[int]:
    given = params["manual_seeds"]
    if isinstance(given, int | str):
        given = [int(seed) for seed in str(given).split(",")]
    return [given[min(index, len(given) - 1)] for index in range(batch)]


def _encode(checkpoint: Checkpoint, params: Mapping[str, Any]) -> Conditioning:
    if params["use_erg_lyric"]:
        null = NullCondition.WEAKENED if params["use_erg_tag"] else NullCondition.WEAKENED_LYRICS
    else:
        null = NullCondition.ZEROS
    store, selections = _adapters(checkpoint, params)
    adaptation = EncoderAdapterStore(store, checkpoint.encoder.lyric_encoder, 1).select(selections)
    return checkpoint.encoder.encode(params["prompt"], params["lyrics"]["token_ids"], null, adaptation)


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


def _sampling_params(params: Mapping[str, Any]) -> SamplingParams:
    return SamplingParams(
        infer_step=params["infer_step"],
        scheduler_type=SchedulerType(params["scheduler_type"]),
        omega_scale=params["omega_scale"],
        oss_steps=_steps(params.get("oss_steps")),
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
