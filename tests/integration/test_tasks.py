"""Songs from songs: every task over the public API, from one process and from four."""

import io
import uuid

import grpc.aio
import numpy as np
import pytest
import soundfile

from acestep_rpc.receipt import to_dict
from acestep_rpc.v1 import music_pb2, sampling_pb2
from tests.integration.requests import FRAME_SECONDS, Answer, generate, song_request

SECONDS = 3.0
FRAMES = int(SECONDS / FRAME_SECONDS)


def waveform(answer: Answer, variant_index: int = 0) -> np.ndarray:
    data, rate = soundfile.read(io.BytesIO(answer.file(variant_index)))
    assert rate == 48000
    return data


def samples(frames: int) -> int:
    return -(-frames * 4096 * 48000 // 44100)


@pytest.fixture
async def source(music) -> music_pb2.AudioSource:
    """An uploaded song of three seconds."""
    song = (await generate(music, song_request(seconds=SECONDS, output=music_pb2.OutputSpec(sample_rate=44100)))).file()
    stored = await music.UploadAudio(iter([music_pb2.UploadAudioRequest(data=song)]))
    return music_pb2.AudioSource(asset=stored.name)


def task_request(**task) -> music_pb2.GenerateRequest:
    request = song_request(steps=6)
    request.ClearField("text_to_music")
    request.MergeFrom(music_pb2.GenerateRequest(**task))
    return request


def repaint(source, variance: float) -> music_pb2.GenerateRequest:
    regions = [music_pb2.TimeRange(start_seconds=1.0, end_seconds=2.0)]
    message = music_pb2.Repaint(source=source, regions=regions, retake_variance=variance, retake_seeds=[5], splice_source=False)
    return task_request(repaint=message)


def edit(source) -> music_pb2.GenerateRequest:
    target = music_pb2.Prompt(tags="jazz", lyrics="other words")
    return task_request(edit=music_pb2.Edit(source=source, target=target, edit_n_min=0.2, edit_n_max=0.8, retake_seeds=[5]))


async def test_a_retake_of_variance_0_is_the_song_of_the_seed(music):
    retake = music_pb2.Retake(duration_seconds=SECONDS, retake_variances=[0.0, 0.4, 1.0], retake_seeds=[5])
    answer = await generate(music, task_request(retake=retake))
    song = waveform(await generate(music, song_request(seconds=SECONDS, steps=6)))
    takes = [waveform(answer, index) for index in range(3)]
    assert np.array_equal(takes[0], song)
    assert not np.array_equal(takes[1], song)
    assert not np.array_equal(takes[2], takes[1])
    receipts = [to_dict(made.receipt) for made in answer.result.songs]
    assert [receipt["retake_variance"] for receipt in receipts] == [0, 0.4, 1]
    assert {tuple(receipt["retake_seeds"]) for receipt in receipts} == {(5,)}
    assert {receipt["seed"] for receipt in receipts} == {7}


async def test_a_cover_of_strength_1_and_a_repaint_of_variance_0_are_the_source(music, source):
    cover = await generate(music, task_request(audio_to_audio=music_pb2.AudioToAudio(source=source, ref_audio_strength=1.0)))
    unchanged = await generate(music, repaint(source, 0.0))
    assert np.array_equal(waveform(cover), waveform(unchanged))
    assert len(waveform(cover)) == samples(FRAMES)


async def test_a_repaint_changes_its_region(music, source):
    unchanged, changed = waveform(await generate(music, repaint(source, 0.0))), waveform(await generate(music, repaint(source, 1.0)))
    assert len(changed) == len(unchanged)
    difference = np.abs(changed - unchanged).mean(axis=1)
    second = 48000
    assert difference[second + 12000 : 2 * second - 12000].mean() > 3 * difference[: second - 24000].mean()


@pytest.mark.parametrize(("rate", "subtype", "channels"), [(44100, "PCM_16", 2), (48000, "PCM_24", 1)])
async def test_a_repaint_keeps_the_uploaded_samples_outside_its_region(music, rate, subtype, channels):
    samples = 0.3 * np.random.default_rng(0).standard_normal((2 * rate + 123, channels)).clip(-3, 3)
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype=subtype, format="WAV")
    original, _ = soundfile.read(io.BytesIO(file.getvalue()), dtype="int32", always_2d=True)
    stored = await music.UploadAudio(iter([music_pb2.UploadAudioRequest(data=file.getvalue())]))
    regions = [music_pb2.TimeRange(start_seconds=0.5, end_seconds=1.25)]
    message = music_pb2.Repaint(source=music_pb2.AudioSource(asset=stored.name), regions=regions, retake_variance=1.0)
    audio_format = {"PCM_16": music_pb2.AUDIO_FORMAT_WAV_PCM16, "PCM_24": music_pb2.AUDIO_FORMAT_WAV_PCM24}[subtype]
    answer = await generate(music, task_request(repaint=message, output=music_pb2.OutputSpec(format=audio_format, sample_rate=rate)))
    result, _ = soundfile.read(io.BytesIO(answer.file()), dtype="int32")
    assert result.shape == (len(samples), 2)
    start, end = int(0.5 * rate), int(1.25 * rate)
    for kept in (slice(0, start), slice(end, None)):
        assert np.array_equal(result[kept], np.broadcast_to(original[kept], (len(original[kept]), 2)))
    assert not np.array_equal(result[start:end], np.broadcast_to(original[start:end], (end - start, 2)))
    assert answer.events[0].accepted.duration_seconds == len(samples) / rate
    receipt = to_dict(answer.result.songs[0].receipt)
    assert receipt["kept_snr_db"] == "infinite"
    assert receipt["splice"] == {"fade_seconds": 0.02, "new_seconds": [[0.5, 1.25]], "resampled": False, "source_sample_rate": rate}


