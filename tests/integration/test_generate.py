"""What a caller gets: the same from one process and from four."""

import asyncio
import io
import json

import numpy as np
import pytest
import soundfile

from acestep_rpc.receipt import to_dict
from acestep_rpc.v1 import music_pb2
from tests.integration.requests import FRAME_SECONDS, Answer, generate, song_request

SONGS: dict[str, bytes] = {}  # one and the same request, by mode


async def test_events_come_in_order(music):
    answer = await generate(music, song_request())
    assert answer.kinds[0] == "accepted"
    assert answer.kinds[-1] == "completed"
    assert [event.sequence for event in answer.events] == list(range(1, len(answer.events) + 1))
    assert len({event.request_id for event in answer.events}) == 1
    stages = [event.progress.stage for event in answer.events if event.WhichOneof("event") == "progress"]
    assert stages == sorted(stages)
    assert {music_pb2.STAGE_ENCODE, music_pb2.STAGE_SAMPLE, music_pb2.STAGE_DECODE} <= set(stages)
    sampling = answer.progress(music_pb2.STAGE_SAMPLE)
    assert [progress.step for progress in sampling] == [1, 2, 3, 4]
    assert {progress.total for progress in sampling} == {4}
    assert all(progress.HasField("eta") for progress in sampling[1:])
    assert sampling[-1].eta.ToMilliseconds() == 0


