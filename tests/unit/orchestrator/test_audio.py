import io
import math
import struct

import numpy as np
import pytest
import soundfile

from acestep_rpc.errors import StageError
from acestep_rpc.v1 import music_pb2, tensor_pb2, vae_pb2
from orchestrator.audio import EncodingBroken, EncodingFailed, Waveform, open_writer, read_waveform
from orchestrator.plan import FORMATS

RATE = 48000
RECEIPT = r'{"prompt":"F\u00fc\u00dfe, \u65e5","seed":4294967295}'
WAV = (music_pb2.AUDIO_FORMAT_WAV_PCM16, music_pb2.AUDIO_FORMAT_WAV_PCM24, music_pb2.AUDIO_FORMAT_WAV_FLOAT32)

# Least signal-to-noise ratio in dB: integers lose half a step; lossy codecs keep what is heard, 15 dB is far above a wrong channel,
# a shift by one sample or a clipped song.
MIN_SNR = {
    music_pb2.AUDIO_FORMAT_WAV_PCM16: 85,
    music_pb2.AUDIO_FORMAT_WAV_PCM24: 130,
    music_pb2.AUDIO_FORMAT_WAV_FLOAT32: math.inf,
    music_pb2.AUDIO_FORMAT_FLAC: 130,
    music_pb2.AUDIO_FORMAT_MP3: 15,
    music_pb2.AUDIO_FORMAT_OGG_VORBIS: 15,
    music_pb2.AUDIO_FORMAT_OGG_OPUS: 15,
}


NOT_WAV = [audio_format for audio_format in FORMATS if audio_format not in WAV]


def name(value: object) -> str:
    return music_pb2.AudioFormat.Name(value) if value in FORMATS else str(value)  # type: ignore[arg-type]


def chord(num_samples: int, rate: int = RATE) -> Waveform:
    """Two channels that differ, so that swapping them shows."""
    seconds = np.arange(num_samples) / rate
    left = 0.4 * np.sin(2 * np.pi * 440 * seconds) + 0.2 * np.sin(2 * np.pi * 1320 * seconds)
    right = 0.5 * np.sin(2 * np.pi * 550 * seconds + 1)
    return np.stack([left, right]).astype(np.float32)


def write(audio_format: music_pb2.AudioFormat, waveform: Waveform, cuts: list[int], receipt: str = RECEIPT, rate: int = RATE) -> bytes:
    writer = open_writer(audio_format, rate, waveform.shape[1], receipt)
    file = b"".join(writer.write(piece) for piece in np.split(waveform, cuts, axis=1))
    end = writer.close()
    assert end
    return file + end


def comment_of_wav(file: bytes) -> str:
    """Walks the RIFF chunks: libsndfile itself reads no comments above 2 kB."""
    assert file[:4] == b"RIFF"
    assert file[8:12] == b"WAVE"
    assert struct.unpack("<I", file[4:8])[0] == len(file) - 8
    position, comment = 12, b""
    while position < len(file):
        size = struct.unpack_from("<I", file, position + 4)[0]
        if file[position : position + 4] == b"LIST":
            assert file[position + 8 : position + 16] == b"INFOICMT"
            comment = file[position + 20 : position + 8 + size]
            assert struct.unpack_from("<I", file, position + 16)[0] == len(comment)
        position += 8 + size + size % 2
    assert position == len(file)
    return comment.rstrip(b"\0").decode()


@pytest.mark.parametrize(
    ("audio_format", "rate"),
    [
        (audio_format, rate)
        for audio_format in FORMATS
        for rate in (44100, 48000)
        if (audio_format, rate) != (music_pb2.AUDIO_FORMAT_OGG_OPUS, 44100)
    ],
    ids=name,
)
def test_a_file_reads_back_as_what_was_written(audio_format: music_pb2.AudioFormat, rate: int) -> None:
    waveform = chord(2 * rate + 123, rate)
    samples, found_rate = soundfile.read(io.BytesIO(write(audio_format, waveform, [7, 1000, 50001], rate=rate)), dtype="float32")
    assert found_rate == rate
    assert samples.shape == (waveform.shape[1], 2)
    noise = float(np.mean((samples.T - waveform) ** 2))
    snr = math.inf if noise == 0 else 10 * math.log10(float(np.mean(waveform**2)) / noise)
    assert snr >= MIN_SNR[audio_format]


