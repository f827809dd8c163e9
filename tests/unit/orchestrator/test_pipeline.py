"""The pipeline's own duties, driven by three tiny stages whose song is a ramp. Songs of real stages are the integration tests' business."""

import asyncio
import contextlib
import hashlib
import io
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
import soundfile

from acestep_rpc import errors
from acestep_rpc.inprocess import InProcessStub
from acestep_rpc.receipt import to_dict
from acestep_rpc.server import Registration, serve
from acestep_rpc.settings import ServerSettings
from acestep_rpc.status import LoadStatus
from acestep_rpc.telemetry import request_id
from acestep_rpc.v1 import (
    diffusion_pb2,
    diffusion_pb2_grpc,
    encoder_pb2,
    encoder_pb2_grpc,
    music_pb2,
    stage_pb2,
    stage_pb2_grpc,
    tensor_pb2,
    vae_pb2,
    vae_pb2_grpc,
)
from orchestrator import audio
from orchestrator.pipeline import generate
from orchestrator.plan import Plan, plan
from orchestrator.stages import Stages, connect_stages

SAMPLES = 300_000  # a ramp of 6.25 s
PIECE = 100_000


class Describing(stage_pb2_grpc.StageServiceServicer):
    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.load = LoadStatus(stage_pb2.WatchStatusResponse)

    async def Describe(self, request: Any, context: Any) -> stage_pb2.DescribeResponse:
        return stage_pb2.DescribeResponse(stage=self.stage, model_digest=f"digest of {self.stage}", dtype="float32", device="cpu")

    async def WatchStatus(self, request: Any, context: Any) -> AsyncIterator[stage_pb2.WatchStatusResponse]:
        async with contextlib.aclosing(self.load.watch()) as statuses:
            async for status in statuses:
                yield status


class Encoder(encoder_pb2_grpc.EncoderServiceServicer):
    """Answers with the tags' length as states; raises what it was made with."""

    def __init__(self, failures: Sequence[Exception] = ()) -> None:
        self.failures = list(failures)
        self.requests: list[encoder_pb2.EncodePromptRequest] = []
        self.request_ids: list[str] = []

    async def EncodePrompt(self, request: Any, context: Any) -> encoder_pb2.EncodePromptResponse:
        self.requests.append(request)
        self.request_ids.append(request_id.get())
        if self.failures:
            raise self.failures.pop(0)
        states = tensor_pb2.Tensor(shape=[len(request.tags), 1])
        lines = [encoder_pb2.LyricLine(line_number=2, unknown_characters=["ß"], warnings=["[vers] is not [verse]"])]
        return encoder_pb2.EncodePromptResponse(conditioning=encoder_pb2.Conditioning(text_hidden_states=states), lines=lines)


class Diffusion(diffusion_pb2_grpc.DiffusionServiceServicer):
    """Takes four steps; the latents of a seed hold the seed."""

    def __init__(self, seconds_per_step: float = 0.0, failure: Exception | None = None, num_latents: int | None = None) -> None:
        self.seconds_per_step = seconds_per_step
        self.failure = failure
        self.num_latents = num_latents
        self.requests: list[diffusion_pb2.SampleRequest] = []
        self.steps = 0
        self.cancelled = asyncio.Event()

    async def Sample(self, request: Any, context: Any) -> AsyncIterator[diffusion_pb2.SampleResponse]:
        self.requests.append(request)
        try:
            for step in range(1, 5):
                await asyncio.sleep(self.seconds_per_step)
                self.steps = step
                yield diffusion_pb2.SampleResponse(progress=diffusion_pb2.SampleProgress(step=step, total_steps=4))
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.failure is not None:
            raise self.failure
        latents = [tensor_pb2.Tensor(shape=[seed]) for seed in request.seeds]
        yield diffusion_pb2.SampleResponse(result=diffusion_pb2.SampleResult(latents=latents[: self.num_latents]))


