"""Messages to tensors and back. No mathematics."""

import asyncio
import contextlib
import dataclasses
import math
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc.aio
import torch

from acestep_rpc import adapter_service
from acestep_rpc.admission import Memory
from acestep_rpc.cost import CostModel
from acestep_rpc.errors import InvalidRequest, ShapeTooLarge
from acestep_rpc.server import Registration
from acestep_rpc.status import LoadStatus
from acestep_rpc.telemetry import log
from acestep_rpc.torch_tensor import pack, unpack
from acestep_rpc.tracing import annotate
from acestep_rpc.v1 import diffusion_pb2, diffusion_pb2_grpc, encoder_pb2, music_pb2, sampling_pb2, stage_pb2, stage_pb2_grpc
from diffusion_svc.adapters import NAME, Adaptation, AdapterError, AdapterStore
from diffusion_svc.batcher import Batcher, Estimate, Progress
from diffusion_svc.budget import Budget, forward_seconds, measure_budget, measure_forwards, timed_forward
from diffusion_svc.memory import request_memory
from diffusion_svc.model.config import TransformerConfig
from diffusion_svc.model.transformer import Transformer
from diffusion_svc.previews import read_preview
from diffusion_svc.sampler import Sampler, SamplingRequest
from diffusion_svc.sampling.guidance import CfgType, GuidanceParams
from diffusion_svc.sampling.params import SamplingParams, SchedulerType
from diffusion_svc.sampling_defaults import read_sampling_defaults
from diffusion_svc.scheduling import Priority, Terms
from diffusion_svc.settings import Settings
from diffusion_svc.task_fields import MAX_DURATION_SECONDS, TASKS, read_task
from diffusion_svc.tasks import ConditionStates, windows_of
from diffusion_svc.weights import load_transformer, model_digest

MAX_PROMPT_TOKENS = 256
MAX_LYRIC_TOKENS = 4096
MAX_VARIANTS = 16
MAX_STEPS = 1000
MAX_ADAPTERS = 8
MAX_ADAPTER_SCALE = 3.0
MAX_TENANT_LENGTH = 128
FLOAT_TYPES = (torch.float32, torch.bfloat16)

_SCHEDULER_TYPES = {
    sampling_pb2.SCHEDULER_TYPE_EULER: SchedulerType.EULER,
    sampling_pb2.SCHEDULER_TYPE_HEUN: SchedulerType.HEUN,
    sampling_pb2.SCHEDULER_TYPE_PINGPONG: SchedulerType.PINGPONG,
}
_PRIORITIES = {
    music_pb2.PRIORITY_UNSPECIFIED: Priority.NORMAL,
    music_pb2.PRIORITY_BATCH: Priority.BATCH,
    music_pb2.PRIORITY_NORMAL: Priority.NORMAL,
    music_pb2.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
}
_CFG_TYPES = {
    sampling_pb2.CFG_TYPE_CFG: CfgType.CFG,
    sampling_pb2.CFG_TYPE_APG: CfgType.APG,
    sampling_pb2.CFG_TYPE_CFG_STAR: CfgType.CFG_STAR,
}


class DiffusionServicer(diffusion_pb2_grpc.DiffusionServiceServicer):
    """DiffusionService on one device.

    Args:
        batcher: Runs the requests.
        config: Sizes, to check tensors against.
        adapters: What requests can name.
        worker: The stage's only thread for torch.
    """

    def __init__(self, batcher: Batcher, config: TransformerConfig, adapters: AdapterStore, worker: ThreadPoolExecutor) -> None:
        self._batcher = batcher
        self._config = config
        self._adapters = adapters
        self._worker = worker

    async def Sample(
        self, request: diffusion_pb2.SampleRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[diffusion_pb2.SampleResponse]:
        """Progress after each step, then the latents."""
        sampling, terms = read_request(request, self._config), read_terms(request, context.time_remaining())
        if request.adapters:
            sampling = dataclasses.replace(sampling, adaptation=await self._adapt(request.adapters))
        async with contextlib.aclosing(self._batcher.sample(sampling, terms)) as events:
            async for event in events:
                if isinstance(event, Progress):
                    progress = diffusion_pb2.SampleProgress(step=event.step, total_steps=event.total_steps, batch_rows=event.batch_rows)
                    yield diffusion_pb2.SampleResponse(progress=progress)
                elif isinstance(event, Estimate):
                    assert sampling.preview is not None
                    preview = diffusion_pb2.SamplePreview(
                        variant_index=event.variant,
                        step=event.step,
                        latents=pack(event.latents),
                        start_seconds=sampling.preview.start_seconds,
                    )
                    yield diffusion_pb2.SampleResponse(preview=preview)
                else:
                    annotate(device_seconds=event.device_seconds, evaluated_rows=event.evaluated_rows)
                    result = diffusion_pb2.SampleResult(
                        latents=[pack(latents) for latents in event.latents],
                        device_seconds=event.device_seconds,
                        evaluated_rows=event.evaluated_rows,
                    )
                    yield diffusion_pb2.SampleResponse(result=result)

    async def _adapt(self, adapters: Sequence[sampling_pb2.AdapterSelection]) -> Adaptation | None:
        selections, trained = read_adapters(adapters), {adapter.name for adapter in adapters if adapter.use_trained_scale}
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, self._adapters.select, selections, trained)
        except AdapterError as error:
            raise InvalidRequest.from_violations([("adapters", str(error))]) from error


