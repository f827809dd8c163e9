"""The three stages as the pipeline calls them, wherever they run: which call goes where, and what is tried twice."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc.aio

from acestep_rpc.channels import RemoteStub, connect
from acestep_rpc.client_security import ClientSecurity
from acestep_rpc.errors import StageUnavailable
from acestep_rpc.telemetry import log
from acestep_rpc.v1 import (
    adapter_pb2_grpc,
    diffusion_pb2,
    diffusion_pb2_grpc,
    encoder_pb2,
    encoder_pb2_grpc,
    lyrics_pb2,
    lyrics_pb2_grpc,
    sampling_pb2,
    stage_pb2,
    stage_pb2_grpc,
    vae_pb2,
    vae_pb2_grpc,
)

T = TypeVar("T")
P = TypeVar("P", vae_pb2.DecodeLatentsResponse, vae_pb2.ReadAudioResponse)


class Stages:
    """Calls to the stages. A deadline is a time.monotonic() or None.

    Args:
        encoder: Stub of EncoderService, as all of these a RemoteStub or an InProcessStub.
        diffusion: Stub of DiffusionService.
        vae: Stub of VaeService.
        describers: Stubs of StageService of encoder, diffusion and vae.
        close: Called at the end.
        adapters: Stubs of AdapterService of encoder and diffusion.
        lyrics: Stub of LyricsService; None: nobody previews lyrics.
    """

    def __init__(
        self,
        encoder: Any,
        diffusion: Any,
        vae: Any,
        describers: Sequence[Any],
        close: Callable[[], Awaitable[None]] | None = None,
        adapters: Sequence[Any] = (),
        lyrics: Any = None,
    ) -> None:
        self._encoder = encoder
        self._diffusion = diffusion
        self._vae = vae
        self._describers = describers
        self._close = close
        self.adapters = adapters
        """Stubs of AdapterService, of the stages that hold adapters."""
        self._lyrics = lyrics

    async def describe(self, deadline: float | None) -> list[stage_pb2.DescribeResponse]:
        """What the encoder, the diffusion and the vae stage are."""
        return list(await asyncio.gather(*(self._describe(stub, deadline) for stub in self._describers)))

    async def sampling_defaults(self, deadline: float | None) -> sampling_pb2.SamplingParams:
        """What the diffusion stage's checkpoint is best sampled with; the rest is unset."""
        return (await self._describe(self._describers[1], deadline)).sampling_defaults

    async def _describe(self, stub: Any, deadline: float | None) -> stage_pb2.DescribeResponse:
        response: stage_pb2.DescribeResponse = await _twice(lambda: stub.Describe(stage_pb2.DescribeRequest(), timeout=_timeout(deadline)))
        return response

    async def encode(self, request: encoder_pb2.EncodePromptRequest, deadline: float | None) -> encoder_pb2.EncodePromptResponse:
        """Encode a prompt; tried twice."""
        response: encoder_pb2.EncodePromptResponse = await _twice(lambda: self._encoder.EncodePrompt(request, timeout=_timeout(deadline)))
        return response

    async def preview_lyrics(self, request: lyrics_pb2.PreviewRequest, deadline: float | None) -> lyrics_pb2.PreviewResponse:
        """Read lyrics; tried twice."""
        response: lyrics_pb2.PreviewResponse = await _twice(lambda: self._lyrics.Preview(request, timeout=_timeout(deadline)))
        return response

    def sample(self, request: diffusion_pb2.SampleRequest, deadline: float | None) -> AsyncGenerator[diffusion_pb2.SampleResponse, None]:
        """Sample latents; tried once, for it is most of the work. Close the iterator to cancel."""
        responses: AsyncGenerator[diffusion_pb2.SampleResponse, None] = self._diffusion.Sample(request, timeout=_timeout(deadline))
        return responses

    async def decode(
        self, request: vae_pb2.DecodeLatentsRequest, deadline: float | None
    ) -> AsyncGenerator[vae_pb2.DecodeLatentsResponse, None]:
        """Decode latents piece by piece; a second try goes on where the first one broke off. Close the iterator to cancel."""

        def call() -> AsyncGenerator[vae_pb2.DecodeLatentsResponse, None]:
            responses: AsyncGenerator[vae_pb2.DecodeLatentsResponse, None] = self._vae.DecodeLatents(request, timeout=_timeout(deadline))
            return responses

        async with contextlib.aclosing(_resumed(call)) as pieces:
            async for piece in pieces:
                yield piece

    async def encode_audio(self, data: Callable[[], AsyncIterator[bytes]], deadline: float | None) -> vae_pb2.EncodeAudioResponse:
        """Encode an audio file; tried twice, each time with the bytes of a new data()."""

        async def requests() -> AsyncIterator[vae_pb2.EncodeAudioRequest]:
            async for piece in data():
                yield vae_pb2.EncodeAudioRequest(data=piece)

        response: vae_pb2.EncodeAudioResponse = await _twice(lambda: self._vae.EncodeAudio(requests(), timeout=_timeout(deadline)))
        return response

    async def read_audio(
        self, data: Callable[[], AsyncIterator[bytes]], sample_rate: int, deadline: float | None
    ) -> AsyncGenerator[vae_pb2.ReadAudioResponse, None]:
        """The waveform of an audio file, piece by piece; a second try goes on where the first one broke off, as `decode` does."""

        async def requests() -> AsyncIterator[vae_pb2.ReadAudioRequest]:
            async for piece in data():
                yield vae_pb2.ReadAudioRequest(data=piece, sample_rate=sample_rate)

        def call() -> AsyncGenerator[vae_pb2.ReadAudioResponse, None]:
            responses: AsyncGenerator[vae_pb2.ReadAudioResponse, None] = self._vae.ReadAudio(requests(), timeout=_timeout(deadline))
            return responses

        async with contextlib.aclosing(_resumed(call)) as pieces:
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        """Let go of the stages."""
        if self._close is not None:
            await self._close()