class Vae(vae_pb2_grpc.VaeServiceServicer):
    """Decodes the latents of seed n to a ramp times n / 8 on the left; breaks off as often as it is told, after its first piece."""

    def __init__(self, failures: Sequence[Exception] = (), bad_value: float | None = None, drop: int | None = None) -> None:
        self.failures = list(failures)
        self.bad_value = bad_value
        self.drop = drop
        self.calls = 0

    async def DecodeLatents(self, request: Any, context: Any) -> AsyncIterator[vae_pb2.DecodeLatentsResponse]:
        self.calls += 1
        song = ramp(request.latents.shape[0])
        if self.bad_value is not None:
            song[1, PIECE + 5] = self.bad_value
        for start in range(0, SAMPLES, PIECE):
            if start == self.drop:
                continue
            if start and self.failures:
                raise self.failures.pop(0)
            waveform = tensor_pb2.Tensor(
                data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=[2, PIECE], data=song[:, start : start + PIECE].tobytes()
            )
            yield vae_pb2.DecodeLatentsResponse(
                waveform=waveform, start_sample=start, total_samples=SAMPLES, sample_rate=request.sample_rate
            )


def ramp(seed: int) -> Any:
    line = np.linspace(-1, 1, SAMPLES, dtype=np.float32)
    return np.stack([line * seed / 8, -line])


Open = Callable[..., Awaitable[Stages]]


