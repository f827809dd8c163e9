from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from training.audio_crops import AudioCrops, read_crop
from training.records import Record
from training.shards import DatasetError
from vae_svc.model.resample import resample

SAMPLES = 8192


def ramp(path: Path, num_samples: int, rate: int = 44_100, channels: int = 1) -> Path:
    """Each sample differs from every other: a crop says where it is from."""
    values = np.linspace(0.1, 0.9, num_samples, dtype=np.float32)
    soundfile.write(path, np.stack([values * (-1) ** channel for channel in range(channels)], axis=1), rate, subtype="FLOAT")
    return path


@pytest.fixture
def records(tmp_path) -> list[Record]:
    return [Record(f"song{i}", str(ramp(tmp_path / f"{i}.wav", 20_000 + 3000 * i, channels=1 + i % 2))) for i in range(5)]


def test_a_batch_is_a_function_of_the_seed_and_its_number(records):
    crops = AudioCrops(records, SAMPLES, 3, seed=1, quieter_db=6)
    one = crops[4]
    crops[0]
    again = AudioCrops(records, SAMPLES, 3, seed=1, quieter_db=6)[4]
    assert one.keys == again.keys
    assert torch.equal(one.waveforms, again.waveforms)
    assert not torch.equal(one.waveforms, crops[5].waveforms)
    assert not torch.equal(one.waveforms, AudioCrops(records, SAMPLES, 3, seed=2, quieter_db=6)[4].waveforms)
    assert one.waveforms.shape == (3, 2, SAMPLES)
    assert len(set(one.keys)) == 3
    assert one.audio_seconds == pytest.approx(3 * SAMPLES / 44_100)


def test_crops_are_from_anywhere_in_a_song(tmp_path):
    path = ramp(tmp_path / "song.wav", 100_000)
    starts = [read_crop(path, where, SAMPLES)[0, 0].item() for where in (0, 0.5, 0.999999)]
    assert starts == pytest.approx([0.1, 0.1 + 0.8 * (100_000 - SAMPLES) / 200_000, 0.1 + 0.8 * (1 - SAMPLES / 100_000)], abs=1e-4)


def test_mono_is_doubled_and_a_mono_batch_has_one_of_two_channels(tmp_path, records):
    both = read_crop(Path(records[0].filename), 0, SAMPLES)
    assert torch.equal(both[0], both[1])
    signs = {bool(AudioCrops(records[1:2], SAMPLES, 1, 0, mono=True)[number].waveforms[0, 0, 0] > 0) for number in range(20)}
    assert signs == {True, False}


def test_another_rate_is_resampled(tmp_path):
    generator = np.random.default_rng(0)
    values = generator.uniform(-0.5, 0.5, 9000).astype(np.float32)
    soundfile.write(tmp_path / "song.wav", values, 22_050, subtype="FLOAT")
    crop = read_crop(tmp_path / "song.wav", 0, SAMPLES)
    expected = resample(torch.from_numpy(values[: SAMPLES // 2])[None], 22_050, 44_100)
    torch.testing.assert_close(crop[:1], expected)


def test_a_short_song_ends_in_zeros(tmp_path):
    crop = read_crop(ramp(tmp_path / "song.wav", 7000), 0.7, SAMPLES)
    assert crop[:, :7000].abs().min() > 0.09
    assert not crop[:, 7000:].any()


def test_gains_are_within_their_range(records):
    quiet = AudioCrops(records, SAMPLES, 5, seed=0, quieter_db=6)[0].waveforms
    loud = AudioCrops(records, SAMPLES, 5, seed=0)[0].waveforms
    gains = (quiet / loud).amax(dim=(1, 2))
    assert bool(((gains >= 10 ** (-6 / 20)) & (gains <= 1)).all())
    assert gains.unique().numel() == 5


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b"RIFF"), "cannot be decoded"),
        (lambda path: soundfile.write(path, np.zeros((9000, 1)), 44_100), "silent from 0.0 to 0.2 seconds"),
        (lambda path: soundfile.write(path, np.full((9000, 3), 0.1), 44_100), "3 channels"),
        (lambda path: soundfile.write(path, np.full((900, 1), 0.1), 4000), "4000 Hz"),
        (lambda path: soundfile.write(path, np.full((100, 1), 0.1), 44_100), "too short, 0.002 seconds"),
        (lambda path: soundfile.write(path, np.full((9000, 1), np.nan), 44_100, subtype="FLOAT"), "samples up to nan"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(make, reason, tmp_path):
    make(tmp_path / "song.wav")
    with pytest.raises(DatasetError, match=reason):
        read_crop(tmp_path / "song.wav", 0, SAMPLES)


def test_a_file_that_is_cut_off_is_refused_where_it_ends(tmp_path):
    path = tmp_path / "song.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 400_000), 44_100)
    path.write_bytes(path.read_bytes()[:300_000])
    assert read_crop(path, 0, SAMPLES).shape == (2, SAMPLES)
    with pytest.raises(DatasetError, match="song.flac"):
        read_crop(path, 0.99, SAMPLES)


def test_bad_songs_are_reported_once_and_replaced(records, caplog):
    bad = Record("bad", "missing.wav")
    crops = AudioCrops([*records, bad], SAMPLES, 5, seed=0)
    assert all(len(crops[number].keys) == 5 and "bad" not in crops[number].keys for number in range(8))
    assert caplog.text.count("bad: no such file") == 1
    with pytest.raises(DatasetError, match="no song can be read:\nbad: no such file: missing.wav"):
        AudioCrops([bad], SAMPLES, 5, seed=0)[0]
