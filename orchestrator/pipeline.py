"""The way of a request: encode, sample, decode, deliver. Written once, for stages in this process and behind a network."""

import asyncio
import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from acestep_rpc.errors import InvalidRequest, StageError
from acestep_rpc.telemetry import REAL_TIME_FACTOR, STAGE_SECONDS, TENANT_AUDIO_SECONDS, log, request_id, tenant, tenant_label
from acestep_rpc.tracing import annotate
from acestep_rpc.v1 import encoder_pb2, music_pb2, tensor_pb2, vae_pb2
from orchestrator.audio import EncodingFailed
from orchestrator.lyric_diff import diff_lyrics
from orchestrator.plan import Plan
from orchestrator.preview_spec import check_window, decoded_window, heard_window
from orchestrator.previews import Previews
from orchestrator.receipt import format_name
from orchestrator.results import Results
from orchestrator.song_file import SongFile
from orchestrator.splice import Splice
from orchestrator.stage_requests import encode_request, encode_target_request, sample_request
from orchestrator.stages import Stages
from orchestrator.tasks import Edit, Repaint, song_seconds, task_warnings

T = TypeVar("T")


async def generate(
    plan: Plan,
    stages: Stages,
    deadline: float | None,
    source: vae_pb2.EncodeAudioResponse | None = None,
    original: npt.NDArray[np.float32] | None = None,
    results: Results | None = None,
    load: Sequence[float] = (0.0, 0.0, 0.0),
) -> AsyncGenerator[music_pb2.GenerateEvent, None]:
    """Make the songs of a plan.

    Closing the iterator, or cancelling the task that waits for it, cancels the stage's call that is under way.

    Args:
        plan: From `plan`.
        stages: Who does the work.
        deadline: A time.monotonic(): each stage gets what the ones before it have left. None: as long as it takes.
        source: Latents of the plan's source, if it has one.
        original: Samples [S, 2] of the source at the songs' rate, for a repaint that keeps them.
        results: Where the songs are kept; None: nowhere.
        load: Predicted seconds of work of the encoder, the diffusion and the vae stage.
    Yields:
        accepted, progress, chunks of previews and songs, completed. A song that cannot be written in the wanted format is wav, and the
        result says so.
    Raises:
        AcestepError: From a stage, or StageError for a result that is no song.
    """
    async with contextlib.AsyncExitStack() as stack:  # what goes on beside it ends with it
        made = _generate(plan, stages, deadline, source, original, results, load, stack)
        async with contextlib.aclosing(made) as events:
            async for event in events:
                yield event