@pytest.fixture(params=["embedded", "remote"])
async def open_stages(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    async with contextlib.AsyncExitStack() as stack:

        async def embedded(encoder: Any = None, diffusion: Any = None, vae: Any = None) -> Stages:
            return Stages(
                encoder=InProcessStub(encoder or Encoder()),
                diffusion=InProcessStub(diffusion or Diffusion()),
                vae=InProcessStub(vae or Vae()),
                describers=[InProcessStub(Describing(stage)) for stage in ("encoder", "diffusion", "vae")],
            )

        async def start(stage: str, full_name: str, servicer: Any, add: Any) -> str:
            async def build() -> Sequence[Registration]:
                one = Describing(stage)
                add_stage = stage_pb2_grpc.add_StageServiceServicer_to_server
                describing = Registration("acestep_rpc.v1.StageService", one, add_stage, one.load.drain)
                return [Registration(full_name, servicer, add), describing]

            server = await serve(ServerSettings(), build)
            stack.push_async_callback(server.stop)
            return f"127.0.0.1:{server.port}"

        async def remote(encoder: Any = None, diffusion: Any = None, vae: Any = None) -> Stages:
            v1 = "acestep_rpc.v1."
            stages = connect_stages(
                encoder=await start(
                    "encoder", v1 + "EncoderService", encoder or Encoder(), encoder_pb2_grpc.add_EncoderServiceServicer_to_server
                ),
                diffusion=await start(
                    "diffusion",
                    v1 + "DiffusionService",
                    diffusion or Diffusion(),
                    diffusion_pb2_grpc.add_DiffusionServiceServicer_to_server,
                ),
                vae=await start("vae", v1 + "VaeService", vae or Vae(), vae_pb2_grpc.add_VaeServiceServicer_to_server),
            )
            stack.push_async_callback(stages.close)
            return stages

        yield embedded if request.param == "embedded" else remote


def planned(**fields: Any) -> Plan:
    request = music_pb2.GenerateRequest(
        **({"prompt": {"tags": "funk", "lyrics": "[verse]\nla"}, "seeds": [4], "text_to_music": {"duration_seconds": 6.25}} | fields)
    )
    return plan(request, random.Random(0), "song-1")


async def collect(stages: Stages, the_plan: Plan) -> list[music_pb2.GenerateEvent]:
    return [event async for event in generate(the_plan, stages, None)]


def files_of(events: Sequence[music_pb2.GenerateEvent]) -> dict[int, bytes]:
    files: dict[int, bytes] = {}
    for event in events:
        if event.WhichOneof("event") == "audio_chunk":
            chunk = event.audio_chunk
            file = files.get(chunk.variant_index, b"")
            assert chunk.offset == len(file)
            assert 0 < len(chunk.data) <= 1024 * 1024
            files[chunk.variant_index] = file + chunk.data
    return files


async def test_the_events_tell_the_whole_way_in_order(open_stages: Open) -> None:
    events = await collect(await open_stages(), planned())
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert {event.request_id for event in events} == {"song-1"}
    assert all(event.HasField("time") for event in events)
    assert events[0].accepted == music_pb2.Accepted(seeds=[4], duration_seconds=6.25)
    progress = [(event.progress.stage, event.progress.step, event.progress.total) for event in events if event.HasField("progress")]
    assert progress == [
        (music_pb2.STAGE_QUEUED, 0, 1),
        (music_pb2.STAGE_ENCODE, 0, 1),
        (music_pb2.STAGE_ENCODE, 1, 1),
        *[(music_pb2.STAGE_SAMPLE, step, 4) for step in (1, 2, 3, 4)],
        *[(music_pb2.STAGE_DECODE, step, 7) for step in (2, 4, 7)],
    ]
    assert [event.WhichOneof("event") for event in events][-2:] == ["audio_chunk", "completed"]


async def test_each_variant_is_a_file_with_its_song(open_stages: Open) -> None:
    diffusion = Diffusion()
    events = await collect(await open_stages(diffusion=diffusion), planned(seeds=[4, 8]))
    assert len(diffusion.requests) == 1, "all variants are sampled in one request"
    files = files_of(events)
    songs = events[-1].completed.songs
    assert sorted(files) == [0, 1] == [song.variant_index for song in songs]
    for song, seed in zip(songs, (4, 8), strict=True):
        samples, rate = soundfile.read(io.BytesIO(files[song.variant_index]), dtype="float32")
        np.testing.assert_allclose(samples.T, ramp(seed), atol=2**-15)
        assert (song.seed, song.sample_rate, rate, song.channels, song.duration_seconds) == (seed, 48000, 48000, 2, 6.25)
        assert song.size_bytes == len(files[song.variant_index])
        assert song.sha256 == hashlib.sha256(files[song.variant_index]).hexdigest()
    last = [event.audio_chunk.variant_index for event in events if event.audio_chunk.last]
    assert last == [0, 1]


async def test_audio_flows_before_the_song_is_decoded(open_stages: Open) -> None:
    kinds = [event.WhichOneof("event") for event in await collect(await open_stages(), planned())]
    assert kinds.index("audio_chunk") < len(kinds) - 4


async def test_a_compressed_file_comes_at_the_end_in_chunks(open_stages: Open) -> None:
    events = await collect(await open_stages(), planned(output={"format": music_pb2.AUDIO_FORMAT_FLAC}))
    samples, _ = soundfile.read(io.BytesIO(files_of(events)[0]), dtype="float32")
    np.testing.assert_allclose(samples.T, ramp(4), atol=2**-23)


async def test_the_receipt_holds_what_is_needed_to_make_the_song_again(open_stages: Open) -> None:
    fields = {"seeds": [4, 9], "sampling": {"oss_steps": [2, 5], "omega_scale": 0}, "output": {"sample_rate": 44100}}
    completed = (await collect(await open_stages(), planned(**fields)))[-1].completed
    receipt = to_dict(completed.songs[1].receipt)
    assert (
        receipt
        | {
            "prompt": "funk",
            "lyrics": "[verse]\nla",
            "task": "text2music",
            "format": "wav",
            "audio_format": "wav_pcm16",
            "audio_duration": 6.25,
            "duration_seconds": SAMPLES / 44100,
            "sample_rate": 44100,
            "request_id": "song-1",
            "seed": 9,
            "variant_index": 1,
            "actual_seeds": [9],
            "infer_step": 60,
            "guidance_scale": 15,
            "scheduler_type": "euler",
            "cfg_type": "apg",
            "omega_scale": 0,
            "guidance_interval": 0.5,
            "guidance_interval_decay": 0,
            "min_guidance_scale": 3,
            "guidance_scale_text": 0,
            "guidance_scale_lyric": 0,
            "use_erg_tag": True,
            "use_erg_lyric": True,
            "use_erg_diffusion": True,
            "oss_steps": [2, 5],
            "lora_name_or_path": "none",
            "lora_weight": 1,
        }
        == receipt
    )
    assert set(receipt["timecosts"]) == {"preprocess", "diffusion", "latent2audio"}
    assert {stage: facts["model_digest"] for stage, facts in receipt["stages"].items()} == {
        "encoder": "digest of encoder",
        "diffusion": "digest of diffusion",
        "vae": "digest of vae",
    }


async def test_what_the_encoder_says_of_the_lyrics_reaches_the_caller(open_stages: Open) -> None:
    completed = (await collect(await open_stages(), planned()))[-1].completed
    assert list(completed.warnings) == ["line 2: [vers] is not [verse]", "line 2: the model does not know ß"]
    assert completed.lyric_lines[0].line_number == 2


async def test_the_time_left_follows_the_pace_of_the_steps(open_stages: Open) -> None:
    events = await collect(await open_stages(diffusion=Diffusion(seconds_per_step=0.2)), planned())
    left = [
        event.progress.eta.ToMilliseconds() / 1000
        for event in events
        if event.HasField("progress") and event.progress.stage == music_pb2.STAGE_SAMPLE
    ]
    assert left == pytest.approx([0.6, 0.4, 0.2, 0.0], abs=0.15)


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_the_end_of_the_caller_reaches_the_stage_in_mid_step(open_stages: Open, how: str) -> None:
    diffusion = Diffusion(seconds_per_step=0.3)
    stages = await open_stages(diffusion=diffusion)
    sampling = asyncio.Event()

    async def listen() -> None:
        async with contextlib.aclosing(generate(planned(), stages, None)) as events:
            async for event in events:
                if event.progress.stage == music_pb2.STAGE_SAMPLE:
                    sampling.set()
                    if how == "close":
                        return

    task = asyncio.create_task(listen())
    await sampling.wait()
    if how == "cancel":
        task.cancel()
    await asyncio.wait({task})
    await asyncio.wait_for(diffusion.cancelled.wait(), 2)
    assert diffusion.steps < 4


async def test_a_deadline_ends_the_stage_under_way(open_stages: Open) -> None:
    diffusion = Diffusion(seconds_per_step=5)
    stages = await open_stages(diffusion=diffusion)
    start = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded):
        _ = [event async for event in generate(planned(), stages, start + 0.5)]
    assert time.monotonic() - start < 3
    await asyncio.wait_for(diffusion.cancelled.wait(), 2)