def connect_stages(encoder: str, diffusion: str, vae: str, ready_seconds: float = 5.0, security: ClientSecurity | None = None) -> Stages:
    """Stages behind a network.

    Args:
        encoder: Target, as "127.0.0.1:50051"; so are the others.
        diffusion: Target.
        vae: Target.
        ready_seconds: How long each try of a call waits for a stage that is away, as while it restarts.
        security: How to check the stages and what to show them; None: neither.
    """
    channels = {target: connect(target, security) for target in (encoder, diffusion, vae)}

    def stub(stub_class: Callable[[grpc.aio.Channel], Any], target: str) -> RemoteStub:
        return RemoteStub(stub_class, channels[target], target, ready_seconds)

    async def close() -> None:
        for channel in channels.values():
            await channel.close()

    return Stages(
        encoder=stub(encoder_pb2_grpc.EncoderServiceStub, encoder),
        diffusion=stub(diffusion_pb2_grpc.DiffusionServiceStub, diffusion),
        vae=stub(vae_pb2_grpc.VaeServiceStub, vae),
        describers=[stub(stage_pb2_grpc.StageServiceStub, target) for target in (encoder, diffusion, vae)],
        close=close,
        adapters=[stub(adapter_pb2_grpc.AdapterServiceStub, target) for target in (encoder, diffusion)],
        lyrics=stub(lyrics_pb2_grpc.LyricsServiceStub, encoder),
    )


async def _resumed(call: Callable[[], AsyncGenerator[P, None]]) -> AsyncGenerator[P, None]:
    """Pieces of a waveform; a second try leaves out what the first one gave."""
    next_sample = 0
    for attempt in (1, 2):
        try:
            async with contextlib.aclosing(call()) as pieces:
                async for piece in pieces:
                    if piece.start_sample < next_sample:
                        continue
                    next_sample = piece.start_sample + piece.waveform.shape[-1]
                    yield piece
                return
        except StageUnavailable as error:
            if attempt == 2:
                raise
            log("stage_retried", reason=str(error))


async def _twice(call: Callable[[], Awaitable[T]]) -> T:
    try:
        return await call()
    except StageUnavailable as error:
        log("stage_retried", reason=str(error))
        return await call()


def _timeout(deadline: float | None) -> float | None:
    return None if deadline is None else deadline - time.monotonic()
