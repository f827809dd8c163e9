"""Uploads: what is taken, what is refused, and how it comes back."""

import hashlib
import io
import zipfile

import grpc.aio
import numpy as np
import pytest
import soundfile

from acestep_rpc.v1 import music_pb2
from tests.integration.requests import generate, song_request


def tone(rate: int, channels: int, container: str, subtype: str, seconds: float = 1.5) -> bytes:
    time = np.arange(int(seconds * rate)) / rate
    waveform = 0.3 * np.stack([np.sin(2 * np.pi * (220 + 110 * channel) * time) for channel in range(channels)], axis=1)
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, subtype=subtype, format=container)
    return file.getvalue()


FILES = {
    "44.1 kHz mono 24-bit wav": (tone(44100, 1, "WAV", "PCM_24"), 44100, 1),
    "48 kHz mp3": (tone(48000, 2, "MP3", "MPEG_LAYER_III"), 48000, 2),
    "32 kHz flac": (tone(32000, 2, "FLAC", "PCM_16"), 32000, 2),
}


def pieces(data: bytes, size: int = 10_000, **first) -> list[music_pb2.UploadAudioRequest]:
    cut = [music_pb2.UploadAudioRequest(data=data[start : start + size]) for start in range(0, len(data), size)]
    return [music_pb2.UploadAudioRequest(data=b"", **first), *cut]


async def upload(music, data: bytes, **first) -> music_pb2.UploadAudioResponse:
    return await music.UploadAudio(iter(pieces(data, **first)))


async def download(music, name: str, offset: int = 0) -> bytes:
    data = b""
    async for response in music.DownloadAudio(music_pb2.DownloadAudioRequest(name=name, offset=offset)):
        assert response.offset == offset + len(data)
        data += response.data
    return data


@pytest.mark.parametrize("kind", FILES)
async def test_audio_of_any_kind_is_taken_and_comes_back_as_it_was(music, kind):
    data, rate, channels = FILES[kind]
    stored = await upload(music, data, sha256=hashlib.sha256(data).hexdigest())
    assert (stored.sample_rate, stored.channels) == (rate, channels)
    assert stored.duration_seconds == pytest.approx(1.5, abs=0.1)  # mp3 pads
    assert stored.name == f"assets/{hashlib.sha256(data).hexdigest()}"
    assert await download(music, stored.name) == data
    assert await download(music, stored.name, offset=1234) == data[1234:]
    assert (await upload(music, data)).name == stored.name


def hostile() -> dict[str, bytes]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("song.wav", "no song" * 100)
    wav, floats = FILES["44.1 kHz mono 24-bit wav"][0], tone(44100, 1, "WAV", "FLOAT")
    nan = np.array([np.nan], dtype="<f4").tobytes()
    claim = wav.index(b"data") + 4
    return {
        "nothing": b"",
        "a zip": archive.getvalue(),
        "a header that claims gigabytes": wav[:claim] + (0xFFFFFF00).to_bytes(4, "little") + wav[claim + 4 :],
        "not a number": floats[: len(floats) // 8 * 4] + nan + floats[len(floats) // 8 * 4 + 4 :],
        "half a flac": FILES["32 kHz flac"][0][:20_000],
    }


@pytest.mark.parametrize("kind", hostile())
async def test_hostile_files_are_refused_and_the_server_serves_on(music, kind):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await upload(music, hostile()[kind])
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await generate(music, song_request())).file()


async def test_a_wrong_digest_is_refused(music):
    data, *_ = FILES["32 kHz flac"]
    with pytest.raises(grpc.aio.AioRpcError, match="sha256"):
        await upload(music, data, sha256="0" * 64)


async def test_what_was_never_uploaded_is_not_found(music):
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await download(music, f"assets/{'0' * 64}")
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