async def test_a_deadline_that_has_passed_starts_nothing(open_stages: Open) -> None:
    encoder = Encoder()
    with pytest.raises(errors.DeadlineExceeded):
        _ = [event async for event in generate(planned(), await open_stages(encoder=encoder), time.monotonic())]
    assert encoder.requests == []


async def test_encoding_is_tried_twice(open_stages: Open) -> None:
    encoder = Encoder([errors.StageUnavailable("restarting")])
    events = await collect(await open_stages(encoder=encoder), planned())
    assert events[-1].HasField("completed")
    assert len(encoder.requests) == 2


async def test_encoding_is_not_tried_three_times(open_stages: Open) -> None:
    encoder = Encoder([errors.StageUnavailable("restarting")] * 3)
    with pytest.raises(errors.StageUnavailable):
        await collect(await open_stages(encoder=encoder), planned())
    assert len(encoder.requests) == 2


async def test_decoding_goes_on_where_it_broke_off(open_stages: Open) -> None:
    vae = Vae([errors.StageUnavailable("restarting")])
    events = await collect(await open_stages(vae=vae), planned())
    assert vae.calls == 2
    samples, _ = soundfile.read(io.BytesIO(files_of(events)[0]), dtype="float32")
    np.testing.assert_allclose(samples.T, ramp(4), atol=2**-15)


async def test_sampling_that_breaks_off_is_made_again_and_tells_no_step_twice(open_stages: Open) -> None:
    diffusion, events = Diffusion(failure=errors.StageUnavailable("gone")), []
    stages = await open_stages(diffusion=diffusion)

    async def listen() -> None:
        async for event in generate(planned(), stages, None):
            events.append(event)

    with pytest.raises(errors.StageUnavailable):
        await listen()
    assert len(diffusion.requests) == 3
    steps = [event.progress.step for event in events if event.progress.stage == music_pb2.STAGE_SAMPLE]
    assert steps == [1, 2, 3, 4]


async def test_a_refused_prompt_is_the_callers_and_named_by_the_callers_field(open_stages: Open) -> None:
    for field, expected in (("lyric_options.language", "prompt.lyric_options.language"), ("prompt.tags", "prompt.tags")):
        with pytest.raises(errors.InvalidRequest) as caught:
            await collect(await open_stages(encoder=Encoder([errors.InvalidRequest(field, "xx", "en")])), planned())
        assert [violation[0] for violation in caught.value.violations] == [expected]


