"""Messages to tensors and back. No mathematics.

The worker thread takes one piece of work at a time, in the order in which requests ask: concurrent requests advance in turn, and one that
was cancelled asks no more.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeVar

import diffusers
import grpc.aio
import soundfile
import torch

from acestep_rpc.admission import Backlog, Memory, Pending
from acestep_rpc.errors import InvalidRequest, ShapeTooLarge, StageError
from acestep_rpc.server import Registration
from acestep_rpc.status import LoadStatus
from acestep_rpc.telemetry import COST_ERROR, REAL_TIME_FACTOR, STAGE_SECONDS, log
from acestep_rpc.torch_tensor import pack, unpack
from acestep_rpc.tracing import annotate
from acestep_rpc.v1 import stage_pb2, stage_pb2_grpc, vae_pb2, vae_pb2_grpc
from vae_svc.audio_file import MAX_CHANNELS, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, AudioFile, read_audio
from vae_svc.codec import LATENT_ROWS, SAMPLE_RATE, SAMPLES_PER_LATENT, Codec, num_samples
from vae_svc.costs import CodecCosts, decode_features, encode_features, measure_costs, request_memory
from vae_svc.model.dcae import LATENT_CHANNELS
from vae_svc.model.resample import resample
from vae_svc.model.vocoder_config import VocoderConfig
from vae_svc.settings import Settings
from vae_svc.weights import VOCODER_FOLDER, LoadedCodec, load_codec, read_vocoder_config

DEFAULT_SAMPLE_RATE = 48000
MESSAGE_SAMPLES = 1 << 17
"""Samples per channel of one response: 1 MiB of stereo float32, the size at which gRPC streams fastest."""

BFLOAT16_MIN_CHANNELS = 512
"""Narrower vocoders run in float32 on a CPU; between the two widths that were measured."""

T = TypeVar("T")


class VaeServicer(vae_pb2_grpc.VaeServiceServicer):
    """VaeService on one device.

    Args:
        codec: The stage.
        worker: Its one thread.
        settings: For the limits.
        costs: What requests take.
        backlog: Lets requests in.
        memory: Of the device, for decodes.
    """

    def __init__(
        self, codec: Codec, worker: ThreadPoolExecutor, settings: Settings, costs: CodecCosts, backlog: Backlog, memory: Memory
    ) -> None:
        self._costs = costs
        self._backlog = backlog
        self._memory = memory
        self._codec = codec
        self._worker = worker
        self._settings = settings
        self._one_file = asyncio.Lock()  # a decoded file takes up to a gigabyte: one is in memory at a time

    async def DecodeLatents(
        self, request: vae_pb2.DecodeLatentsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[vae_pb2.DecodeLatentsResponse]:
        """The waveform, each piece as it is done."""
        rate = _checked_rate(request.sample_rate if request.HasField("sample_rate") else DEFAULT_SAMPLE_RATE)
        latents = await self._run(lambda: read_latents(request, self._settings.max_latent_frames))
        total = num_samples(latents.shape[-1], rate)
        frames = latents.shape[-1]
        with self._backlog.admit(self._costs.decode.predict(decode_features(frames)) if total else 0.0) as pending:
            async with (
                self._memory.hold(frames * self._costs.bytes_per_frame),
                contextlib.aclosing(self._decode(latents, rate, total, pending)) as blocks,
            ):
                async for block in blocks:
                    yield block

    async def _decode(
        self, latents: torch.Tensor, rate: int, total: int, pending: Pending
    ) -> AsyncGenerator[vae_pb2.DecodeLatentsResponse, None]:
        pieces, predicted = self._codec.decode(latents, rate), pending.seconds
        start = 0
        waited = worked = 0.0  # seconds of this stage's time, the reader's left out; of the device's
        while start < total:
            begin = time.monotonic()
            piece, seconds = await self._run(lambda: _timed(lambda: _next_piece(pieces)))
            waited, worked = waited + time.monotonic() - begin, worked + seconds
            for block in torch.split(piece, MESSAGE_SAMPLES, dim=-1):
                yield vae_pb2.DecodeLatentsResponse(waveform=pack(block), start_sample=start, total_samples=total, sample_rate=rate)
                start += block.shape[-1]
            pending.seconds = predicted * (1 - start / total)
        if total:
            annotate(audio_seconds=total / rate, device_seconds=worked)
            STAGE_SECONDS.labels("vae_decode").observe(waited)
            REAL_TIME_FACTOR.labels("vae_decode").observe(total / rate / waited)
            COST_ERROR.labels("vae_decode").observe(self._costs.decode.observe(decode_features(latents.shape[-1]), worked))

    async def EncodeAudio(
        self, request_iterator: AsyncIterator[vae_pb2.EncodeAudioRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> vae_pb2.EncodeAudioResponse:
        """The latents of a file that comes in pieces."""
        with tempfile.NamedTemporaryFile(prefix="acestep-") as spool:
            async for request in request_iterator:
                self._spool(request.data, spool)
            with self._backlog.admit(0.0) as pending:
                async with self._one_file:
                    begin = time.monotonic()
                    file = await asyncio.to_thread(self._read, spool)
                    pending.seconds = self._costs.encode_audio.predict(encode_features(file.duration_seconds))
                    latents = await self._encode(file)
        seconds = time.monotonic() - begin
        STAGE_SECONDS.labels("vae_encode").observe(seconds)
        REAL_TIME_FACTOR.labels("vae_encode").observe(file.duration_seconds / seconds)
        return vae_pb2.EncodeAudioResponse(
            latents=pack(latents),
            duration_seconds=file.duration_seconds,
            sample_rate=file.sample_rate,
            channels=file.waveform.shape[0],
        )

    async def ReadAudio(
        self, request_iterator: AsyncIterator[vae_pb2.ReadAudioRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[vae_pb2.ReadAudioResponse]:
        """The waveform of a file that comes in pieces."""
        rate: int | None = None
        with tempfile.NamedTemporaryFile(prefix="acestep-") as spool:
            async for request in request_iterator:
                if rate is None:
                    rate = _checked_rate(request.sample_rate if request.HasField("sample_rate") else DEFAULT_SAMPLE_RATE)
                self._spool(request.data, spool)
            with self._backlog.admit(0.0):  # a rate is changed in no time
                async with self._one_file:
                    file = await asyncio.to_thread(self._read, spool)
                    assert rate is not None, "an empty stream is refused as an empty file"
                    waveform = await self._run(lambda: resample(file.waveform.expand(2, -1), file.sample_rate, rate))
                    total, start = waveform.shape[-1], 0
                    for block in torch.split(waveform, MESSAGE_SAMPLES, dim=-1):
                        yield vae_pb2.ReadAudioResponse(waveform=pack(block), start_sample=start, total_samples=total, sample_rate=rate)
                        start += block.shape[-1]

    def _spool(self, data: bytes, spool: IO[bytes]) -> None:
        spool.write(data)
        if (size := spool.tell()) > self._settings.max_file_bytes:
            raise InvalidRequest("data", f"{size} bytes so far", f"at most {self._settings.max_file_bytes} bytes")

    def _read(self, spool: IO[bytes]) -> AudioFile:
        spool.flush()
        if spool.tell() == 0:
            raise InvalidRequest("data", "0 bytes", "an audio file")
        return read_audio(Path(spool.name), self._settings.max_duration_seconds)

    async def _encode(self, file: AudioFile) -> torch.Tensor:
        work = self._codec.encode_in_pieces(_without_rounding(file), file.sample_rate)
        latents, worked = None, 0.0
        while latents is None:
            latents, seconds = await self._run(lambda: _timed(lambda: _next_step(work)))
            worked += seconds
        COST_ERROR.labels("vae_encode").observe(self._costs.encode_audio.observe(encode_features(file.duration_seconds), worked))
        return latents

    async def _run(self, task: Callable[[], T]) -> T:
        """Run one piece of work in the worker thread.

        Raises:
            ShapeTooLarge: The device has no memory for it.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, task)
        except torch.OutOfMemoryError as error:
            raise ShapeTooLarge(str(error), device=str(self._codec.device)) from error


