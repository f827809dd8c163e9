"""The three stages as the pipeline calls them, wherever they run: which call goes where, and what is tried twice."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from acestep_rpc.channels import RemoteStub
from acestep_rpc.client_security import ClientSecurity
from acestep_rpc.errors import StageUnavailable
from acestep_rpc.telemetry import STAGE_RETRIES, log
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
from orchestrator.discovery import discover
from orchestrator.pool import Pool, PooledStub, expecting
from orchestrator.resuming import Kept, sample_to_the_end

T = TypeVar("T")
P = TypeVar("P", vae_pb2.DecodeLatentsResponse, vae_pb2.ReadAudioResponse)


STAGES = ("encoder", "diffusion", "vae")
"""In the order of a request's way."""


class Stages:
    """Calls to the stages. A deadline is a time.monotonic() or None.

    Args:
        encoder: Stub of EncoderService, as all of these a RemoteStub or an InProcessStub.
        diffusion: Stub of DiffusionService.
        vae: Stub of VaeService.
        describers: Stubs of StageService of encoder, diffusion and vae.
        close: Called at the end.
        adapters: Gives the stubs of AdapterService of all replicas of encoder and diffusion, by a deadline.
        lyrics: Stub of LyricsService; None: nobody previews lyrics.
        replicas: How many of a stage take work.
        snapshot_seconds: Device time of a request between two snapshots of its sampling; 0: none are taken.
        max_snapshot_bytes: Of all snapshots that are kept.
        loads: Predicted seconds of work of a stage's replicas, by target.
    """

    def __init__(
        self,
        encoder: Any,
        diffusion: Any,
        vae: Any,
        describers: Sequence[Any],
        close: Callable[[], Awaitable[None]] | None = None,
        adapters: Callable[[float | None], Awaitable[Sequence[Any]]] | None = None,
        lyrics: Any = None,
        replicas: Callable[[str], int] = lambda stage: 1,
        snapshot_seconds: float = 0.0,
        max_snapshot_bytes: int = 0,
        loads: Callable[[str], Mapping[str, float]] = lambda stage: {},
    ) -> None:
        self._encoder = encoder
        self._diffusion = diffusion
        self._vae = vae
        self._describers = describers
        self._close = close
        self._adapters = adapters
        self._lyrics = lyrics
        self._snapshot_seconds = snapshot_seconds
        self._kept = Kept(max_snapshot_bytes)
        self.replicas = replicas
        """How many replicas of a stage take work."""
        self.loads = loads
        """Predicted seconds of work of a stage's replicas, by target; nothing where they are in this process."""

    async def adapters(self, deadline: float | None) -> Sequence[Any]:
        """Stubs of AdapterService, of all replicas that hold adapters."""
        return () if self._adapters is None else await self._adapters(deadline)

    async def describe(self, deadline: float | None) -> list[stage_pb2.DescribeResponse]:
        """What the encoder, the diffusion and the vae stage are."""
        return list(await asyncio.gather(*(self._describe(index, deadline) for index in range(len(STAGES)))))

    async def sampling_defaults(self, deadline: float | None) -> sampling_pb2.SamplingParams:
        """What the diffusion stage's checkpoint is best sampled with; the rest is unset."""
        return (await self._describe(1, deadline)).sampling_defaults

    async def _describe(self, index: int, deadline: float | None) -> stage_pb2.DescribeResponse:
        stub, request = self._describers[index], stage_pb2.DescribeRequest()
        response: stage_pb2.DescribeResponse = await _twice(STAGES[index], lambda: stub.Describe(request, timeout=_timeout(deadline)))
        return response

    async def encode(
        self, request: encoder_pb2.EncodePromptRequest, deadline: float | None, seconds: float = 0.0
    ) -> encoder_pb2.EncodePromptResponse:
        """Encode a prompt, predicted to take so many seconds; tried twice."""

        def call() -> Awaitable[encoder_pb2.EncodePromptResponse]:
            with expecting(seconds):
                task: asyncio.Task[encoder_pb2.EncodePromptResponse] = self._encoder.EncodePrompt(request, timeout=_timeout(deadline))
            return task

        return await _twice("encoder", call)

    async def preview_lyrics(self, request: lyrics_pb2.PreviewRequest, deadline: float | None) -> lyrics_pb2.PreviewResponse:
        """Read lyrics; tried twice."""
        response: lyrics_pb2.PreviewResponse = await _twice("encoder", lambda: self._lyrics.Preview(request, timeout=_timeout(deadline)))
        return response

    async def sample(
        self, request: diffusion_pb2.SampleRequest, deadline: float | None, seconds: float = 0.0
    ) -> AsyncGenerator[diffusion_pb2.SampleResponse, None]:
        """Sample latents, predicted to take so many seconds; another replica goes on where one fails or drains. Close it to cancel."""

        def call(attempt: diffusion_pb2.SampleRequest) -> AsyncGenerator[diffusion_pb2.SampleResponse, None]:
            with expecting(seconds):
                responses: AsyncGenerator[diffusion_pb2.SampleResponse, None] = self._diffusion.Sample(attempt, timeout=_timeout(deadline))
            return responses

        def another_ready() -> bool:
            return self.replicas("diffusion") > 0

        with self._kept.slot() as slot:
            sampling = sample_to_the_end(request, call, slot, self._snapshot_seconds, another_ready)
            async with contextlib.aclosing(sampling) as responses:
                async for response in responses:
                    yield response

    async def decode(
        self, request: vae_pb2.DecodeLatentsRequest, deadline: float | None, seconds: float = 0.0
    ) -> AsyncGenerator[vae_pb2.DecodeLatentsResponse, None]:
        """Decode latents piece by piece; a second try goes on where the first one broke off. Close the iterator to cancel."""

        def call() -> AsyncGenerator[vae_pb2.DecodeLatentsResponse, None]:
            with expecting(seconds):
                responses: AsyncGenerator[vae_pb2.DecodeLatentsResponse, None] = self._vae.DecodeLatents(
                    request, timeout=_timeout(deadline)
                )
            return responses

        async with contextlib.aclosing(_resumed("vae", call)) as pieces:
            async for piece in pieces:
                yield piece

    async def encode_audio(self, data: Callable[[], AsyncIterator[bytes]], deadline: float | None) -> vae_pb2.EncodeAudioResponse:
        """Encode an audio file; tried twice, each time with the bytes of a new data()."""

        async def requests() -> AsyncIterator[vae_pb2.EncodeAudioRequest]:
            async for piece in data():
                yield vae_pb2.EncodeAudioRequest(data=piece)

        response: vae_pb2.EncodeAudioResponse = await _twice("vae", lambda: self._vae.EncodeAudio(requests(), timeout=_timeout(deadline)))
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

        async with contextlib.aclosing(_resumed("vae", call)) as pieces:
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        """Let go of the stages."""
        if self._close is not None:
            await self._close()