@pytest.mark.parametrize("stage", ["diffusion", "vae"])
async def test_what_an_inner_stage_refuses_is_not_the_callers(open_stages: Open, stage: str) -> None:
    refusal = errors.InvalidRequest("params.infer_step", 0, "1 to 200")
    double: Any = Diffusion(failure=refusal) if stage == "diffusion" else Vae([refusal])
    token = request_id.set("song-1")
    with pytest.raises(errors.StageError, match=r"^internal error in request song-1$"):
        await collect(await open_stages(**{stage: double}), planned())
    request_id.reset(token)


@pytest.mark.parametrize("value", [np.nan, np.inf])
async def test_a_song_that_is_not_finite_is_an_error(open_stages: Open, value: float) -> None:
    with pytest.raises(errors.StageError, match="not finite"):
        await collect(await open_stages(vae=Vae(bad_value=value)), planned())


@pytest.mark.parametrize("start", [0, PIECE, 2 * PIECE])
async def test_a_missing_piece_is_an_error(open_stages: Open, start: int) -> None:
    with pytest.raises(errors.StageError, match="samples"):
        await collect(await open_stages(vae=Vae(drop=start)), planned())


async def test_missing_latents_are_an_error(open_stages: Open) -> None:
    with pytest.raises(errors.StageError, match="1 songs for 2 seeds"):
        await collect(await open_stages(diffusion=Diffusion(num_latents=1)), planned(seeds=[1, 2]))


async def test_the_stages_get_the_plan(open_stages: Open) -> None:
    encoder, diffusion = Encoder(), Diffusion()
    the_plan = planned(seeds=[1, 2])
    token = request_id.set(the_plan.request_id)
    await collect(await open_stages(encoder=encoder, diffusion=diffusion), the_plan)
    request_id.reset(token)
    assert (encoder.requests[0].tags, encoder.requests[0].lyrics) == ("funk", "[verse]\nla")
    assert encoder.requests[0].null_condition == encoder_pb2.NULL_CONDITION_WEAKENED
    assert encoder.request_ids == ["song-1"]
    (sample,) = diffusion.requests
    assert sample.conditioning.text_hidden_states.shape == [4, 1]
    assert sample.params == the_plan.sampling
    assert list(sample.seeds) == [1, 2]
    assert sample.text_to_music.duration_seconds == 6.25


@pytest.mark.parametrize("container", [("MP3", "VORBIS"), ("MP4", "MPEG_LAYER_III")], ids=["opening fails", "no such format"])
async def test_a_format_that_cannot_be_written_leaves_wav_and_says_so(
    open_stages: Open, monkeypatch: pytest.MonkeyPatch, container: tuple[str, str]
) -> None:
    monkeypatch.setitem(audio._CONTAINERS, music_pb2.AUDIO_FORMAT_MP3, audio._Container(*container, 0.1))
    vae = Vae()
    events = await collect(await open_stages(vae=vae), planned(seeds=[4, 5], output={"format": music_pb2.AUDIO_FORMAT_MP3}))
    wav = await collect(await open_stages(), planned(seeds=[4, 5]))
    assert {index: soundfile.read(io.BytesIO(data))[0].tolist() for index, data in files_of(events).items()} == {
        index: soundfile.read(io.BytesIO(data))[0].tolist() for index, data in files_of(wav).items()
    }
    assert [song.format for song in events[-1].completed.songs] == [music_pb2.AUDIO_FORMAT_WAV_PCM16] * 2
    assert [song.receipt["format"] for song in events[-1].completed.songs] == ["wav"] * 2
    (warning,) = [warning for warning in events[-1].completed.warnings if warning.startswith("output.format")]
    assert "song 0 could not be written as mp3" in warning
    assert vae.calls == 3  # the second song is not tried in vain


async def test_a_write_that_fails_in_the_middle_leaves_wav(open_stages: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaking(audio.SoundFileWriter):
        """libsndfile refuses samples of another width."""

        def write(self, waveform: audio.Waveform) -> bytes:
            return super().write(waveform[:1])

    monkeypatch.setattr(audio, "SoundFileWriter", Breaking)
    events = await collect(await open_stages(), planned(output={"format": music_pb2.AUDIO_FORMAT_FLAC}))
    assert events[-1].completed.songs[0].format == music_pb2.AUDIO_FORMAT_WAV_PCM16
    assert files_of(events)[0][:4] == b"RIFF"