async def test_the_file_is_stereo_at_48_khz_and_not_silent(music):
    answer = await generate(music, song_request(seconds=3.0))
    waveform, rate = soundfile.read(io.BytesIO(answer.file()))
    frames = int(3.0 / FRAME_SECONDS)
    assert rate == 48000
    assert waveform.shape == (-(-frames * 4096 * 48000 // 44100), 2)
    assert 0.001 < np.sqrt((waveform**2).mean()) < 0.9
    assert answer.result.songs[0].duration_seconds == pytest.approx(len(waveform) / rate)


async def test_the_receipt_makes_the_song_again(music):
    first = await generate(music, song_request(seeds=()))
    receipt = first.result.songs[0].receipt
    assert receipt["actual_seeds"] == list(first.events[0].accepted.seeds)
    again = await generate(music, song_request(seeds=(int(receipt["actual_seeds"][0]),), steps=int(receipt["infer_step"])))
    assert again.file() == first.file()


async def test_the_file_carries_its_receipt(music):
    answer = await generate(music, song_request())
    data = answer.file()
    text = data[data.index(b"ICMT") + 8 :].rstrip(b"\0 \n").decode()
    inside = json.loads(text)
    assert inside["prompt"] == "funk, bass, 105 bpm"
    assert inside["seed"] == 7
    assert inside["guidance_scale"] == 15
    outside = to_dict(answer.result.songs[0].receipt)
    assert outside.keys() - inside.keys() == {"request_id", "corrections", "timecosts", "variant_index"}  # of the run, not of the song
    assert inside == {name: outside[name] for name in inside}


async def test_four_processes_give_the_bytes_of_one(system, music):
    SONGS[system.mode] = (await generate(music, song_request(seconds=2.5, steps=5, seeds=(11,)))).file()
    assert len(set(SONGS.values())) == 1


async def test_a_song_has_the_same_bytes_alone_and_beside_three_others(music):
    alone = await generate(music, song_request(steps=8))
    others = [
        song_request(steps=6 + number, seeds=(number,), prompt=music_pb2.Prompt(tags=f"rock {number}", lyrics="la\n" * number))
        for number in range(3)
    ]
    company = await asyncio.gather(*(generate(music, request) for request in (*others, song_request(steps=8))))
    assert company[-1].file() == alone.file()


async def test_songs_of_one_length_share_forwards(system, music):
    diffusion = system.stage("diffusion")
    before = diffusion.metric("acestep_batch_rows_sum"), diffusion.metric("acestep_batch_rows_count")
    await asyncio.gather(*(generate(music, song_request(seconds=10.0, steps=20, seeds=(seed,))) for seed in range(4)))
    rows = diffusion.metric("acestep_batch_rows_sum") - before[0]
    forwards = diffusion.metric("acestep_batch_rows_count") - before[1]
    assert rows == 4 * 30  # 20 steps, the middle 10 guided
    assert forwards < 60  # 80 if none were shared


async def test_variants_are_the_songs_of_their_seeds(music):
    both = await generate(music, song_request(seeds=(3, 4)))
    assert [song.seed for song in both.result.songs] == [3, 4]
    for index, seed in enumerate((3, 4)):
        alone = await generate(music, song_request(seeds=(seed,)))
        assert both.file(index) == alone.file()


@pytest.mark.parametrize(
    ("audio_format", "container"),
    [
        (music_pb2.AUDIO_FORMAT_WAV_PCM24, ("WAV", "PCM_24")),
        (music_pb2.AUDIO_FORMAT_WAV_FLOAT32, ("WAV", "FLOAT")),
        (music_pb2.AUDIO_FORMAT_FLAC, ("FLAC", "PCM_24")),
        (music_pb2.AUDIO_FORMAT_MP3, ("MP3", "MPEG_LAYER_III")),
        (music_pb2.AUDIO_FORMAT_OGG_VORBIS, ("OGG", "VORBIS")),
        (music_pb2.AUDIO_FORMAT_OGG_OPUS, ("OGG", "OPUS")),
    ],
)
async def test_every_format_plays(music, audio_format, container):
    answer = await generate(music, song_request(output=music_pb2.OutputSpec(format=audio_format)))
    with soundfile.SoundFile(io.BytesIO(answer.file())) as file:
        assert (file.format, file.subtype) == container
        assert (file.samplerate, file.channels) == (48000, 2)
        assert file.read().std() > 0.001


async def test_44_1_khz_is_the_codecs_own_rate(music):
    answer = await generate(music, song_request(output=music_pb2.OutputSpec(sample_rate=44100)))
    waveform, rate = soundfile.read(io.BytesIO(answer.file()))
    assert rate == 44100
    assert len(waveform) == int(2.0 / FRAME_SECONDS) * 4096


@pytest.mark.parametrize("prompt", [{"tags": "piano"}, {"lyrics": "just words"}], ids=["no lyrics", "no tags"])
async def test_tags_or_lyrics_alone_are_enough(music, prompt):
    request = song_request()
    request.prompt.CopyFrom(music_pb2.Prompt(**prompt))
    assert (await generate(music, request)).file()


async def test_audio_leaves_before_the_song_is_decoded(music):
    answer: Answer = await generate(music, song_request(seconds=40.0, steps=2))
    chunks = [index for index, kind in enumerate(answer.kinds) if kind == "audio_chunk"]
    decoding = [index for index, event in enumerate(answer.events) if event.progress.stage == music_pb2.STAGE_DECODE]
    assert chunks[0] < decoding[-1]
    assert max(len(event.audio_chunk.data) for event in answer.events) <= 1 << 20


async def test_capabilities_name_what_works(music):
    capabilities = await music.GetCapabilities(music_pb2.GetCapabilitiesRequest())
    assert list(capabilities.tasks) == ["text_to_music", "retake", "repaint", "extend", "edit", "audio_to_audio"]
    assert list(capabilities.lyric_languages) == ["en"]
    limits = {limit.field: limit for limit in capabilities.parameters}
    assert (limits["sampling.infer_step"].minimum, limits["sampling.infer_step"].maximum) == (1, 200)
    assert limits["sampling.infer_step"].default_value == 60
    assert [stage.stage for stage in capabilities.stages] == ["encoder", "diffusion", "vae"]
    assert all(len(stage.model_digest) == 64 for stage in capabilities.stages)
    assert [stage.vocoder for stage in capabilities.stages] == ["", "", "ADaMoSHiFiGANV1"]
    assert "[chorus]" in capabilities.structure_tags


async def test_negative_tags_change_the_song_and_an_empty_one_is_not_unset(music):
    songs = []
    for negative_tags in (None, "", "noise, rock"):
        request = song_request()
        if negative_tags is not None:
            request.prompt.negative_tags = negative_tags
        answer = await generate(music, request)
        receipt = to_dict(answer.result.songs[0].receipt)
        assert (receipt["negative_prompt"], receipt["use_erg_tag"]) == (negative_tags, negative_tags is None)
        songs.append(answer.file())
    assert len(set(songs)) == 3
