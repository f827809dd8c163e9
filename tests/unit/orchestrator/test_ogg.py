import io
import struct
import time

import numpy as np
import pytest
import soundfile

from acestep_rpc.v1 import music_pb2
from orchestrator.audio import open_writer
from orchestrator.ogg import with_serial

FORMATS = (music_pb2.AUDIO_FORMAT_OGG_VORBIS, music_pb2.AUDIO_FORMAT_OGG_OPUS)


def write(audio_format: music_pb2.AudioFormat, receipt: str = "{}") -> bytes:
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 48000)).astype(np.float32)
    writer = open_writer(audio_format, 48000, 48000, receipt)
    return writer.write(waveform) + writer.close()


def checksum(page: bytes) -> int:
    """As RFC 3533 has it, bit by bit."""
    remainder = 0
    for byte in page[:22] + bytes(4) + page[26:]:
        remainder ^= byte << 24
        for _ in range(8):
            remainder = (remainder << 1 ^ (0x104C11DB7 if remainder >> 31 else 0)) & 0xFFFFFFFF
    return remainder


def pages(data: bytes) -> list[bytes]:
    """Whole pages, found by their lengths."""
    found = []
    while data:
        size = 27 + data[26] + sum(data[27 : 27 + data[26]])
        found.append(data[:size])
        data = data[size:]
    return found


@pytest.mark.parametrize("audio_format", FORMATS)
def test_the_same_song_is_the_same_file_whenever_it_is_written(audio_format: music_pb2.AudioFormat) -> None:
    first = write(audio_format)
    time.sleep(0.01)
    assert write(audio_format) == first
    assert write(audio_format, '{"seed":1}') != first


@pytest.mark.parametrize("audio_format", FORMATS)
@pytest.mark.parametrize("serial", [0, 1, 0x80000001, 2**32 - 1])
def test_every_page_has_the_number_and_its_checksum(audio_format: music_pb2.AudioFormat, serial: int) -> None:
    data = with_serial(write(audio_format), serial)
    for page in pages(data):
        assert struct.unpack_from("<I", page, 14)[0] == serial
        assert struct.unpack_from("<I", page, 22)[0] == checksum(page)
    assert soundfile.read(io.BytesIO(data))[0].shape == (48000, 2)
