import os
import pickle
import struct

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from encoder_svc.lyrics.lyric_tokenizer import LyricTokenizer
from training.init_tokenizers import LYRIC_VOCABULARY_SIZE
from training.records import Record
from training.report import Outcome
from training.songs import Limits, load_song


@pytest.fixture
def tokenizer(full_checkpoint):
    return LyricTokenizer(full_checkpoint / "lyric_vocab.json", LYRIC_VOCABULARY_SIZE)


@pytest.fixture
def load(tmp_path, tokenizer, write_tone):
    """Load a song that is fine but for the values given."""

    def load_changed(limits=Limits(), **values):  # noqa: B008
        good = {"filename": str(write_tone(tmp_path / "good.wav")), "norm_lyrics": "[verse]\nhello"}
        return load_song(Record("song", **{**good, **values}), limits, tokenizer)

    return load_changed


def rejection(result):
    song, problems = result
    assert song is None
    (problem,) = problems
    assert (problem.key, problem.outcome) == ("song", Outcome.REJECTED)
    return f"{problem.field}: {problem.reason}: {problem.detail}"


def write_three_hours(path):
    """A sparse file: 8 kHz, 8 bit, a tone in front."""
    rate, seconds = 8000, 3 * 3600
    tone = (128 + 90 * np.sin(np.arange(300 * rate) / 3)).astype(np.uint8).tobytes()
    size = rate * seconds
    header = b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, rate, 1, 8)
    with path.open("wb") as file:
        file.write(header + b"data" + struct.pack("<I", size) + tone)
        file.truncate(44 + size)
    return str(path)


def test_a_good_song_is_loaded_without_a_word(load):
    song, problems = load()
    assert problems == []
    assert (song.audio.waveform.shape, song.audio.sample_rate) == ((1, 8000), 8000)
    assert song.speaker.tolist() == [0.0] * 512
    assert song.lyric_ids[0] == 261


def test_missing_audio_is_named(load, tmp_path):
    assert rejection(load(filename=str(tmp_path / "no.wav"))) == f"filename: no such file: {tmp_path / 'no.wav'}"


def test_corrupted_audio_is_named(load, tmp_path, write_tone):
    whole = write_tone(tmp_path / "cut.flac", seconds=5).read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    assert rejection(load(filename=str(tmp_path / "cut.flac"))).startswith("filename: cannot be decoded")
    (tmp_path / "text.mp3").write_text("no music")
    assert rejection(load(filename=str(tmp_path / "text.mp3"))).startswith("filename: cannot be decoded")


@pytest.mark.parametrize("gain", [0.0, 3e-5])
def test_silence_is_rejected_whether_exact_or_not(load, tmp_path, gain):
    noise = gain * np.random.default_rng(0).standard_normal((16000, 2))
    soundfile.write(tmp_path / "silent.wav", noise.astype(np.float32), 16000, subtype="FLOAT")
    assert rejection(load(filename=str(tmp_path / "silent.wav"))).startswith("filename: silent: ")


def test_a_click_in_silence_is_silence(load, tmp_path):
    samples = np.zeros((16000, 2), np.float32)
    samples[:700] = 0.9
    soundfile.write(tmp_path / "click.wav", samples, 16000)
    assert "95.6% of the samples are zero" in rejection(load(filename=str(tmp_path / "click.wav")))


def test_a_tenth_of_a_second_is_too_short(load, tmp_path, write_tone):
    path = write_tone(tmp_path / "short.wav", seconds=0.1)
    assert rejection(load(filename=str(path))).startswith("filename: too short: 0.100 seconds")


def test_three_hours_are_clipped_or_rejected_as_configured(load, tmp_path):
    path = write_three_hours(tmp_path / "long.wav")
    song, (problem,) = load(filename=path)
    assert song.audio.waveform.shape == (1, 240 * 8000)
    assert problem.kind == "clipped: filename: longer than 240 seconds"
    assert rejection(load(Limits(clip_audio=False), filename=path)).startswith("filename: longer than 240 seconds")


def test_ten_thousand_tokens_are_clipped_or_rejected_as_configured(load):
    lyrics = "\n".join(["hello world"] * 2000)
    song, (problem,) = load(norm_lyrics=lyrics)
    assert len(song.lyric_ids) == 4096
    assert problem.kind == "clipped: norm_lyrics: more than 4096 tokens"
    assert int(problem.detail) >= 10_000
    assert rejection(load(Limits(clip_lyrics=False), norm_lyrics=lyrics)).startswith("norm_lyrics: more than 4096 tokens")


def test_lyrics_of_no_language_that_is_built_are_rejected(load):
    assert rejection(load(norm_lyrics="[verse]\nВетер")).startswith("norm_lyrics: cannot be read in any language that is built: line 2")


def test_everything_wrong_with_a_song_is_said_at_once(load):
    _, problems = load(filename="no.wav", norm_lyrics="Ветер", speaker_emb_path="no.npy")
    assert [problem.field for problem in problems] == ["filename", "speaker_emb_path", "norm_lyrics"]


VECTOR = torch.arange(512) / 512


def test_speakers_are_read_from_three_formats(load, tmp_path):
    np.save(tmp_path / "a.npy", VECTOR.numpy())
    save_file({"speaker": VECTOR[None].contiguous()}, tmp_path / "a.safetensors")
    torch.save(VECTOR.half(), tmp_path / "a.pt")
    for name in ("a.npy", "a.safetensors", "a.pt"):
        song, problems = load(speaker_emb_path=str(tmp_path / name))
        assert problems == []
        assert torch.equal(song.speaker, VECTOR)


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["a.npy", "a.pt", "b.pt"])
def test_no_speaker_is_unpickled(load, tmp_path, name):
    mark = tmp_path / "mark"
    if name == "a.npy":
        np.save(tmp_path / name, np.array([Trap(mark)], dtype=object))
    elif name == "a.pt":
        torch.save(Trap(mark), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(Trap(mark), protocol=2))
    assert rejection(load(speaker_emb_path=str(tmp_path / name))).startswith("speaker_emb_path: cannot be read safely")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("a.npy", np.zeros(511), "not 512 values"),
        ("a.npy", np.full(512, np.nan), "not finite"),
        ("a.npy", np.array(["x"] * 512), "not a tensor"),
        ("a.pt", {"speaker": VECTOR}, "not 512 values"),
        ("a.bin", b"x", "not a .npy, .safetensors or .pt file"),
        ("a.safetensors", b"x", "cannot be read safely"),
        ("a.npy", b"", "cannot be read safely"),
        ("a.npy", None, "no such file"),
    ],
)
def test_what_is_no_speaker_is_rejected_by_name(load, tmp_path, name, value, reason):
    path = tmp_path / name
    if isinstance(value, np.ndarray):
        np.save(path, value)
    elif isinstance(value, dict):
        torch.save(value, path)
    elif value is not None:
        path.write_bytes(value)
    assert rejection(load(speaker_emb_path=str(path))).startswith(f"speaker_emb_path: {reason}")


def test_two_tensors_are_no_speaker(load, tmp_path):
    save_file({"a": VECTOR, "b": VECTOR + 1}, tmp_path / "a.safetensors")
    assert rejection(load(speaker_emb_path=str(tmp_path / "a.safetensors"))).startswith("speaker_emb_path: cannot be read safely")