@pytest.mark.parametrize(
    ("audio_format", "subtype"),
    [
        (music_pb2.AUDIO_FORMAT_WAV_PCM16, "PCM_16"),
        (music_pb2.AUDIO_FORMAT_WAV_PCM24, "PCM_24"),
        (music_pb2.AUDIO_FORMAT_WAV_FLOAT32, "FLOAT"),
        (music_pb2.AUDIO_FORMAT_FLAC, "PCM_24"),
        (music_pb2.AUDIO_FORMAT_MP3, "MPEG_LAYER_III"),
        (music_pb2.AUDIO_FORMAT_OGG_VORBIS, "VORBIS"),
        (music_pb2.AUDIO_FORMAT_OGG_OPUS, "OPUS"),
    ],
    ids=name,
)
def test_a_file_has_the_format_asked_for(audio_format: music_pb2.AudioFormat, subtype: str) -> None:
    with soundfile.SoundFile(io.BytesIO(write(audio_format, chord(RATE), []))) as file:
        assert file.subtype == subtype


@pytest.mark.parametrize("audio_format", NOT_WAV, ids=name)
@pytest.mark.parametrize("length", [10, 5000, 40_000])
def test_the_receipt_is_the_comment_whatever_its_length(audio_format: music_pb2.AudioFormat, length: int) -> None:
    receipt = RECEIPT.replace("prompt", "x" * length)
    with soundfile.SoundFile(io.BytesIO(write(audio_format, chord(RATE), [], receipt))) as file:
        assert file.comment == receipt
        assert file.frames == RATE


def test_a_receipt_that_opus_cannot_hold_leaves_a_file_that_opens() -> None:
    waveform = chord(RATE)
    file = write(music_pb2.AUDIO_FORMAT_OGG_OPUS, waveform, [], '{"lyrics":"' + "x" * 100_000 + '"}')
    assert soundfile.info(io.BytesIO(file)).frames == RATE


@pytest.mark.parametrize("audio_format", WAV, ids=name)
@pytest.mark.parametrize("receipt", [RECEIPT, RECEIPT + " ", "{}" + " " * 3001, ""], ids=["odd", "even", "long", "none"])
def test_wav_keeps_its_promised_size_whatever_the_receipt(audio_format: music_pb2.AudioFormat, receipt: str) -> None:
    writer = open_writer(audio_format, RATE, 999, receipt)
    first = writer.write(chord(999))
    file = first + writer.close()
    assert comment_of_wav(file) == receipt
    assert struct.unpack("<I", first[4:8])[0] == len(file) - 8
    with soundfile.SoundFile(io.BytesIO(file)) as opened:
        assert opened.frames == 999
        assert opened.comment == (receipt if len(receipt) < 2000 else "")


@pytest.mark.parametrize("audio_format", [*WAV, music_pb2.AUDIO_FORMAT_FLAC, music_pb2.AUDIO_FORMAT_MP3], ids=name)
def test_the_same_song_is_the_same_file(audio_format: music_pb2.AudioFormat) -> None:
    assert write(audio_format, chord(9000), []) == write(audio_format, chord(9000), [])


@pytest.mark.parametrize("audio_format", WAV, ids=name)
def test_wav_bytes_come_with_each_piece_and_do_not_depend_on_the_cuts(audio_format: music_pb2.AudioFormat) -> None:
    waveform = chord(5000)
    writer = open_writer(audio_format, RATE, 5000, RECEIPT)
    assert len(writer.write(waveform[:, :1000])) > 1000 * 4
    assert write(audio_format, waveform, []) == write(audio_format, waveform, [1, 2, 777, 4999])


