import dataclasses

import numpy as np
import pytest
import soundfile
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.batches import Bucket
from training.recipes import Recipe
from training.samples import SampleSettings, mel_picture
from training.shards import PreparedSong, write_manifest, write_shard
from training.text_to_music import Objective
from training.train import train

QUICK = SampleSettings(infer_step=2, guidance_scale=2.0, cfg_type="cfg", omega_scale=0.0)


@pytest.fixture(scope="module")
def run(full_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    songs = [
        PreparedSong(f"song{i}", draw(8, 16, 12 + 8 * i), (draw(3, 64),), ("funk, 105 bpm",), torch.tensor([261, 5, 2]), torch.zeros(512))
        for i in range(2)
    ]
    write_manifest(folder / "dataset", [write_shard(folder / "dataset", songs)], {})
    recipe = Recipe(
        dataset_path=folder / "dataset",
        checkpoint_dir=full_checkpoint,
        objective=Objective(learning_rate=1e-2, warmup_steps=1, ema_decay=0.5),
        buckets=(Bucket(16, 2),),
        max_steps=2,
        precision="32",
        num_workers=0,
        every_n_train_steps=2,
        every_plot_step=2,
        samples=QUICK,
        logger_dir=folder,
        exp_name="run",
    )
    train(recipe)
    train(dataclasses.replace(recipe, exp_name="silent", every_plot_step=0))
    return folder / "run"


def test_samples_are_written_at_the_start_and_every_so_many_steps(run):
    assert sorted(path.name for path in (run / "eval_results").iterdir()) == ["step_0", "step_2"]
    names = {path.name.rpartition("_song")[0] for path in (run / "eval_results/step_2").iterdir()}
    assert names == {"target_wav", "pred_wav", "mel", "key_prompt_lyric"}


def test_a_sample_is_as_long_as_its_song(run):
    for key, frames in (("song0", 12), ("song1", 16)):  # the bucket cuts the second
        (path,) = (run / "eval_results/step_2").glob(f"pred_wav_{key}_*.wav")
        samples, rate = soundfile.read(path)
        target, _ = soundfile.read(next(path.parent.glob(f"target_wav_{key}_*.wav")))
        assert rate == 44_100
        assert len(samples) == len(target) == frames * 4096


def test_the_text_says_what_was_asked_for(run):
    (path,) = (run / "eval_results/step_0").glob("key_prompt_lyric_song0_*.txt")
    text = path.read_text()
    assert text.startswith("# KEY\nsong0\n\n# PROMPT\nfunk, 105 bpm\n\n# LYRIC\n")
    assert "# SEED\n12" in text


def test_samples_change_with_the_weights_and_targets_do_not(run):
    def read(step: int, kind: str) -> np.ndarray:
        (path,) = (run / f"eval_results/step_{step}").glob(f"{kind}_wav_song0_*.wav")
        return soundfile.read(path)[0]

    assert np.array_equal(read(0, "target"), read(2, "target"))
    assert not np.array_equal(read(0, "pred"), read(2, "pred"))


def test_tensorboard_has_pictures_audio_and_prompts(run):
    events = EventAccumulator(str(run)).Reload().Tags()
    assert {tag.partition("/")[0] for tag in events["images"]} == {"mel"}
    assert {tag.partition("/")[0] for tag in events["audio"]} == {"target", "pred"}


def test_samples_do_not_change_training(run):
    """The random numbers of a step come from its number, and the weights are put back."""
    states = [torch.load(run.parent / name / "last.ckpt", weights_only=True) for name in ("run", "silent")]
    for part in ("state_dict", "averaged"):
        assert all(torch.equal(tensor, states[1][part][name]) for name, tensor in states[0][part].items())


def test_a_picture_has_a_row_for_each_waveform():
    one, two = torch.randn(2, 44_100), torch.zeros(2, 44_100)
    assert mel_picture({"a": one, "b": two}).shape[0] == 2 * mel_picture({"a": one}).shape[0]
