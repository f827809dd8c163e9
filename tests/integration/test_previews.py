"""Songs heard before they are done, by callers and by watchers of jobs."""

import asyncio
import io

import grpc
import numpy as np
import pytest
import soundfile

from acestep_rpc.v1 import music_pb2
from tests.integration.requests import Answer, generate, song_request
from tests.integration.test_estimates import estimate
from tests.integration.test_failures import violations
from tests.integration.test_jobs import submit, watch

RATE = 48000


def output(steps, start=None, end=None, **fields) -> music_pb2.OutputSpec:
    window = None if end is None else music_pb2.TimeRange(start_seconds=start, end_seconds=end)
    return music_pb2.OutputSpec(preview=music_pb2.PreviewSpec(at_steps=steps, window=window), **fields)


async def metric(server, name: str, **labels: str) -> float:
    return await asyncio.to_thread(server.metric, name, **labels)


async def test_every_variant_is_heard_before_its_song_and_the_song_stays_what_it_is(system, music):
    counts = "acestep_first_preview_seconds_count", "acestep_first_audio_seconds_count"
    before = [await metric(system.front, name) for name in counts]
    fields = {"seconds": 2.0, "steps": 100, "seeds": (7, 8)}
    answer = await generate(music, song_request(**fields, output=output([2, 60], 0.3, 1.8, format=music_pb2.AUDIO_FORMAT_FLAC)))
    assert [await metric(system.front, name) for name in counts] == [count + 1 for count in before]
    previews = answer.previews()
    assert {variant for variant, _ in previews} == {0, 1}
    assert set(previews) <= {(variant, step) for variant in (0, 1) for step in (2, 60)}
    for file in previews.values():
        samples, rate = soundfile.read(io.BytesIO(file))
        assert (rate, samples.shape) == (RATE, (1.5 * RATE, 2))
        assert samples.std() > 0.001
    plain = await generate(music, song_request(**fields, output=music_pb2.OutputSpec(format=music_pb2.AUDIO_FORMAT_FLAC)))
    assert [answer.file(0), answer.file(1)] == [plain.file(0), plain.file(1)]
    assert not plain.previews()


async def test_the_preview_of_a_whole_song_after_its_last_step_has_its_samples(music):
    answer = await generate(music, song_request(seconds=6.0, steps=4, output=output([4])))
    (preview,) = answer.previews().values()
    heard, _ = soundfile.read(io.BytesIO(preview), dtype="int16")
    song, _ = soundfile.read(io.BytesIO(answer.file()), dtype="int16")
    np.testing.assert_array_equal(heard, song)


async def test_the_preview_of_a_repaint_has_what_is_kept_of_the_source(music):
    song = (await generate(music, song_request(seconds=4.0))).file()
    stored = await music.UploadAudio(iter([music_pb2.UploadAudioRequest(data=song)]))
    regions = [music_pb2.TimeRange(start_seconds=1.0, end_seconds=2.0)]
    repaint = music_pb2.Repaint(source=music_pb2.AudioSource(asset=stored.name), regions=regions, retake_variance=1.0)
    answer = await generate(music, song_request(steps=40, repaint=repaint, output=output([3], 0.5, 3.0)))
    heard, _ = soundfile.read(io.BytesIO(answer.previews()[0, 3]), dtype="int16")
    source, _ = soundfile.read(io.BytesIO(song), dtype="int16")
    assert len(heard) == 2.5 * RATE
    half, new = RATE // 2, slice(int(0.5 * RATE), int(1.5 * RATE))
    np.testing.assert_array_equal(heard[: new.start], source[half:RATE])
    np.testing.assert_array_equal(heard[new.stop :], source[2 * RATE : 3 * RATE])
    assert not np.array_equal(heard[new], source[RATE : 2 * RATE])


async def test_hanging_up_in_mid_preview_stops_sampler_and_codec(system, music):
    cancelled = [(system.stage("vae"), "DecodeLatents"), (system.stage("diffusion"), "Sample")]

    async def counts() -> list[float]:
        return [await metric(server, "acestep_requests_total", method=method, code="CANCELLED") for server, method in cancelled]

    before = await counts()
    call = music.Generate(song_request(seconds=240.0, steps=200, output=output([1], 0, 230)))
    async for event in call:
        if event.progress.stage == music_pb2.STAGE_SAMPLE and event.progress.step >= 2:
            break
    call.cancel()
    for _ in range(200):
        if await counts() == [count + 1 for count in before]:
            break
        await asyncio.sleep(0.1)
    assert await counts() == [count + 1 for count in before]


async def test_watchers_of_a_job_hear_previews_while_it_runs(music):
    operation = await submit(music, song_request(seconds=10.0, steps=150, output=output([2], 0, 1.5)))
    live = Answer(await watch(music, operation.name))
    (preview,) = live.previews().values()
    assert soundfile.info(io.BytesIO(preview)).frames == 1.5 * RATE
    assert live.kinds[-1] == "completed"
    kept = await watch(music, operation.name)
    assert kept == [event for event in live.events if not event.audio_chunk.HasField("preview_step")]
    assert live.file() == Answer(kept).file()


async def test_what_previews_cost_is_in_the_quote(music):
    fields = {"seconds": 30.0, "steps": 2}
    plain, previewed = [
        (await estimate(music, song_request(**fields, **more))).device_time.ToMilliseconds()
        for more in ({}, {"output": output([1, 2], 0, 30)})
    ]
    assert previewed > plain


async def test_previews_that_cannot_be_are_refused_by_name(music):
    stored = await music.UploadAudio(iter([music_pb2.UploadAudioRequest(data=(await generate(music, song_request())).file())]))
    extend = music_pb2.Extend(source=music_pb2.AudioSource(asset=stored.name), right_seconds=1.0)
    for fields, field in (
        ({"output": output([5])}, "output.preview.at_steps[0]"),
        ({"output": output([1], 0, 2.5)}, "output.preview.window.end_seconds"),
        ({"output": output([1], 0, 4), "extend": extend}, "output.preview.window.end_seconds"),
    ):
        for call in (generate, submit):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(music, song_request(**fields))
            assert set(violations(refused.value)) == {field}


async def test_the_capabilities_have_the_limits_of_previews(music):
    limits = {limit.field: limit for limit in (await music.GetCapabilities(music_pb2.GetCapabilitiesRequest())).parameters}
    assert (limits["output.preview.at_steps"].minimum, limits["output.preview.at_steps"].maximum) == (1, 200)
    assert limits["output.preview.window.end_seconds"].maximum == 720
