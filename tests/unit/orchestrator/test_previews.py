"""Previews beside the sampling, with the tiny stages of test_pipeline: a sampler that sends estimates, and a codec that can be held up."""

import asyncio
import contextlib
import hashlib
import io
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import pytest
import soundfile

from acestep_rpc import errors
from acestep_rpc.telemetry import PREVIEWS
from acestep_rpc.v1 import diffusion_pb2, music_pb2, tensor_pb2, vae_pb2
from orchestrator.pipeline import generate
from orchestrator.preview_spec import Preview, check_window, decoded_frames, decoded_window, heard_window
from orchestrator.tasks import Extend, Repaint, TextToMusic
from tests.unit.orchestrator.test_pipeline import Diffusion, Open, Vae, collect, open_stages, planned, ramp

__all__ = ["open_stages"]  # a fixture
RATE = 48000


class Codec(Vae):
    """Knows previews by the step in their latents; counts them, and holds them until `release` is set."""

    def __init__(self, hold: bool = False, **fields: Any) -> None:
        super().__init__(**fields)
        self.release = asyncio.Event()
        if not hold:
            self.release.set()
        self.asked: list[tuple[int, int]] = []  # seed and step
        self.songs_asked = 0
        self.done = asyncio.Condition()
        self.num_done = 0
        self.cancelled = asyncio.Event()
        self.broken = False

    async def DecodeLatents(self, request: Any, context: Any) -> AsyncIterator[vae_pb2.DecodeLatentsResponse]:
        seed, *step = request.latents.shape
        if step:
            self.asked.append((seed, step[0]))
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            if self.broken:
                raise errors.StageUnavailable("restarting")
        else:
            self.songs_asked += 1
            self.release.set()
        async with contextlib.aclosing(super().DecodeLatents(request, context)) as pieces:
            async for piece in pieces:
                yield piece
        async with self.done:
            self.num_done += bool(step)
            self.done.notify_all()

    async def until(self, num_done: int) -> None:
        async with self.done:
            await self.done.wait_for(lambda: self.num_done >= num_done)


class Estimating(Diffusion):
    """Sends estimates, and after a step waits for as many previews as it is told."""

    def __init__(self, codec: Codec, waits: dict[int, int] | None = None, released_after: int = 0) -> None:
        super().__init__()
        self.codec = codec
        self.waits = waits or {}
        self.released_after = released_after

    async def Sample(self, request: Any, context: Any) -> AsyncIterator[diffusion_pb2.SampleResponse]:
        self.requests.append(request)
        for step in range(1, 5):
            yield diffusion_pb2.SampleResponse(progress=diffusion_pb2.SampleProgress(step=step, total_steps=4))
            if step in request.preview_steps:
                for variant, seed in enumerate(request.seeds):
                    preview = diffusion_pb2.SamplePreview(
                        variant_index=variant,
                        step=step,
                        latents=tensor_pb2.Tensor(shape=[seed, step]),
                        start_seconds=max(request.preview_window.start_seconds - 0.5, 0),
                    )
                    yield diffusion_pb2.SampleResponse(preview=preview)
            if step == self.released_after:
                while not self.codec.asked:
                    await asyncio.sleep(0.01)
                self.codec.release.set()
            await self.codec.until(self.waits.get(step, 0))
        latents = [tensor_pb2.Tensor(shape=[seed]) for seed in request.seeds]
        yield diffusion_pb2.SampleResponse(result=diffusion_pb2.SampleResult(latents=latents))


def output(steps: Sequence[int], window: tuple[float, float] | None = (1.0, 3.0), **fields: Any) -> dict[str, Any]:
    preview: dict[str, Any] = {"at_steps": steps}
    if window is not None:
        preview["window"] = {"start_seconds": window[0], "end_seconds": window[1]}
    return {"preview": preview} | fields