def connect_stages(
    encoder: str,
    diffusion: str,
    vae: str,
    ready_seconds: float = 5.0,
    security: ClientSecurity | None = None,
    snapshot_seconds: float = 5.0,
    max_snapshot_bytes: int = 1 << 30,
) -> Stages:
    """Stages behind a network, watched from now on.

    Args:
        encoder: Where its replicas are, as "127.0.0.1:50051" or whatever `discover` reads; so are the others.
        diffusion: As encoder.
        vae: As encoder.
        ready_seconds: How long each try of a call waits where no replica takes work, as while it restarts or is scaled up from nothing.
        security: How to check the stages and what to show them; None: neither.
        snapshot_seconds: Device time of a request between two snapshots of its sampling; 0: none are taken.
        max_snapshot_bytes: Of all snapshots that are kept.
    """
    addresses = {"encoder": encoder, "diffusion": diffusion, "vae": vae}
    again = {stage: asyncio.Event() for stage in STAGES}
    pools = {
        stage: Pool(stage, discover(address, again[stage]), address, ready_seconds, again[stage], security)
        for stage, address in addresses.items()
    }
    for pool in pools.values():
        pool.start()

    async def adapters(deadline: float | None) -> list[RemoteStub]:
        holders = [pools["encoder"], pools["diffusion"]]
        await asyncio.gather(*(pool.wait(deadline) for pool in holders))
        return [replica.stub(adapter_pb2_grpc.AdapterServiceStub) for pool in holders for replica in pool.replicas()]

    async def close() -> None:
        await asyncio.gather(*(pool.close() for pool in pools.values()))

    return Stages(
        encoder=PooledStub(pools["encoder"], encoder_pb2_grpc.EncoderServiceStub),
        diffusion=PooledStub(
            pools["diffusion"], diffusion_pb2_grpc.DiffusionServiceStub, ("Sample",), lambda response: bool(response.snapshot.draining)
        ),
        vae=PooledStub(pools["vae"], vae_pb2_grpc.VaeServiceStub, streams=("DecodeLatents", "ReadAudio")),
        describers=[PooledStub(pool, stage_pb2_grpc.StageServiceStub) for pool in pools.values()],
        close=close,
        adapters=adapters,
        lyrics=PooledStub(pools["encoder"], lyrics_pb2_grpc.LyricsServiceStub),
        replicas=lambda stage: pools[stage].count(),
        snapshot_seconds=snapshot_seconds,
        max_snapshot_bytes=max_snapshot_bytes,
        loads=lambda stage: pools[stage].loads(),
    )


async def _resumed(stage: str, call: Callable[[], AsyncGenerator[P, None]]) -> AsyncGenerator[P, None]:
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
            _retry(stage, error, begun=next_sample > 0)


async def _twice(stage: str, call: Callable[[], Awaitable[T]]) -> T:
    try:
        return await call()
    except StageUnavailable as error:
        _retry(stage, error)
        return await call()


def _retry(stage: str, error: StageUnavailable, begun: bool = False) -> None:
    STAGE_RETRIES.labels(stage, "broken_off" if begun else "unavailable").inc()
    log("stage_retried", stage=stage, reason=str(error))


def _timeout(deadline: float | None) -> float | None:
    return None if deadline is None else deadline - time.monotonic()