class StageServicer(stage_pb2_grpc.StageServiceServicer):
    """Describes this replica.

    Args:
        model: The loaded transformer.
        digest: SHA-256 of its weights.
        adapters: What requests can name.
        sampling_defaults: What the checkpoint is best sampled with.
        batcher: Knows what work costs and how much there is.
    """

    def __init__(
        self, model: Transformer, digest: str, adapters: AdapterStore, sampling_defaults: sampling_pb2.SamplingParams, batcher: Batcher
    ) -> None:
        self._adapters = adapters
        self._batcher = batcher
        self.load = LoadStatus(self._status)
        """For those who watch it."""
        self._response = stage_pb2.DescribeResponse(
            stage="diffusion",
            model_digest=digest,
            dtype=str(model.dtype).removeprefix("torch."),
            device=str(model.device),
            versions={"torch": torch.__version__},
            limits={
                "max_duration_seconds": MAX_DURATION_SECONDS,
                "max_variants": MAX_VARIANTS,
                "max_prompt_tokens": MAX_PROMPT_TOKENS,
                "max_lyric_tokens": MAX_LYRIC_TOKENS,
                "max_adapters": MAX_ADAPTERS,
            },
            features={"tasks": ",".join(TASKS)},
            sampling_defaults=sampling_defaults,
        )

    async def Describe(self, request: stage_pb2.DescribeRequest, context: grpc.aio.ServicerContext[Any, Any]) -> stage_pb2.DescribeResponse:
        """Constant while the replica lives, but for the names in the adapter store, costs and backlog."""
        names = await asyncio.get_running_loop().run_in_executor(None, self._adapters.names)
        response = stage_pb2.DescribeResponse()
        response.CopyFrom(self._response)
        response.features["adapters"] = ",".join(names)
        response.limits["forward_row_frames"] = self._batcher.forward_size
        response.costs.add(name="forward", coefficients=self._batcher.coefficients)
        response.backlog_seconds = self._batcher.backlog_seconds
        return response

    async def WatchStatus(
        self, request: stage_pb2.WatchStatusRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[stage_pb2.WatchStatusResponse]:
        """Load, as it changes."""
        async with contextlib.aclosing(self.load.watch()) as statuses:
            async for status in statuses:
                yield status

    def _status(self) -> stage_pb2.WatchStatusResponse:
        batcher = self._batcher
        return stage_pb2.WatchStatusResponse(
            backlog_seconds=batcher.backlog_seconds, running_rows=batcher.running_rows, waiting_requests=batcher.waiting_requests
        )


async def load(settings: Settings) -> Sequence[Registration]:
    """Load the weights in the stage's worker thread and build its services."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="diffusion")
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)

    def read() -> tuple[Transformer, str, AdapterStore, Budget, CostModel, Memory]:
        model = load_transformer(settings.checkpoint, device, dtype)
        adapters = AdapterStore(settings.adapters, model, settings.max_loaded_adapters)
        for name in settings.warm_adapters:
            adapters.load(name)
        budget = measure_budget(partial(forward_seconds, model), settings.step_seconds)
        cost = CostModel(measure_forwards(partial(timed_forward, model), budget.size))
        return model, model_digest(model), adapters, budget, cost, request_memory(device, settings.memory_bytes)

    sampling_defaults = read_sampling_defaults(settings.checkpoint)
    model, digest, adapters, budget, cost, memory = await asyncio.get_running_loop().run_in_executor(worker, read)
    log("weights_loaded", stage="diffusion", device=str(device), dtype=str(dtype), digest=digest, threads=torch.get_num_threads())
    log("budget_measured", stage="diffusion", row_frames=budget.size, step_seconds=round(budget.seconds, 4))
    log("costs_measured", stage="diffusion", coefficients=cost.coefficients)
    batcher = Batcher(Sampler(model), worker, budget, settings.max_requests, cost, memory)
    stage = StageServicer(model, digest, adapters, sampling_defaults, batcher)
    return (
        Registration(
            "acestep_rpc.v1.DiffusionService",
            DiffusionServicer(batcher, model.config, adapters, worker),
            diffusion_pb2_grpc.add_DiffusionServiceServicer_to_server,
        ),
        Registration("acestep_rpc.v1.StageService", stage, stage_pb2_grpc.add_StageServiceServicer_to_server, stage.load.drain),
        adapter_service.registration(adapters, worker),
    )


def choose_device(name: str) -> torch.device:
    """The named device; auto: CUDA where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The named type; auto: bfloat16 on accelerators and on CPUs with AMX, float32 on all others, where bfloat16 is slower."""
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name in named:
        return named[name]
    if name != "auto":
        raise ValueError(f"dtype {name!r} is not one of auto, float32, bfloat16")
    fast_bfloat16 = device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if fast_bfloat16 else torch.float32


def read_request(request: diffusion_pb2.SampleRequest, config: TransformerConfig) -> SamplingRequest:
    """Check a message field by field and take its tensors out.

    Raises:
        InvalidRequest: A field is missing or out of its range.
        ShapeTooLarge: The checkpoint has fewer positions than the request needs.
    """
    if not 1 <= len(request.seeds) <= MAX_VARIANTS:
        raise InvalidRequest("seeds", len(request.seeds), f"1 to {MAX_VARIANTS} seeds")
    if max(request.seeds) >= 2**32:
        raise InvalidRequest("seeds", max(request.seeds), "0 to 4294967295")
    params = _read_params(request.params)
    conditions = _read_conditions(request.conditioning, "conditioning", config, params.guidance.active)
    prompts, target = [conditions], None
    if request.WhichOneof("task") == "edit":
        target = _read_conditions(request.edit.target, "edit.target", config, params.guidance.active)
        prompts.append(target)
    task = read_task(request, params, target)
    tokens = max(
        1 + max(len(states.text), 0 if states.null_text is None else len(states.null_text)) + len(states.lyrics) for states in prompts
    )
    frames = max((stop - start for start, stop in windows_of(task)), default=0)
    if max(frames, tokens) > config.max_position:
        raise ShapeTooLarge(f"{frames} frames and {tokens} tokens; the checkpoint has {config.max_position} positions")
    return SamplingRequest(conditions, params, tuple(request.seeds), task, preview=read_preview(request, task, params))


def read_terms(request: diffusion_pb2.SampleRequest, time_remaining: float | None) -> Terms:
    """The turn of a request, whose call has so many seconds left; None: all the time.

    Raises:
        InvalidRequest: No such class, or a name that is too long.
    """
    if request.priority not in _PRIORITIES:
        raise InvalidRequest("priority", request.priority, ", ".join(music_pb2.Priority.keys()))
    if len(request.tenant) > MAX_TENANT_LENGTH:
        raise InvalidRequest("tenant", f"{len(request.tenant)} characters", f"at most {MAX_TENANT_LENGTH}")
    deadline = math.inf if time_remaining is None else time.monotonic() + time_remaining
    return Terms(_PRIORITIES[request.priority], deadline, request.tenant)


def read_adapters(selections: Sequence[sampling_pb2.AdapterSelection]) -> list[tuple[str, float]]:
    """Names and scales; a scale that is not set is 1.

    Raises:
        InvalidRequest: Too many, a name that cannot be one or comes twice, a scale out of its range.
    """
    if len(selections) > MAX_ADAPTERS:
        raise InvalidRequest("adapters", f"{len(selections)} adapters", f"at most {MAX_ADAPTERS}")
    found: dict[str, float] = {}
    for index, selection in enumerate(selections):
        scale = selection.scale if selection.HasField("scale") else 1.0
        if not NAME.fullmatch(selection.name):
            raise InvalidRequest(f"adapters[{index}].name", selection.name, "1 to 128 letters, digits, '.', '_', '-', the first no sign")
        if selection.name in found:
            raise InvalidRequest(f"adapters[{index}].name", selection.name, "a name once")
        if not -MAX_ADAPTER_SCALE <= scale <= MAX_ADAPTER_SCALE:
            raise InvalidRequest(f"adapters[{index}].scale", scale, f"{-MAX_ADAPTER_SCALE:g} to {MAX_ADAPTER_SCALE:g}")
        found[selection.name] = scale
    return list(found.items())


def _read_params(message: sampling_pb2.SamplingParams) -> SamplingParams:
    for name in (
        "infer_step", "guidance_scale", "omega_scale", "guidance_interval", "guidance_interval_decay", "min_guidance_scale",
        "guidance_scale_text", "guidance_scale_lyric", "use_erg_tag", "use_erg_lyric", "use_erg_diffusion",
    ):  # fmt: skip
        if not message.HasField(name):
            raise InvalidRequest(f"params.{name}", None, "a value: this stage has no defaults")
        value = getattr(message, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidRequest(f"params.{name}", value, "a finite number")
    for name, known in (("scheduler_type", _SCHEDULER_TYPES), ("cfg_type", _CFG_TYPES)):
        if getattr(message, name) not in known:
            raise InvalidRequest(f"params.{name}", getattr(message, name), ", ".join(map(str, known)))
    if not 1 <= message.infer_step <= MAX_STEPS:
        raise InvalidRequest("params.infer_step", message.infer_step, f"1 to {MAX_STEPS}")
    for name in ("guidance_interval", "guidance_interval_decay"):
        if not 0 <= getattr(message, name) <= 1:
            raise InvalidRequest(f"params.{name}", getattr(message, name), "0 to 1")
    steps = tuple(message.oss_steps)
    if steps and (list(steps) != sorted(set(steps)) or not 1 <= steps[0] <= steps[-1] <= MAX_STEPS):
        raise InvalidRequest("params.oss_steps", list(steps), f"ascending, each 1 to {MAX_STEPS}")
    if steps and message.scheduler_type == sampling_pb2.SCHEDULER_TYPE_HEUN:
        raise InvalidRequest("params.oss_steps", list(steps), "none with scheduler_type heun")
    return SamplingParams(
        infer_step=message.infer_step,
        scheduler_type=_SCHEDULER_TYPES[message.scheduler_type],
        omega_scale=message.omega_scale,
        oss_steps=steps,
        guidance=GuidanceParams(
            guidance_scale=message.guidance_scale,
            cfg_type=_CFG_TYPES[message.cfg_type],
            guidance_interval=message.guidance_interval,
            guidance_interval_decay=message.guidance_interval_decay,
            min_guidance_scale=message.min_guidance_scale,
            guidance_scale_text=message.guidance_scale_text,
            guidance_scale_lyric=message.guidance_scale_lyric,
        ),
        use_erg_diffusion=message.use_erg_diffusion,
    )


def _read_conditions(message: encoder_pb2.Conditioning, field: str, config: TransformerConfig, guided: bool) -> ConditionStates:
    text_width, lyric_width = config.text_embedding_dim, config.lyric_hidden_size
    text = unpack(message.text_hidden_states, f"{field}.text_hidden_states", FLOAT_TYPES, (None, text_width))
    lyrics = unpack(message.lyric_hidden_states, f"{field}.lyric_hidden_states", FLOAT_TYPES, (None, lyric_width))
    for name, states, most in (("text", text, MAX_PROMPT_TOKENS), ("lyric", lyrics, MAX_LYRIC_TOKENS)):
        if not 1 <= len(states) <= most:
            raise InvalidRequest(f"{field}.{name}_hidden_states", f"{len(states)} tokens", f"1 to {most}")
    mask = unpack(message.lyric_attention_mask, f"{field}.lyric_attention_mask", (torch.bool,), (len(lyrics),))
    null_text = null_lyrics = null_mask = None
    if message.HasField("null_text_hidden_states"):
        name = f"{field}.null_text_hidden_states"
        null_text = unpack(message.null_text_hidden_states, name, FLOAT_TYPES, (None, text_width))
        if not 1 <= len(null_text) <= MAX_PROMPT_TOKENS:
            raise InvalidRequest(name, f"{len(null_text)} tokens", f"1 to {MAX_PROMPT_TOKENS}")
    if message.HasField("null_lyric_hidden_states"):
        null_lyrics = unpack(message.null_lyric_hidden_states, f"{field}.null_lyric_hidden_states", FLOAT_TYPES, lyrics.shape)
    if message.HasField("null_lyric_attention_mask"):
        null_mask = unpack(message.null_lyric_attention_mask, f"{field}.null_lyric_attention_mask", (torch.bool,), mask.shape)
    if guided and null_lyrics is None:
        raise InvalidRequest(f"{field}.null_lyric_hidden_states", None, "given when guidance is on")
    return ConditionStates(text, lyrics, mask, null_text, null_lyrics, null_mask)