@pytest.mark.parametrize("audio_format", [audio_format for audio_format in FORMATS if audio_format != music_pb2.AUDIO_FORMAT_MP3], ids=name)
@pytest.mark.parametrize("num_samples", [4 * RATE, 40 * 4096, 160 * 960])  # also whole blocks of flac and of opus
def test_bytes_that_have_left_are_those_of_the_file(audio_format: music_pb2.AudioFormat, num_samples: int) -> None:
    waveform = chord(num_samples)
    writer = open_writer(audio_format, RATE, num_samples, RECEIPT)
    pieces = [writer.write(piece) for piece in np.array_split(waveform, 8, axis=1)]
    assert sum(len(piece) > 0 for piece in pieces) > 2
    end = writer.close()
    assert 0 < len(end) < sum(map(len, pieces))
    with soundfile.SoundFile(io.BytesIO(b"".join(pieces) + end)) as file:
        assert file.frames == num_samples
        assert file.comment == RECEIPT
        assert len(file.read()) == num_samples
    with soundfile.SoundFile(io.BytesIO(b"".join(pieces))) as file:  # a listener need not wait for the end
        assert len(file.read(num_samples // 4)) == num_samples // 4


def test_a_flac_file_states_its_length_from_its_first_byte_on_whatever_the_cuts() -> None:
    waveform = chord(3 * RATE)
    whole = write(music_pb2.AUDIO_FORMAT_FLAC, waveform, [])
    assert write(music_pb2.AUDIO_FORMAT_FLAC, waveform, [1, 4096, 100_000]) == whole
    assert int.from_bytes(whole[18:26], "big") & (1 << 36) - 1 == 3 * RATE
    assert whole[26:42] == bytes(16)


@pytest.mark.parametrize("audio_format", [music_pb2.AUDIO_FORMAT_FLAC, music_pb2.AUDIO_FORMAT_OGG_VORBIS], ids=name)
def test_a_write_that_fails_when_bytes_have_left_is_an_error_of_its_own(audio_format: music_pb2.AudioFormat) -> None:
    writer = open_writer(audio_format, RATE, 4 * RATE, RECEIPT)
    with pytest.raises(EncodingFailed):
        writer.write(chord(10)[:1])  # one channel
    assert writer.write(chord(2 * RATE))
    with pytest.raises(EncodingBroken):
        writer.write(chord(10)[:1])


@pytest.mark.parametrize("audio_format", WAV, ids=name)
def test_wav_without_samples_is_a_file(audio_format: music_pb2.AudioFormat) -> None:
    writer = open_writer(audio_format, RATE, 0, RECEIPT)
    with soundfile.SoundFile(io.BytesIO(writer.close())) as file:
        assert file.frames == 0


@pytest.mark.parametrize("audio_format", [audio_format for audio_format in FORMATS if audio_format != WAV[2]], ids=name)
def test_what_exceeds_full_scale_is_clipped_and_never_wraps(audio_format: music_pb2.AudioFormat) -> None:
    waveform = 3 * chord(RATE)
    samples, _ = soundfile.read(io.BytesIO(write(audio_format, waveform, [])), dtype="float32")
    loud = np.abs(waveform.T) > 1.2
    assert np.mean(np.sign(samples[loud]) == np.sign(waveform.T[loud])) > 0.999  # opus rings at the onset
    assert np.median(np.abs(samples[loud])) > 0.9


def test_float_samples_keep_their_overshoot() -> None:
    waveform = 3 * chord(RATE)
    samples, _ = soundfile.read(io.BytesIO(write(WAV[2], waveform, [])), dtype="float32")
    np.testing.assert_array_equal(samples.T, waveform)


@pytest.mark.parametrize(("audio_format", "bits"), [(WAV[0], 16), (WAV[1], 24), (music_pb2.AUDIO_FORMAT_FLAC, 24)], ids=name)
def test_integers_are_rounded_to_the_nearest(audio_format: music_pb2.AudioFormat, bits: int) -> None:
    step = 2.0 ** (1 - bits)
    steps = np.array([0, 1, -1, 2, -3, 1234567 % 2 ** (bits - 2), -(2 ** (bits - 4))] * 100)
    waveform = np.stack([(steps + 0.4) * step, (steps - 0.4) * step]).astype(np.float32)
    samples, _ = soundfile.read(io.BytesIO(write(audio_format, waveform, [])), dtype="int32")
    np.testing.assert_array_equal(samples >> (32 - bits), np.stack([steps, steps]).T)


def message(**changes: object) -> vae_pb2.DecodeLatentsResponse:
    fields = {"data_type": tensor_pb2.DATA_TYPE_FLOAT32, "shape": [2, 3], "data": np.arange(6, dtype="<f4").tobytes()}
    return vae_pb2.DecodeLatentsResponse(waveform=tensor_pb2.Tensor(**(fields | changes)))  # type: ignore[arg-type]


def test_a_waveform_is_two_channels_of_floats() -> None:
    np.testing.assert_array_equal(read_waveform(message()), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    "changes",
    [
        {"data_type": tensor_pb2.DATA_TYPE_BFLOAT16},
        {"shape": [1, 6]},
        {"shape": [6]},
        {"shape": [2, 4]},
        {"data": b""},
        *[{"data": np.array([0, 0, value, 0, 0, 0], dtype="<f4").tobytes()} for value in (math.nan, math.inf, -math.inf)],
    ],
)
def test_a_waveform_that_is_no_sound_is_an_error(changes: dict[str, object]) -> None:
    with pytest.raises(StageError):
        read_waveform(message(**changes))