def split(events: Sequence[music_pb2.GenerateEvent]) -> tuple[dict[tuple[int, int], bytes], dict[int, bytes]]:
    """Files of previews, by variant and step in their order, and of songs; each checked for gaps and its end."""
    previews: dict[tuple[int, int], bytes] = {}
    songs: dict[int, bytes] = defaultdict(bytes)
    ended = set()
    for event in events:
        chunk = event.audio_chunk
        if event.WhichOneof("event") != "audio_chunk":
            continue
        key = (chunk.variant_index, chunk.preview_step) if chunk.HasField("preview_step") else (chunk.variant_index,)
        before = previews.get(key, b"") if len(key) == 2 else songs[key[0]]
        assert chunk.offset == len(before)
        assert key not in ended
        if len(key) == 2:
            previews[key] = before + chunk.data
        else:
            songs[key[0]] = before + chunk.data
        if chunk.last:
            ended.add(key)
    assert len(ended) == len(previews) + len(songs)
    return previews, dict(songs)


async def test_previews_of_all_variants_are_files_of_their_own_before_the_song(open_stages: Open) -> None:
    codec = Codec()
    diffusion = Estimating(codec, waits={1: 2, 3: 4})
    events = await collect(await open_stages(diffusion=diffusion, vae=codec), planned(seeds=[4, 8], output=output([3, 1])))
    assert list(diffusion.requests[0].preview_steps) == [1, 3]
    assert diffusion.requests[0].preview_window == diffusion_pb2.PreviewWindow(start_seconds=1, end_seconds=3)
    previews, songs = split(events)
    assert sorted(previews) == [(0, 1), (0, 3), (1, 1), (1, 3)]
    for (variant, _), file in previews.items():
        samples, rate = soundfile.read(io.BytesIO(file), dtype="float32")
        assert (rate, samples.shape) == (RATE, (2 * RATE, 2))
        np.testing.assert_allclose(samples.T, ramp((4, 8)[variant])[:, RATE // 2 :][:, : 2 * RATE], atol=2**-15)
    chunks = [event.audio_chunk for event in events if event.WhichOneof("event") == "audio_chunk"]
    assert all(chunk.HasField("preview_step") for chunk in chunks[:3])  # the fourth was decoded, but maybe not written, when sampling ended
    assert events[-1].HasField("completed")
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    for song in events[-1].completed.songs:
        assert song.sha256 == hashlib.sha256(songs[song.variant_index]).hexdigest()


async def test_songs_are_the_same_with_and_without_previews(open_stages: Open) -> None:
    codec = Codec()
    previewed = await collect(
        await open_stages(diffusion=Estimating(codec, waits={2: 2}), vae=codec), planned(seeds=[4, 8], output=output([2]))
    )
    plain = await collect(await open_stages(), planned(seeds=[4, 8]))
    assert split(previewed)[1] == split(plain)[1]
    assert split(plain)[0] == {}


@pytest.mark.parametrize(
    ("name", "container"), [("FLAC", "FLAC"), ("MP3", "MP3"), ("OGG_VORBIS", "OGG"), ("OGG_OPUS", "OGG"), ("WAV_FLOAT32", "WAV")]
)
async def test_previews_have_the_format_of_the_song(open_stages: Open, name: str, container: str) -> None:
    codec = Codec()
    spec = output([1], format=music_pb2.AudioFormat.Value(f"AUDIO_FORMAT_{name}"))
    previews, _ = split(await collect(await open_stages(diffusion=Estimating(codec, {1: 1}), vae=codec), planned(output=spec)))
    with soundfile.SoundFile(io.BytesIO(previews[0, 1])) as file:
        assert (file.format, file.samplerate, file.frames) == (container, RATE, 2 * RATE)


def outcomes() -> dict[str, float]:
    return {name: PREVIEWS.labels(name)._value.get() for name in ("sent", "replaced", "failed")}


async def test_while_the_codec_is_behind_the_newest_takes_the_place_of_what_has_not_begun(open_stages: Open) -> None:
    codec, before = Codec(hold=True), outcomes()
    diffusion = Estimating(codec, waits={3: 2}, released_after=3)
    previews, _ = split(await collect(await open_stages(diffusion=diffusion, vae=codec), planned(output=output([1, 2, 3]))))
    assert list(previews) == [(0, 1), (0, 3)]
    assert codec.asked == [(4, 1), (4, 3)]
    assert {name: value - before[name] for name, value in outcomes().items()} == {"sent": 2, "replaced": 1, "failed": 0}


async def test_the_song_takes_the_place_of_what_has_not_begun(open_stages: Open) -> None:
    codec = Codec(hold=True)  # until the song is asked for
    events = await collect(await open_stages(diffusion=Estimating(codec), vae=codec), planned(output=output([1, 4])))
    assert set(split(events)[0]) <= {(0, 1)}
    assert codec.asked == [(4, 1)]
    assert events[-1].HasField("completed")


async def test_a_preview_that_fails_is_a_warning_and_no_more(open_stages: Open) -> None:
    codec = Codec(hold=True)
    codec.broken = True
    stages = await open_stages(diffusion=Estimating(codec, released_after=1), vae=codec)
    events = await collect(stages, planned(output=output([1])))
    previews, songs = split(events)
    assert previews == {}
    assert songs == split(await collect(await open_stages(), planned()))[1]
    (warning,) = [warning for warning in events[-1].completed.warnings if warning.startswith("output.preview")]
    assert "variant 0 after step 1" in warning


async def test_an_estimate_that_comes_again_is_heard_once(open_stages: Open) -> None:
    class Repeating(Estimating):
        async def Sample(self, request: Any, context: Any) -> AsyncIterator[diffusion_pb2.SampleResponse]:
            async for response in super().Sample(request, context):
                yield response
                if response.HasField("preview"):
                    await self.codec.until(1)
                    yield response

    codec = Codec()
    previews, _ = split(await collect(await open_stages(diffusion=Repeating(codec, {1: 1}), vae=codec), planned(output=output([1]))))
    assert list(previews) == [(0, 1)]
    assert codec.asked == [(4, 1)]


async def test_closing_in_mid_preview_stops_the_codec(open_stages: Open) -> None:
    codec = Codec(hold=True)
    stages = await open_stages(diffusion=Estimating(codec, waits={2: 1}), vae=codec)
    async with contextlib.aclosing(generate(planned(output=output([1])), stages, None)) as events:
        async for event in events:
            if event.progress.stage == music_pb2.STAGE_SAMPLE and event.progress.step == 2:
                while not codec.asked:
                    await asyncio.sleep(0.01)
                break
    await asyncio.wait_for(codec.cancelled.wait(), 5)
    assert codec.songs_asked == 0


def test_without_a_window_the_first_of_what_is_new_is_heard() -> None:
    preview = Preview((1,), None)
    frame = 4096 / 44100
    assert heard_window(preview, TextToMusic(60), 60, 0) == (0, 10)
    assert heard_window(preview, TextToMusic(4), 4, 0) == (0, 4)
    repaint = Repaint("assets/a", ((20, 24), (7, 9)), 0.5, (1,), True, 0, None)
    assert heard_window(preview, repaint, 30, 300) == (7, 17)
    assert heard_window(preview, Extend("assets/a", 0, 20, (1,)), 100 * frame + 20, 100) == (100 * frame, 100 * frame + 10)
    assert heard_window(preview, Extend("assets/a", 3, 20, (1,)), 100 * frame + 23, 100) == (0, 10)


def test_a_window_is_decoded_with_its_margins_inside_the_song() -> None:
    frame = 4096 / 44100
    assert decoded_window((1, 3), 60, 0.5) == (0.5, 3.5)
    assert decoded_window((0.2, 9.8), 10, 0.5) == (0, 10)
    assert decoded_frames((0, 10 * frame)) == 10
    assert decoded_frames((2.5 * frame, 4.1 * frame)) == 3


def test_a_window_beyond_the_end_of_the_song_is_refused() -> None:
    check_window(Preview((1,), (0, 9)), 9)
    check_window(Preview((1,), None), 1)
    with pytest.raises(errors.InvalidRequest) as refused:
        check_window(Preview((1,), (0, 9.5)), 9)
    assert refused.value.violations[0][0] == "output.preview.window.end_seconds"
