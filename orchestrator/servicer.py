"""MusicService: what callers see. Methods that are not here answer UNIMPLEMENTED, as the generated base class does."""

import contextlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc.aio
from google.api import httpbody_pb2
from google.longrunning import operations_pb2

import acestep_rpc
from acestep_rpc import telemetry
from acestep_rpc.errors import InvalidRequest, StageUnavailable
from acestep_rpc.v1 import music_pb2, music_pb2_grpc, sampling_pb2
from orchestrator import plan
from orchestrator.admission import accompany, finish_time
from orchestrator.audio import audio_type
from orchestrator.jobs.job import entry, job_id, to_operation
from orchestrator.jobs.service import Jobs
from orchestrator.limits import LIMITS
from orchestrator.pipeline import generate
from orchestrator.stages import Stages
from orchestrator.tasks import song_seconds


class MusicServicer(music_pb2_grpc.MusicServiceServicer):
    """The public API.

    Args:
        stages: Who does the work.
        jobs: What outlives a call.
    """

    def __init__(self, stages: Stages, jobs: Jobs) -> None:
        self._stages = stages
        self._jobs = jobs
        self._sources = jobs.sources
        self._seed_source = random.SystemRandom()

    async def Generate(
        self, request: music_pb2.GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[music_pb2.GenerateEvent, None]:
        """Plan, then run the pipeline for as long as the caller listens."""
        deadline = _deadline(context)
        descriptions = await self._jobs.admission.facts.get(deadline)
        request = self._jobs.quotas.with_priority(request)
        planned = plan.plan(request, self._seed_source, telemetry.request_id.get(), descriptions[1].sampling_defaults)
        telemetry.request_id.set(planned.request_id)  # from here on, in this call's task and in the stages
        frames = await self._sources.num_frames(planned.task, descriptions[2].model_digest)
        with self._jobs.admission.admit(planned, frames, descriptions, deadline) as admitted:
            source, original = await self._sources.of_task(planned.task, planned.sample_rate, deadline)
            results = self._sources.results if planned.keep_results else None
            if results is not None:
                await self._jobs.claim(planned.request_id)
            history = []
            made = accompany(generate(planned, self._stages, deadline, source, original, results, admitted.load), admitted, deadline)
            audio_seconds = song_seconds(planned.task, source) * len(planned.seeds)
            async with self._jobs.quotas.request(audio_seconds), contextlib.aclosing(made) as events:
                async for event in events:
                    kind = event.WhichOneof("event")
                    if results is not None and kind != "progress":
                        history.append(entry(event))
                    if results is not None and kind == "completed":
                        await self._jobs.add_finished(request, planned, history)
                    yield event

    async def EstimateGeneration(
        self, request: music_pb2.EstimateGenerationRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> music_pb2.EstimateGenerationResponse:
        """Price a request from what is known; nothing is run."""
        descriptions = await self._jobs.admission.facts.get(_deadline(context))
        generation = self._jobs.quotas.with_priority(request.generation)
        planned = plan.plan(generation, self._seed_source, telemetry.request_id.get(), descriptions[1].sampling_defaults)
        frames = await self._sources.num_frames(planned.task, descriptions[2].model_digest)
        estimate = self._jobs.admission.estimate(planned, frames, descriptions)
        if estimate is None:
            raise StageUnavailable("a stage does not say what its work costs")
        response = music_pb2.EstimateGenerationResponse(estimated_finish_time=finish_time(estimate.seconds))
        response.device_time.FromMilliseconds(round(estimate.prediction.device_seconds * 1000))
        response.queue_time.FromMilliseconds(round(estimate.queue_seconds * 1000))
        return response

    async def SubmitGeneration(
        self, request: music_pb2.SubmitGenerationRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> operations_pb2.Operation:
        """Plan, and leave the work to whoever takes the job."""
        return to_operation(await self._jobs.submit(request, _deadline(context)))

    async def WatchGeneration(
        self, request: music_pb2.WatchGenerationRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[music_pb2.WatchGenerationResponse, None]:
        """What happened to a job, and what happens."""
        first = request.from_sequence if request.HasField("from_sequence") else 1
        if first < 1:
            raise InvalidRequest("from_sequence", first, "at least 1")
        async with contextlib.aclosing(self._jobs.watch(job_id(request.name), first, request.skip_audio)) as events:
            async for event in events:
                yield music_pb2.WatchGenerationResponse(event=event)

    async def UploadAudio(
        self, request_iterator: AsyncIterator[music_pb2.UploadAudioRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> music_pb2.UploadAudioResponse:
        """Check and store an audio file."""
        return await self._sources.upload(request_iterator, _deadline(context))

    async def DownloadAudio(
        self, request: music_pb2.DownloadAudioRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[music_pb2.DownloadAudioResponse, None]:
        """Bytes of an upload or a kept song."""
        async with contextlib.aclosing(self._sources.download(request.name, request.offset)) as responses:
            async for response in responses:
                yield response

    async def UploadFile(
        self, request_iterator: AsyncIterator[music_pb2.UploadFileRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> music_pb2.UploadFileResponse:
        """UploadAudio, in the messages that HTTP bodies become."""
        pieces = (music_pb2.UploadAudioRequest(data=request.file.data, sha256=request.sha256) async for request in request_iterator)
        return music_pb2.UploadFileResponse(audio=await self._sources.upload(pieces, _deadline(context)))

    async def DownloadFile(
        self, request: music_pb2.DownloadFileRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[httpbody_pb2.HttpBody, None]:
        """DownloadAudio, in the messages that become an HTTP body."""
        content_type = "application/octet-stream"
        async with contextlib.aclosing(self._sources.download(request.name, request.offset)) as responses:
            async for response in responses:
                if response.offset == 0:
                    content_type = audio_type(response.data)
                yield httpbody_pb2.HttpBody(content_type=content_type, data=response.data)

    async def GetCapabilities(
        self, request: music_pb2.GetCapabilitiesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> music_pb2.GetCapabilitiesResponse:
        """What plan accepts and what the stages say of themselves."""
        descriptions = await self._stages.describe(_deadline(context))
        encoder, diffusion, _ = descriptions
        sampling = plan.sampling_with_defaults(diffusion.sampling_defaults)
        return music_pb2.GetCapabilitiesResponse(
            parameters=[
                music_pb2.ParameterLimit(
                    field=field, minimum=limit.minimum, maximum=limit.maximum, default_value=_default(field, limit.default, sampling)
                )
                for field, limit in LIMITS.items()
            ],
            sampling_defaults=sampling,
            tasks=_names(diffusion.features["tasks"]),
            schedulers=plan.SCHEDULER_TYPES,
            cfg_types=plan.CFG_TYPES,
            formats=plan.FORMATS,
            lyric_languages=_names(encoder.features["lyric_languages"]),
            transliterated_lyric_languages=_names(encoder.features["transliterated_lyric_languages"]),
            lyric_rules=encoder.features["lyric_rules"],
            adapters=_names(diffusion.features["adapters"]),
            structure_tags=_names(encoder.features["structure_tags"]),
            max_prompt_tokens=int(encoder.limits["max_prompt_tokens"]),
            max_lyric_tokens=int(encoder.limits["max_lyric_tokens"]),
            stages=[
                music_pb2.StageInfo(
                    stage=description.stage,
                    model_digest=description.model_digest,
                    dtype=description.dtype,
                    device=description.device,
                    versions=dict(description.versions),
                    vocoder=description.features.get("vocoder", ""),
                )
                for description in descriptions
            ],
            version=acestep_rpc.__version__,
        )


def _deadline(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    remaining: float | None = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def _default(field: str, default: float | None, sampling: sampling_pb2.SamplingParams) -> float | None:
    """Of a parameter: the checkpoint's where it has one."""
    message, _, name = field.partition(".")
    return getattr(sampling, name) if message == "sampling" and default is not None else default


def _names(joined: str) -> list[str]:
    return [name for name in joined.split(",") if name]
