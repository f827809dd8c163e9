"""What goes wrong, is said, and leaves the servers serving."""

import asyncio
import signal
import time

import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from acestep_rpc.channels import connect
from acestep_rpc.v1 import music_pb2, sampling_pb2, vae_pb2, vae_pb2_grpc
from tests.integration.requests import generate, song_request

LONG = {"seconds": 240.0, "steps": 200}


def violations(error: grpc.aio.AioRpcError) -> dict[str, str]:
    (packed,) = rpc_status.from_call(error).details
    bad = error_details_pb2.BadRequest()
    assert packed.Unpack(bad)
    return {violation.field: violation.description for violation in bad.field_violations}


def bad_requests():
    sampling = sampling_pb2.SamplingParams
    yield "nothing to sing", {"prompt": None}, "prompt"
    yield "no time", {"text_to_music": music_pb2.TextToMusic(duration_seconds=0)}, "duration_seconds"
    yield "hours", {"text_to_music": music_pb2.TextToMusic(duration_seconds=10_000)}, "duration_seconds"
    yield "nan guidance", {"sampling": sampling(guidance_scale=float("nan"))}, "sampling.guidance_scale"
    yield "too many tags", {"prompt": music_pb2.Prompt(tags="a, " * 300)}, "prompt.tags"
    yield "too many words", {"prompt": music_pb2.Prompt(tags="pop", lyrics="x " * 5000)}, "prompt.lyrics"
    yield "control characters", {"prompt": music_pb2.Prompt(tags="pop\x00")}, "prompt.tags"
    yield "another language", {"prompt": music_pb2.Prompt(tags="pop", lyrics="hello\n你好，世界")}, "prompt.lyrics"
    yield "steps", {"sampling": sampling(infer_step=201)}, "sampling.infer_step"
    yield "seed", {"seeds": [2**32]}, "seeds"
    yield "opus rate", {"output": music_pb2.OutputSpec(format=music_pb2.AUDIO_FORMAT_OGG_OPUS, sample_rate=44100)}, "output.sample_rate"


@pytest.mark.parametrize(("changes", "field"), [pytest.param(changes, field, id=name) for name, changes, field in bad_requests()])
async def test_a_bad_field_is_named_with_value_and_range(music, changes, field):
    request = song_request()
    for name in changes:
        request.ClearField(name)
    request.MergeFrom(music_pb2.GenerateRequest(**{name: value for name, value in changes.items() if value is not None}))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await generate(music, request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert any(name.endswith(field) or name.startswith(field) for name in violations(refused.value)), violations(refused.value)


async def test_all_bad_fields_are_reported_at_once(music):
    request = song_request(sampling=sampling_pb2.SamplingParams(infer_step=0, guidance_interval=2.0), seeds=[2**33])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await generate(music, request)
    assert len(violations(refused.value)) == 3


async def test_a_line_in_another_script_is_named(music):
    request = song_request()
    request.prompt.lyrics = "[verse]\nhello\n夜の街\n"
    with pytest.raises(grpc.aio.AioRpcError, match="line 3"):
        await generate(music, request)


async def steps_done(system) -> float:
    return await asyncio.to_thread(system.stage("diffusion").metric, "acestep_step_seconds_count")


async def test_cancelling_reaches_the_step_loop(system, music):
    cancelled = {"method": "Sample", "code": "CANCELLED"}
    before = system.stage("diffusion").metric("acestep_requests_total", **cancelled)
    call = music.Generate(song_request(**LONG))
    async for event in call:
        if event.progress.stage == music_pb2.STAGE_SAMPLE:
            break
    call.cancel()
    deadline = time.monotonic() + 30
    while system.stage("diffusion").metric("acestep_requests_total", **cancelled) == before:
        assert time.monotonic() < deadline, "the stage never heard of it"
        await asyncio.sleep(0.1)
    heard = steps = await steps_done(system)
    while True:
        await asyncio.sleep(1.0)
        if steps == (steps := await steps_done(system)):
            break
        assert steps <= heard + 1  # the forward that was under way
    assert (await generate(music, song_request())).file()


async def test_a_deadline_ends_the_work(system, music):
    request = song_request(seconds=60.0, steps=60)
    quote = await music.EstimateGeneration(music_pb2.EstimateGenerationRequest(generation=request))
    seconds = quote.estimated_finish_time.ToMilliseconds() / 1000 - time.time()
    missed = await asyncio.to_thread(system.front.metric, "acestep_deadline_missed_total")
    call = music.Generate(request, timeout=1.2 * seconds + 0.5)  # enough, if nobody came between
    await call.read()
    urgent = music.Generate(song_request(**LONG, priority=music_pb2.PRIORITY_INTERACTIVE))
    await urgent.read()

    async def listen() -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    with pytest.raises(grpc.aio.AioRpcError) as late:
        await listen()
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    urgent.cancel()
    await asyncio.sleep(2.0)
    assert await asyncio.to_thread(system.front.metric, "acestep_deadline_missed_total") == missed + 1
    steps = await steps_done(system)
    await asyncio.sleep(1.0)
    assert await steps_done(system) == steps
    assert (await generate(music, song_request())).file()


async def test_a_killed_stage_fails_its_request_and_its_successor_serves_the_next(remote):
    async with remote.music() as music:
        expected = (await generate(music, song_request())).file()
        diffusion = remote.stage("diffusion")
        call = music.Generate(song_request(**LONG))
        async for event in call:
            if event.progress.stage == music_pb2.STAGE_SAMPLE:
                break
        await asyncio.to_thread(diffusion.stop, signal.SIGKILL)
        with pytest.raises(grpc.aio.AioRpcError) as broken:
            async for _ in call:
                pass
        assert broken.value.code() is grpc.StatusCode.UNAVAILABLE
        for name in ("diffusion", "encoder", "vae"):
            server = remote.stage(name)
            if server.process.poll() is None:
                await asyncio.to_thread(server.stop, signal.SIGKILL)
            await asyncio.to_thread(server.start)
        assert (await generate(music, song_request())).file() == expected


async def test_a_stage_that_is_away_is_said_to_be(remote):
    await asyncio.to_thread(remote.stage("vae").stop, signal.SIGKILL)
    async with remote.music() as music:
        with pytest.raises(grpc.aio.AioRpcError) as away:
            await generate(music, song_request())
        assert away.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_sigterm_lets_a_running_request_end(remote):
    async with remote.music() as music:
        call = music.Generate(song_request(seconds=20.0, steps=30))
        events = []
        async for event in call:
            events.append(event)
            if event.progress.stage == music_pb2.STAGE_SAMPLE:
                break
        remote.front.process.send_signal(signal.SIGTERM)
        events += [event async for event in call]
        assert events[-1].WhichOneof("event") == "completed"
        assert await asyncio.to_thread(remote.front.process.wait, 60) == 0


async def test_hostile_audio_files_are_refused_and_the_codec_serves_on(remote):
    async with connect(remote.stage("vae").target) as channel:
        stub = vae_pb2_grpc.VaeServiceStub(channel)
        for data in (b"", b"\x00" * 5000, b"RIFF\xff\xff\xff\x7fWAVEfmt " + b"\x01" * 400):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.EncodeAudio(iter([vae_pb2.EncodeAudioRequest(data=data)]))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    async with remote.music() as music:
        assert (await generate(music, song_request())).file()