async def _generate(
    plan: Plan,
    stages: Stages,
    deadline: float | None,
    source: vae_pb2.EncodeAudioResponse | None,
    original: npt.NDArray[np.float32] | None,
    results: Results | None,
    load: Sequence[float],
    beside: contextlib.AsyncExitStack,
) -> AsyncGenerator[music_pb2.GenerateEvent, None]:
    duration_seconds = song_seconds(plan.task, source)
    check_window(plan.preview, duration_seconds)
    events = _Events(plan.request_id)
    clock = _Clock()
    yield events.stamp(accepted=music_pb2.Accepted(seeds=plan.seeds, duration_seconds=duration_seconds))
    yield events.progress(music_pb2.STAGE_QUEUED, 0, 1)
    descriptions = await stages.describe(deadline)  # a stage that is away shows now, not after minutes of sampling
    clock.lap("queued")

    yield events.progress(music_pb2.STAGE_ENCODE, 0, 1)
    encoded = await _encode(encode_request(plan), "prompt", stages, deadline, load[0])
    target = None
    lyric_changes: list[music_pb2.LyricChange] = []
    if isinstance(plan.task, Edit):
        target = await _encode(encode_target_request(plan, plan.task), "edit.target", stages, deadline, load[0])
        lyric_changes = await asyncio.to_thread(diff_lyrics, plan.lyrics, plan.task.lyrics)
    preprocess_seconds = clock.lap("encode")
    yield events.progress(music_pb2.STAGE_ENCODE, 1, 1, 0.0)

    previews, window, decode_pace = None, None, load[2] / (len(plan.seeds) * duration_seconds)
    if plan.preview is not None:
        heard = heard_window(plan.preview, plan.task, duration_seconds, int(source.latents.shape[2]) if source else 0)
        window = decoded_window(heard, duration_seconds, descriptions[2].limits["decode_margin_seconds"])
        decode_pace = load[2] / (len(plan.seeds) * (duration_seconds + len(plan.preview.at_steps) * (window[1] - window[0])))
        splice = _splice(plan, source, original)
        previews = Previews(plan, stages, heard, decode_pace * (window[1] - window[0]), deadline, splice.put_back if splice else None)
        await beside.enter_async_context(contextlib.aclosing(previews))

    source_latents, target_conditioning = source.latents if source else None, target.conditioning if target else None
    request = sample_request(plan, encoded.conditioning, source_latents, target_conditioning, window)
    latents: list[tensor_pb2.Tensor] = []
    pace = _Pace()
    with _internal("diffusion"):
        async with contextlib.aclosing(_beside(previews, stages.sample(request, deadline, load[1]))) as responses:
            async for response in responses:
                if isinstance(response, music_pb2.AudioChunk):
                    yield events.stamp(audio_chunk=response)
                    continue
                if response.WhichOneof("event") == "preview":
                    assert previews is not None
                    previews.add(response.preview)
                    continue
                step, total = response.progress.step, response.progress.total_steps
                if response.WhichOneof("event") == "progress":
                    yield events.progress(music_pb2.STAGE_SAMPLE, step, total, pace.seconds_left(step, total))
                else:
                    latents = list(response.result.latents)
    if len(latents) != len(plan.seeds):
        raise StageError(f"the diffusion stage sent latents of {len(latents)} songs for {len(plan.seeds)} seeds")
    diffusion_seconds = clock.lap("sample")

    songs: list[music_pb2.Song] = []
    failures: list[str] = []
    pace = _Pace()
    while len(songs) < len(latents):
        variant_index = len(songs)
        if previews is not None:
            previews.drop(variant_index)
        with contextlib.ExitStack() as stack:
            keeper = stack.enter_context(contextlib.closing(results.open(plan.request_id, variant_index))) if results else None
            splice = _splice(plan, source, original)
            file = SongFile(plan, variant_index, duration_seconds, descriptions, preprocess_seconds, diffusion_seconds, splice, keeper)
            decode_request = vae_pb2.DecodeLatentsRequest(latents=latents[variant_index], sample_rate=plan.sample_rate)
            try:
                with _internal("vae"):
                    decoded = stages.decode(decode_request, deadline, decode_pace * duration_seconds)
                    async with contextlib.aclosing(_beside(previews, decoded)) as pieces:
                        async for piece in pieces:
                            if isinstance(piece, music_pb2.AudioChunk):
                                yield events.stamp(audio_chunk=piece)
                                continue
                            for chunk in await asyncio.to_thread(file.add, piece):
                                yield events.stamp(audio_chunk=chunk)
                            step, total = _decoded_seconds(variant_index, len(latents), file, plan.sample_rate)
                            yield events.progress(music_pb2.STAGE_DECODE, step, total, pace.seconds_left(step, total))
                for chunk in await asyncio.to_thread(file.finish):
                    yield events.stamp(audio_chunk=chunk)
            except EncodingFailed as error:  # no byte has left: decode again, and keep what every build can write
                log("encoding_failed", level=logging.ERROR, audio_format=plan.audio_format, error=str(error))
                failures.append(f"song {variant_index} could not be written as {format_name(plan.audio_format)} ({error})")
                plan = dataclasses.replace(plan, audio_format=music_pb2.AUDIO_FORMAT_WAV_PCM16)
                continue
            song = file.song()
            if keeper is not None:
                await keeper.finish(song, latents[variant_index])
            songs.append(song)
        clock.lap("decode")

    if previews is not None:
        for chunk in await previews.rest():
            yield events.stamp(audio_chunk=chunk)

    audio_seconds = sum(song.duration_seconds for song in songs)
    REAL_TIME_FACTOR.labels("orchestrator").observe(audio_seconds / clock.total())
    if tenant.get():
        TENANT_AUDIO_SECONDS.labels(tenant_label()).inc(audio_seconds)
    annotate(songs=len(songs), audio_seconds=audio_seconds)
    log("generated", songs=len(songs), audio_seconds=audio_seconds, seconds=round(clock.total(), 3))
    lines = (target or encoded).lines
    warnings = _warnings(encoded) if target is None else _warnings(target) + [f"source: {warning}" for warning in _warnings(encoded)]
    warnings += task_warnings(plan.task) + (previews.warnings if previews is not None else [])
    warnings += [f"output.format: {failure}: it and all after it are wav_pcm16" for failure in failures]
    completed = music_pb2.GenerateResult(songs=songs, warnings=warnings, lyric_lines=lines, lyric_changes=lyric_changes)
    yield events.stamp(completed=completed)


