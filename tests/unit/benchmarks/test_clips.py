import numpy as np
import pytest
import torch

from benchmarks.quality import __main__ as command
from benchmarks.quality.clips import Generator, Prompt, SamplingOptions, Sounds, load_mel, prompt_of
from benchmarks.quality.figures import BOUNDS
from training.corpus.arrangement import compose
from training.corpus.render import Renderer
from training.corpus.singer import Singer
from training.init_checkpoint import write_checkpoint

PROMPT = Prompt("funk, 108 bpm", "[verse]\nwe are here")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    write_checkpoint(folder, "tiny", seed=0)
    return folder


@pytest.fixture(scope="module")
def generator(checkpoint, tmp_path_factory):
    return Generator(checkpoint, Sounds(checkpoint, tmp_path_factory.mktemp("clips")), SamplingOptions(num_inference_steps=2))


def test_a_clip_is_the_same_alone_and_in_company(generator, checkpoint, tmp_path):
    wanted = [("a", PROMPT), ("b", Prompt("pop", ""))]
    first = load_mel(generator.generate(wanted, 1.0, 0)[1])
    alone = Generator(checkpoint, Sounds(checkpoint, tmp_path), generator.options)
    np.testing.assert_allclose(load_mel(alone.generate(wanted[1:], 1.0, 0)[0]), first, atol=1e-2)  # kept as float16


def test_seeds_prompts_and_options_have_clips_of_their_own(generator):
    paths = {
        generator.path("a", PROMPT, 1.0, 0),
        generator.path("a", PROMPT, 1.0, 1),
        generator.path("a", PROMPT, 2.0, 0),
        generator.path("a", Prompt("funk, 92 bpm", PROMPT.lyrics), 1.0, 0),
        generator.path("b", PROMPT, 1.0, 0),
    }
    assert len(paths) == 5


def test_a_clip_that_is_there_is_not_made_again(generator, monkeypatch):
    (path,) = generator.generate([("again", PROMPT)], 1.0, 0)
    monkeypatch.setattr(generator.sampler, "start", lambda request: pytest.fail("sampled again"))
    assert generator.generate([("again", PROMPT)], 1.0, 0) == [path]


def test_the_sound_of_a_clip_is_as_long_as_its_mel(generator):
    (path,) = generator.generate([("sound", PROMPT)], 1.0, 0)
    waveform = generator.sounds.waveform(path)
    assert waveform.shape == (load_mel(path).shape[1] * 512,)
    assert np.abs(waveform).max() <= 1


def test_a_decoded_mel_is_the_one_that_the_vocoder_is_given(generator):
    codec = generator.sounds.codec
    latents = torch.randn(8, 16, 10, generator=torch.Generator().manual_seed(0))
    mel = codec.decode_mel(latents)
    through = torch.cat(list(codec.vocoder.stream(lambda start, stop: mel[..., start:stop], [(0, 80)])), dim=-1)
    torch.testing.assert_close(through, torch.cat(list(codec.decode(latents, 44100)), dim=-1))


def test_another_tempo_changes_the_tempo_alone():
    song = compose(0, 0)
    before, after = (prompt.tags.split(", ") for prompt in (prompt_of(song), prompt_of(song, 77)))
    assert [tag for tag in after if tag not in before] == ["77 bpm"]
    assert len(before) == len(after)


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main(["--checkpoint", str(tmp_path)])
    assert "ace_step_transformer" in capsys.readouterr().err


@pytest.mark.corpus
def test_an_evaluation_prints_every_figure_and_repeats(checkpoint, tmp_path, capsys):
    sizes = "--prompts 10 --seeds 2 --sung-prompts 1 --listener-songs 12 --sung-listener-songs 2 --phone-epochs 1 --num-inference-steps 2"
    arguments = ["--checkpoint", str(checkpoint), "--output", str(tmp_path), "--seconds", "7", *sizes.split()]
    arguments += ["--metric", "tests.unit.benchmarks.test_clips:count_pairs"]
    try:
        Renderer()
        Singer(tmp_path / "voices")
    except RuntimeError as missing:
        pytest.skip(str(missing))
    assert command.main(arguments) == 0
    first = (tmp_path / "quality.json").read_text()
    printed = capsys.readouterr().out
    for name in BOUNDS:
        assert name in printed
    assert '"pairs": 10.0' in first
    assert command.main(arguments) == 0
    assert (tmp_path / "quality.json").read_text() == first


def count_pairs(generated, real):
    assert {path.name for path in generated.iterdir()} == {path.name for path in real.iterdir()}
    return {"pairs": len(list(real.iterdir()))}
