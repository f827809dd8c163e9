import io

import numpy as np
import pytest
import soundfile
from PIL import Image

from acestep_rpc.errors import InvalidRequest
from clients.web import typed_lists
from clients.web.analysis import describe, mel_picture, peaks

RATE = 48000


def tone(hertz: float, seconds: float = 2.0):
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32) * 0.5


def test_peaks_show_where_it_is_loud():
    found = np.array(peaks(np.concatenate([tone(440) * 0, tone(440)])))
    assert len(found) == 1000
    assert found[:495].max() == 0
    assert found[505:] == pytest.approx(0.5, abs=0.01)
    assert peaks(np.zeros(0, np.float32)) == []


@pytest.mark.parametrize("seconds", [0.01, 3.0])
def test_a_higher_tone_is_higher_in_the_picture(seconds):
    rows = []
    for hertz in (300, 3000):
        picture = np.array(Image.open(io.BytesIO(mel_picture(tone(hertz, seconds), RATE)))).astype(float).sum(axis=-1)
        assert picture.shape == (96, 1000)
        rows.append(int(picture.mean(axis=1).argmax()))
    assert rows[1] < rows[0]


def test_silence_can_be_drawn_and_files_are_described(tmp_path):
    assert mel_picture(np.zeros(RATE, np.float32), RATE).startswith(b"\x89PNG")
    soundfile.write(tmp_path / "song.flac", np.stack([tone(440), tone(440)], axis=1), RATE)
    assert describe(tmp_path / "song.flac")["duration"] == pytest.approx(2.0)


def test_lists_are_read_as_people_type_them():
    assert typed_lists.whole_numbers("seeds", " 7, 8;9  10 ") == [7, 8, 9, 10]
    assert typed_lists.time_ranges("r", "10-14.5, 20-24") == [(10, 14.5), (20, 24)]
    assert typed_lists.adapter_list("a", "rap:0.8, choir") == [("rap", 0.8), ("choir", 1.0)]
    for read, text in ((typed_lists.whole_numbers, "1.5"), (typed_lists.time_ranges, "10"), (typed_lists.adapter_list, "rap:loud")):
        with pytest.raises(InvalidRequest, match="is not allowed"):
            read("field", text)