async def _beside(previews: Previews | None, items: AsyncGenerator[T, None]) -> AsyncGenerator[T | music_pb2.AudioChunk, None]:
    """What a stage sends, and between it the previews that are done."""
    async with contextlib.aclosing(items if previews is None else previews.beside(items)) as merged:
        async for item in merged:
            yield item


def _splice(plan: Plan, source: vae_pb2.EncodeAudioResponse | None, original: npt.NDArray[np.float32] | None) -> Splice | None:
    if original is None:
        return None
    assert source is not None
    assert isinstance(plan.task, Repaint)
    return Splice(original, plan.task.regions, plan.sample_rate, source.sample_rate)


async def _encode(
    request: encoder_pb2.EncodePromptRequest, prompt: str, stages: Stages, deadline: float | None, seconds: float
) -> encoder_pb2.EncodePromptResponse:
    try:
        return await stages.encode(request, deadline, seconds)
    except InvalidRequest as error:  # the caller's texts: the field names are to be those of the caller's message
        fields = [
            (field if field.startswith("adapters") else f"{prompt}.{field.removeprefix('prompt.')}", text)
            for field, text in error.violations
        ]
        raise InvalidRequest.from_violations(fields) from error


@contextlib.contextmanager
def _internal(stage: str) -> Iterator[None]:
    """What this stage refuses is not the caller's doing."""
    try:
        yield
    except InvalidRequest as error:
        if all(field.startswith("adapters") for field, _ in error.violations):
            raise  # but for a file in the adapter store that only the stage can judge
        log("stage_refused", level=logging.ERROR, stage=stage, error=str(error))
        raise StageError(f"internal error in request {request_id.get()}") from error


def _decoded_seconds(variant_index: int, num_variants: int, file: SongFile, sample_rate: int) -> tuple[int, int]:
    """Seconds of audio done and in all, of all variants; whole ones, for they are the steps of decoding."""
    done, total = variant_index * file.total_samples + file.num_samples, num_variants * file.total_samples
    steps = math.ceil(total / sample_rate)
    return (steps if done == total else done // sample_rate), steps


def _warnings(encoded: encoder_pb2.EncodePromptResponse) -> list[str]:
    warnings = list(encoded.tag_warnings)
    for line in encoded.lines:
        warnings += [f"line {line.line_number}: {warning}" for warning in line.warnings]
        if line.unknown_characters:
            warnings.append(f"line {line.line_number}: the model does not know {' '.join(line.unknown_characters)}")
    return warnings


class _Events:
    """Numbers, names and dates the events of one request."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._sequence = 0

    def stamp(
        self,
        accepted: music_pb2.Accepted | None = None,
        progress: music_pb2.Progress | None = None,
        audio_chunk: music_pb2.AudioChunk | None = None,
        completed: music_pb2.GenerateResult | None = None,
    ) -> music_pb2.GenerateEvent:
        self._sequence += 1
        event = music_pb2.GenerateEvent(
            sequence=self._sequence,
            request_id=self._name,
            accepted=accepted,
            progress=progress,
            audio_chunk=audio_chunk,
            completed=completed,
        )
        event.time.GetCurrentTime()
        return event

    def progress(self, stage: music_pb2.Stage, step: int, total: int, seconds_left: float | None = None) -> music_pb2.GenerateEvent:
        progress = music_pb2.Progress(stage=stage, step=step, total=total)
        if seconds_left is not None:
            progress.eta.FromMilliseconds(round(seconds_left * 1000))
        return self.stamp(progress=progress)


class _Clock:
    """Time of the request's way, lap by lap."""

    def __init__(self) -> None:
        self._start = self._lap = time.monotonic()

    def lap(self, stage: str) -> float:
        """Seconds since the last lap, counted under the stage's name."""
        now = time.monotonic()
        seconds, self._lap = now - self._lap, now
        STAGE_SECONDS.labels(f"orchestrator_{stage}").observe(seconds)
        return seconds

    def total(self) -> float:
        return time.monotonic() - self._start


class _Pace:
    """Predicts the end of a stage from its own pace, without the wait before its first step."""

    def __init__(self) -> None:
        self._since, self._steps = time.monotonic(), 0
        self._seconds_per_step = 0.0

    def seconds_left(self, step: int, total: int) -> float:
        now = time.monotonic()
        if step > self._steps:
            self._seconds_per_step = (now - self._since) / (step - self._steps)
        if self._steps == 0:
            self._since, self._steps = now, step
        return self._seconds_per_step * (total - step)