@pytest.mark.parametrize(("left", "right"), [(0.0, 2.0), (2.0, 0.0), (1.0, 4.0), (20.0, 230.0)])
async def test_an_extension_has_exactly_the_promised_length(music, source, left, right):
    extend = music_pb2.Extend(source=source, left_seconds=left, right_seconds=right)
    request = task_request(extend=extend)
    if right > 100:
        request.sampling.infer_step = 1
    answer = await generate(music, request)
    frames = int(left / FRAME_SECONDS) + FRAMES + int(right / FRAME_SECONDS)
    assert len(waveform(answer)) == samples(frames)
    assert answer.events[0].accepted.duration_seconds == pytest.approx(frames * FRAME_SECONDS)


async def test_an_extension_by_nothing_is_the_source_and_says_so(music, source):
    nothing = await generate(music, task_request(extend=music_pb2.Extend(source=source, right_seconds=0.05)))
    longer = await generate(music, task_request(extend=music_pb2.Extend(source=source, right_seconds=2.0)))
    assert len(waveform(nothing)) == samples(FRAMES) < len(waveform(longer))
    assert any("nothing is added" in warning for warning in nothing.result.warnings)
    assert not any("nothing is added" in warning for warning in longer.result.warnings)


async def test_a_repaint_with_soft_edges_and_a_small_context_is_another_repaint(music, source):
    plain = repaint(source, 1.0)
    feathered, windowed = repaint(source, 1.0), repaint(source, 1.0)
    feathered.repaint.feather_seconds = 0.4
    windowed.repaint.context_seconds = 0.3
    answers = [await generate(music, request) for request in (plain, feathered, windowed)]
    assert len({answer.file() for answer in answers}) == 3
    assert len({len(waveform(answer)) for answer in answers}) == 1
    receipts = [to_dict(answer.result.songs[0].receipt) for answer in answers]
    assert [(receipt["feather_seconds"], receipt["context_seconds"]) for receipt in receipts] == [(0, None), (0.4, None), (0, 0.3)]


async def test_an_edit_keeps_the_length_and_records_both_prompts(music, source):
    answer = await generate(music, edit(source))
    assert len(waveform(answer)) == samples(FRAMES)
    receipt = to_dict(answer.result.songs[0].receipt)
    assert (receipt["prompt"], receipt["edit_target_prompt"], receipt["edit_target_lyrics"]) == (
        "funk, bass, 105 bpm",
        "jazz",
        "other words",
    )
    assert [line.normalized_text for line in answer.result.lyric_lines] == ["other words"]


async def kept(music, request: music_pb2.GenerateRequest) -> tuple[Answer, music_pb2.AudioSource]:
    request.keep_results = True
    answer = await generate(music, request)
    return answer, music_pb2.AudioSource(result=answer.result.songs[0].name)