def read_latents(request: vae_pb2.DecodeLatentsRequest, max_frames: int) -> torch.Tensor:
    """Check the latents and take them out, [8, 16, T] float32.

    Raises:
        InvalidRequest: Type, shape or length is wrong, or a value is not finite.
    """
    shape = list(request.latents.shape)
    if len(shape) == 3 and shape[2] > max_frames:
        raise InvalidRequest("latents.shape", shape, f"at most {max_frames} frames")
    return unpack(request.latents, "latents", (torch.float32, torch.bfloat16), (LATENT_CHANNELS, LATENT_ROWS, None)).float()


def _without_rounding(file: AudioFile) -> torch.Tensor:
    """The waveform [C, S]; of a decoded song without the sample that its rate rounded it up to, which would become a frame of silence."""
    samples = file.waveform.shape[1]
    frames = samples * SAMPLE_RATE // (file.sample_rate * SAMPLES_PER_LATENT)
    if samples != num_samples(frames, file.sample_rate):
        return file.waveform
    return file.waveform[:, : frames * SAMPLES_PER_LATENT * file.sample_rate // SAMPLE_RATE]


def _checked_rate(rate: int) -> int:
    if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise InvalidRequest("sample_rate", rate, f"{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}")
    return rate


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and its seconds in the worker thread."""
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def _next_piece(pieces: Iterator[torch.Tensor]) -> torch.Tensor:
    piece = next(pieces)
    if not bool(torch.isfinite(piece).all()):
        raise StageError("the decoded waveform is not finite")
    return piece


def _next_step(work: Generator[None, None, torch.Tensor]) -> torch.Tensor | None:
    """Do the next piece of an encode; its latents once it is done."""
    try:
        next(work)
    except StopIteration as finished:
        latents: torch.Tensor = finished.value
        if not bool(torch.isfinite(latents).all()):
            raise StageError("the encoded latents are not finite") from None
        return latents.cpu()
    return None


class StageServicer(stage_pb2_grpc.StageServiceServicer):
    """Describes this replica.

    Args:
        codec: The loaded stage.
        digest: SHA-256 of its weights.
        dtype: Compute type.
        settings: For the limits.
    """

    def __init__(self, codec: Codec, digest: str, dtype: torch.dtype, settings: Settings, costs: CodecCosts, backlog: Backlog) -> None:
        self._costs = costs
        self._backlog = backlog
        self.load = LoadStatus(backlog.status)
        """For those who watch it."""
        self._response = stage_pb2.DescribeResponse(
            stage="vae",
            model_digest=digest,
            dtype=str(dtype).removeprefix("torch."),
            device=str(codec.device),
            versions={"torch": torch.__version__, "diffusers": diffusers.__version__, "soundfile": soundfile.__version__},
            limits={
                "max_file_bytes": settings.max_file_bytes,
                "max_duration_seconds": settings.max_duration_seconds,
                "max_channels": MAX_CHANNELS,
                "max_latent_frames": settings.max_latent_frames,
                "decode_margin_seconds": codec.margin_latents * SAMPLES_PER_LATENT / SAMPLE_RATE,
            },
            features={"vocoder": codec.vocoder.class_name},
        )

    async def Describe(self, request: stage_pb2.DescribeRequest, context: grpc.aio.ServicerContext[Any, Any]) -> stage_pb2.DescribeResponse:
        """Constant while the replica lives, but for costs and backlog."""
        response = stage_pb2.DescribeResponse()
        response.CopyFrom(self._response)
        for name in ("decode", "encode_audio"):
            response.costs.add(name=name, coefficients=getattr(self._costs, name).coefficients)
        response.backlog_seconds = self._backlog.seconds
        return response

    async def WatchStatus(
        self, request: stage_pb2.WatchStatusRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[stage_pb2.WatchStatusResponse]:
        """Load, as it changes."""
        async with contextlib.aclosing(self.load.watch()) as statuses:
            async for status in statuses:
                yield status


async def load(settings: Settings) -> Sequence[Registration]:
    """Load the weights in the stage's worker thread and build its services."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = choose_device(settings.device)
    vocoder = read_vocoder_config(settings.checkpoint / VOCODER_FOLDER)
    # a vocoder without convolutions leaves those of the DCAE, which are narrow
    dtype = choose_dtype(settings.dtype, device, vocoder.upsample_initial_channel if isinstance(vocoder, VocoderConfig) else 0)
    worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vae")

    def read() -> tuple[LoadedCodec, CodecCosts, Memory]:
        loaded = load_codec(settings.checkpoint, device, dtype)
        return loaded, measure_costs(loaded.codec), request_memory(device, settings.memory_bytes)

    loaded, costs, memory = await asyncio.get_running_loop().run_in_executor(worker, read)
    backlog = Backlog("vae", settings.max_requests)
    log("weights_loaded", stage="vae", device=str(device), dtype=str(dtype), digest=loaded.model_digest)
    log("costs_measured", stage="vae", coefficients=costs.decode.coefficients)
    stage = StageServicer(loaded.codec, loaded.model_digest, dtype, settings, costs, backlog)
    return (
        Registration(
            "acestep_rpc.v1.VaeService",
            VaeServicer(loaded.codec, worker, settings, costs, backlog, memory),
            vae_pb2_grpc.add_VaeServiceServicer_to_server,
        ),
        Registration("acestep_rpc.v1.StageService", stage, stage_pb2_grpc.add_StageServiceServicer_to_server, stage.load.drain),
    )


def choose_device(name: str) -> torch.device:
    """The named device; auto: CUDA where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def choose_dtype(name: str, device: torch.device, vocoder_channels: int) -> torch.dtype:
    """The named type; auto: bfloat16 where it is faster, float32 elsewhere.

    bfloat16 is faster on accelerators, and on CPUs with AMX for wide convolutions: there it took 0.4 of float32's time with a vocoder of
    1024 channels (the official one), and 5 times as long with one of 128.

    Args:
        name: auto, float32 or bfloat16.
        device: Where the codec runs.
        vocoder_channels: Widest convolution of the vocoder, 0 for one without.
    """
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name in named:
        return named[name]
    if name != "auto":
        raise ValueError(f"dtype {name!r} is not one of auto, float32, bfloat16")
    wide = vocoder_channels >= BFLOAT16_MIN_CHANNELS
    fast_bfloat16 = device.type == "cuda" or (device.type == "cpu" and wide and torch.cpu._is_amx_tile_supported())
    return torch.bfloat16 if fast_bfloat16 else torch.float32
