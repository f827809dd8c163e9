from pathlib import Path

import pytest
import torch
from transformers import HubertConfig, HubertModel

from encoder_svc.encoder import NullCondition, PromptEncoder
from encoder_svc.known_tags import KnownTags
from training.init_checkpoint import ARCHITECTURES
from training.preparation import Preparer, Settings, caption_candidates, training_waveform
from training.records import Record
from training.report import Outcome
from training.songs import Limits
from training.ssl_extractors import ExtractorError, load_extractor
from vae_svc.audio_file import read_audio
from vae_svc.weights import load_codec

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def hubert(tmp_path_factory):
    """A tiny random HuBERT with the strides of the official encoders."""
    folder = tmp_path_factory.mktemp("hubert")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        HubertModel(HubertConfig(**sizes, conv_dim=(4,) * 7, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)).save_pretrained(
            folder
        )
    return folder


@pytest.fixture(scope="module")
def preparer(full_checkpoint, hubert):
    return Preparer(Settings(full_checkpoint, Limits(max_seconds=4), extractors={"m-hubert": hubert}))


@pytest.fixture(scope="module")
def record(tmp_path_factory, write_tone):
    audio = write_tone(tmp_path_factory.mktemp("audio") / "a.wav", seconds=3.5, rate=16000)
    return Record("a", str(audio), ("pop", "slow"), "", "[verse]\nhello", {"simplified": "tune"})


@pytest.fixture(scope="module")
def song(preparer, record):
    song, problems = preparer.prepare(record)
    assert problems == []
    return song


def test_tags_come_first_among_the_captions_and_none_comes_twice():
    record = Record("a", "a.wav", ("pop", "slow"), recaption={"simplified": "pop, slow", "expanded": "x" * 300})
    assert caption_candidates(record, 1) == ("pop, slow", "x" * 256)
    assert caption_candidates(Record("a", "a.wav"), 3) == ("music",)


def test_shuffled_tags_are_further_captions_the_same_each_time():
    record = Record("a", "a.wav", tuple("abcdef"))
    captions = caption_candidates(record, 4)
    assert captions == caption_candidates(record, 4)
    assert captions[0] == "a, b, c, d, e, f"
    assert len(set(captions)) == 4
    assert all(sorted(caption.split(", ")) == list("abcdef") for caption in captions)
    assert caption_candidates(Record("b", "a.wav", tuple("abcdef")), 4)[1:] != captions[1:]


def test_training_hears_stereo_at_48_khz_clamped_and_at_least_three_seconds_long():
    wave = training_waveform(torch.full((1, 8000), 3.0), 8000, 240)
    assert wave.shape == (2, 3 * 48000)
    assert wave.abs().max() == 1
    assert not wave[:, 48000:].any()
    assert torch.equal(wave[0], wave[1])
    assert training_waveform(torch.rand(2, 5 * 48000), 48000, 4).shape == (2, 4 * 48000)


def test_latents_are_those_of_the_codec(song, full_checkpoint, record):
    waveform = read_audio(Path(record.filename), 4).waveform
    codec = load_codec(full_checkpoint, CPU, torch.float32).codec
    expected = codec.encode(training_waveform(waveform, 16000, 4), 48000)
    assert song.latents.dtype == torch.float16
    assert song.num_frames == -(-3.5 * 44100 // 4096)
    torch.testing.assert_close(song.latents.float(), expected, atol=1e-3, rtol=1e-3)  # 16-bit states


def test_texts_and_lyrics_are_those_of_a_request(song, full_checkpoint):
    encoder = PromptEncoder.load(full_checkpoint, CPU, torch.float32)
    assert song.captions == ("pop, slow", "tune")
    for caption, text in zip(song.captions, song.texts, strict=True):
        expected = encoder.encode(caption, [], NullCondition.NONE).text_hidden_states
        torch.testing.assert_close(text.float(), expected, atol=1e-3, rtol=1e-3)  # 16-bit states
    assert song.lyric_ids[0] == 261
    assert song.speaker.shape == (ARCHITECTURES["tiny"].transformer["speaker_embedding_dim"],)


def test_captions_beyond_the_text_encoders_limit_are_cut(preparer, record):
    song, _ = preparer.prepare(Record("a", record.filename, ("楽" * 300,)))
    assert len(song.captions[0]) == 256
    assert len(song.texts[0]) == 256


def test_a_checkpoint_that_knows_some_tags_has_captions_in_its_words(preparer, record, monkeypatch):
    monkeypatch.setattr(preparer, "known_tags", KnownTags([["rock", "pop"], ["slow"]], {"tune": "pop"}))
    song, problems = preparer.prepare(Record("a", record.filename, ("slow", "kazoo", "pop"), recaption={"simplified": "tune"}))
    assert song.captions == ("pop, slow", "pop")
    assert [(problem.outcome, problem.field) for problem in problems] == [(Outcome.IGNORED, "captions")] * 2
    assert "'kazoo'" in problems[0].detail
    assert preparer.prepare(Record("a", record.filename, ("kazoo",)))[0].captions == ("",)


def test_targets_are_stored_for_the_encoders_that_are_there(song):
    assert list(song.features) == ["m-hubert"]
    frames = 3.5 * 16000 // 320
    assert abs(len(song.features["m-hubert"]) - frames) <= 1
    assert song.features["m-hubert"].shape[1] == 8


def test_states_that_16_bits_cannot_hold_reject_the_song(preparer, record, monkeypatch):
    monkeypatch.setitem(preparer.extractors, "m-hubert", lambda chunks: torch.full((len(chunks), 1500, 8), 1e6))
    song, (problem,) = preparer.prepare(record)
    assert song is None
    assert problem.kind == "rejected: networks: a state is not finite in 16 bits"
    assert problem.detail == "m-hubert"


def test_pickled_or_missing_encoders_are_refused(tmp_path, hubert):
    with pytest.raises(ExtractorError, match=str(tmp_path)):
        load_extractor(tmp_path, CPU)
    (tmp_path / "config.json").write_text((hubert / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ExtractorError, match="safetensors"):
        load_extractor(tmp_path, CPU)


def test_code_in_an_encoders_folder_is_not_run(tmp_path, hubert):
    mark = tmp_path / "mark"
    config = '{"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}}'
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "own.py").write_text(f"import pathlib; pathlib.Path({str(mark)!r}).touch()")
    with pytest.raises(ExtractorError):
        load_extractor(tmp_path, CPU)
    assert not mark.exists()
