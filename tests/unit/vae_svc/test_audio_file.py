import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from acestep_rpc.errors import InvalidRequest
from vae_svc.audio_file import read_audio

LIMIT = 10.0


def samples(frames: int = 44100, channels: int = 2) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal((frames, channels))).astype(np.float32)


def write(path: Path, data: np.ndarray, rate: int = 44100, file_format: str = "WAV", subtype: str | None = None) -> Path:
    soundfile.write(path, data, rate, format=file_format, subtype=subtype)
    return path


def refused(path: Path, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        read_audio(path, LIMIT)
    assert caught.value.violations[0][0] == "data"


@pytest.mark.parametrize(
    ("file_format", "subtype", "rate", "tolerance"),
    [
        ("WAV", "PCM_16", 48000, 2**-15),
        ("WAV", "PCM_24", 44100, 2**-23),
        ("WAV", "FLOAT", 22050, 0.0),
        ("FLAC", "PCM_16", 44100, 2**-15),
        ("AIFF", "PCM_16", 8000, 2**-15),
        ("OGG", "VORBIS", 44100, 1.0),
        ("OGG", "OPUS", 48000, 1.0),
        ("MP3", "MPEG_LAYER_III", 44100, 1.0),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_what_soundfile_wrote_is_read(tmp_path, file_format, subtype, rate, tolerance, channels):
    data = samples(channels=channels)
    file = read_audio(write(tmp_path / "audio", data, rate, file_format, subtype), LIMIT)
    assert file.sample_rate == rate
    assert file.waveform.shape == (channels, len(data))
    assert file.duration_seconds == len(data) / rate
    torch.testing.assert_close(file.waveform, torch.from_numpy(data.T.copy()), atol=tolerance, rtol=0)


def test_full_scale_pcm_is_one(tmp_path):
    data = np.array([[-32768], [16384]], dtype=np.int16)
    file = read_audio(write(tmp_path / "audio", data), LIMIT)
    assert file.waveform.tolist() == [[-1.0, 0.5]]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize(
    ("file_format", "subtype"),
    [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("AIFF", "PCM_16"), ("W64", "PCM_16")],
)
def test_a_file_that_is_cut_off_is_refused(tmp_path, file_format, subtype, share):
    path = write(tmp_path / "audio", samples(), 48000, file_format, subtype)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "data")


def test_a_cut_through_the_header_is_refused(tmp_path):
    path = write(tmp_path / "audio", samples())
    path.write_bytes(path.read_bytes()[:40])
    refused(path, "data")


def test_bytes_after_the_end_do_no_harm(tmp_path):
    for file_format in ("WAV", "FLAC", "OGG"):
        path = write(tmp_path / "audio", samples(), file_format=file_format)
        path.write_bytes(path.read_bytes() + b"tag" * 100)
        assert read_audio(path, LIMIT).waveform.shape == (2, 44100)


def test_a_wav_written_to_a_pipe_is_read(tmp_path):
    path = write(tmp_path / "audio", samples(), subtype="PCM_16")
    content = bytearray(path.read_bytes())
    size = content.index(b"data") + 4
    content[4:8] = content[size : size + 4] = b"\xff" * 4
    path.write_bytes(content)
    assert read_audio(path, LIMIT).waveform.shape == (2, 44100)


def test_a_wav_header_that_claims_too_much_is_refused(tmp_path):
    path = write(tmp_path / "audio", samples(), subtype="PCM_16")
    content = bytearray(path.read_bytes())
    size = content.index(b"data") + 4
    content[size : size + 4] = struct.pack("<I", 2**31)
    path.write_bytes(content)
    refused(path, "cut off")


def test_a_flac_header_that_claims_two_billion_frames_is_refused(tmp_path):
    path = write(tmp_path / "audio", samples(), file_format="FLAC")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = struct.pack(">I", 2**31)
    path.write_bytes(content)
    refused(path, "data")


def test_a_flac_header_that_hides_its_length_does_not_pass_the_limit(tmp_path):
    path = write(tmp_path / "audio", samples(40 * 8000, 1), 8000, "FLAC")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    refused(path, "at most 10 seconds")


@pytest.mark.parametrize("content", [b"", b"RIFF", b"fLaC" + bytes(100), b"OggS" * 1000, np.random.default_rng(0).bytes(100_000)])
def test_what_is_no_audio_is_refused(tmp_path, content):
    path = tmp_path / "audio"
    path.write_bytes(content)
    refused(path, "data")


def test_a_damaged_flac_is_refused(tmp_path):
    path = write(tmp_path / "audio", samples(), file_format="FLAC")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)
    refused(path, "data")


def test_more_than_two_channels_are_refused_with_advice(tmp_path):
    refused(write(tmp_path / "audio", samples(channels=6)), "6 channels.*mono or stereo")


@pytest.mark.parametrize("rate", [7999, 192001])
def test_rates_out_of_range_are_refused(tmp_path, rate):
    refused(write(tmp_path / "audio", samples(100), rate), f"{rate} Hz.*8000 to 192000")


@pytest.mark.parametrize("rate", [8000, 192000])
def test_the_limits_of_the_rate_are_allowed(tmp_path, rate):
    assert read_audio(write(tmp_path / "audio", samples(100), rate), LIMIT).sample_rate == rate


def test_the_limit_of_the_duration_is_allowed_and_one_sample_more_is_not(tmp_path):
    assert read_audio(write(tmp_path / "audio", samples(80_000, 1), 8000), LIMIT).duration_seconds == LIMIT
    refused(write(tmp_path / "audio", samples(80_001, 1), 8000), "at most 10 seconds")


def test_no_samples_are_refused(tmp_path):
    refused(write(tmp_path / "audio", samples(0)), "0 samples")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 32767.0, -1e30])
def test_values_that_are_no_audio_are_refused(tmp_path, value):
    data = samples()
    data[4321, 1] = value
    refused(write(tmp_path / "audio", data, subtype="FLOAT"), "full scale is 1")


def test_a_long_file_is_clipped_where_that_is_asked_for(tmp_path):
    data = samples(frames=3 * 44100)
    path = write(tmp_path / "audio", data, subtype="FLOAT")
    file = read_audio(path, 1.5, clip=True)
    assert (file.clipped, file.duration_seconds) == (True, 1.5)
    assert torch.equal(file.waveform, torch.from_numpy(data[:66150].T.copy()))
    assert not read_audio(path, 3, clip=True).clipped