async def test_edits_chain_on_the_latents_of_earlier_results(system, music):
    def encoded() -> float:
        return system.stage("vae").metric("acestep_stage_seconds_count", stage="vae_encode")

    before = encoded()
    song, first = await kept(music, song_request(seconds=SECONDS, steps=6))
    same = task_request(audio_to_audio=music_pb2.AudioToAudio(source=first, ref_audio_strength=1.0))
    assert np.array_equal(waveform(await generate(music, same)), waveform(song))
    edited, second = await kept(music, edit(first))
    chained = await generate(music, edit(second))
    assert len({answer.file() for answer in (song, edited, chained)}) == 3
    assert encoded() == before
    changes = to_dict(chained.result.songs[0].receipt)["lyric_changes"]
    assert changes == [
        {"new_line_number": 1, "new_lines": ["other words"], "old_line_number": 1, "old_lines": ["[verse]", "hello world", "we sing"]}
    ]
    assert [list(change.new_lines) for change in chained.result.lyric_changes] == [["other words"]]
    assert not chained.result.songs[0].name
    download = music.DownloadAudio(music_pb2.DownloadAudioRequest(name=second.result))
    assert b"".join([response.data async for response in download]) == edited.file()


async def test_a_repaint_of_a_result_keeps_its_samples_unless_its_format_moves_them(music):
    song, source = await kept(music, song_request(seconds=SECONDS))
    regions = [music_pb2.TimeRange(start_seconds=1.0, end_seconds=2.0)]
    painted = await generate(music, task_request(repaint=music_pb2.Repaint(source=source, regions=regions, retake_variance=1.0)))
    old, new = waveform(song), waveform(painted)
    assert np.array_equal(new[:48000], old[:48000])
    assert np.array_equal(new[96000:], old[96000:])
    assert not np.array_equal(new, old)
    resampled = task_request(repaint=music_pb2.Repaint(source=source, regions=regions), output=music_pb2.OutputSpec(sample_rate=44100))
    assert to_dict((await generate(music, resampled)).result.songs[0].receipt)["splice"]["resampled"]
    _, lossy = await kept(music, song_request(output=music_pb2.OutputSpec(format=music_pb2.AUDIO_FORMAT_MP3)))
    with pytest.raises(grpc.aio.AioRpcError, match="splice_source"):
        await generate(music, task_request(repaint=music_pb2.Repaint(source=lossy, regions=regions)))


async def test_a_request_keeps_its_results_once(music):
    request = song_request(request_id=f"once-{uuid.uuid4().hex}")
    await kept(music, request)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await generate(music, request)
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_the_same_request_is_the_same_file(music, source):
    cover = task_request(audio_to_audio=music_pb2.AudioToAudio(source=source, ref_audio_strength=0.4))
    for request in (edit(source), repaint(source, 0.6), cover):
        assert (await generate(music, request)).file() == (await generate(music, request)).file()


async def test_an_uploaded_mp3_can_be_covered(music):
    time = np.arange(48000 * 2) / 48000
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * 440 * time), 48000, format="MP3", subtype="MPEG_LAYER_III")
    stored = await music.UploadAudio(iter([music_pb2.UploadAudioRequest(data=file.getvalue())]))
    cover = music_pb2.AudioToAudio(source=music_pb2.AudioSource(asset=stored.name), ref_audio_strength=0.5)
    assert (await generate(music, task_request(audio_to_audio=cover))).file()


def bad_tasks(source):
    far = [music_pb2.TimeRange(start_seconds=1, end_seconds=99)]
    heun = sampling_pb2.SamplingParams(scheduler_type=sampling_pb2.SCHEDULER_TYPE_HEUN)
    unknown = music_pb2.AudioSource(asset=f"assets/{'0' * 64}")
    invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    yield task_request(repaint=music_pb2.Repaint(source=source, regions=far, splice_source=False)), invalid, "end_seconds"
    yield task_request(extend=music_pb2.Extend(source=source, right_seconds=719)), invalid, "extend"
    yield task_request(extend=music_pb2.Extend(source=source, right_seconds=1), sampling=heun), invalid, "scheduler_type"
    yield task_request(edit=music_pb2.Edit(source=source)), invalid, "edit.target"
    yield task_request(edit=music_pb2.Edit(source=source, target=music_pb2.Prompt(tags="a", lyrics="夜"))), invalid, "edit.target.lyrics"
    yield task_request(audio_to_audio=music_pb2.AudioToAudio(source=unknown)), missing, "asset"
    nobody = music_pb2.AudioSource(result="operations/nobody/results/0")
    yield task_request(audio_to_audio=music_pb2.AudioToAudio(source=nobody)), missing, "result"
    yield task_request(audio_to_audio=music_pb2.AudioToAudio()), invalid, "audio_to_audio.source"


async def test_what_cannot_be_done_is_said_and_the_server_serves_on(music, source):
    for request, code, words in bad_tasks(source):
        with pytest.raises(grpc.aio.AioRpcError, match=words) as refused:
            await generate(music, request)
        assert refused.value.code() is code
    assert (await generate(music, song_request())).file()
