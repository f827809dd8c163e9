import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.unit.training.tiny_audio_run import CODEC, VOCODER, codec_recipe, train, vocoder_recipe, write_songs
from training.codec_checkpoint import export, trainable_dcae, trainable_vocoder
from training.codec_training import CodecTraining, latent_loss
from training.vocoder_training import main as vocoder_main
from vae_svc.model.griffin_lim import MelGriffinLim
from vae_svc.weights import CheckpointError, load_codec

CPU = torch.device("cpu")
MAKE = {"codec": codec_recipe, "vocoder": vocoder_recipe}
ADVERSARIAL_FROM = {"codec": CODEC["adversarial_from"], "vocoder": VOCODER["adversarial_from"]}
FOLDERS = {"codec": "music_dcae_f8c8", "vocoder": "music_vocoder"}
KINDS = pytest.mark.parametrize("kind", ["codec", "vocoder"])
# Gradients of two processes are averaged in another order than one process sums them; AdamW then steps by the learning rate, 1e-3, however
# small a gradient is.
DISTRIBUTED = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of float32 depend on the number of threads, and the runs in other processes have one."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_songs(tmp_path_factory.mktemp("songs"))


@pytest.fixture(scope="module")
def runs(dataset, full_checkpoint, tmp_path_factory) -> Path:
    """An uninterrupted run of each kind, with samples."""
    logs = tmp_path_factory.mktemp("runs")
    for make in MAKE.values():
        train(make(dataset, full_checkpoint, logs, every_plot_step=3, sample_seconds=0.4))
    return logs


def state(folder: Path) -> dict[str, torch.Tensor]:
    """Everything that was trained: weights, discriminators, averages."""
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    return {**saved["state_dict"], **{f"averaged {name}": tensor for name, tensor in saved["averaged"].items()}}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@KINDS
def test_two_identical_runs_give_identical_weights(kind, dataset, full_checkpoint, runs, tmp_path):
    assert_equal(state(runs / kind), state(train(MAKE[kind](dataset, full_checkpoint, tmp_path))))


def test_a_run_that_its_time_ended_and_that_is_resumed_equals_the_uninterrupted_one(dataset, full_checkpoint, runs, tmp_path):
    recipe = vocoder_recipe(dataset, full_checkpoint, tmp_path)
    for step in (1, 2):  # before and inside the adversarial phase
        folder = train(recipe, tmp_path / "vocoder/last.ckpt" if step > 1 else None, max_time=0)
        assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == step
    assert_equal(state(runs / "vocoder"), state(train(recipe, folder / "last.ckpt")))


def test_time_ends_a_run_between_steps(dataset, full_checkpoint, tmp_path):
    whole = codec_recipe(dataset, full_checkpoint, tmp_path, accumulate_grad_batches=3, exp_name="whole", max_steps=4)
    cut = dataclasses.replace(whole, exp_name="cut")
    folder = train(cut, max_time=0)
    assert not (folder / "checkpoints/step=4").exists()
    assert_equal(state(train(whole)), state(train(cut, folder / "last.ckpt")))


def command(kind: str, dataset: Path, checkpoint: Path, logs: Path, **options: object) -> list[str]:
    given = {"kind": kind, "dataset": str(dataset), "checkpoint": str(checkpoint), "logs": str(logs), **options}
    return [sys.executable, "-m", "tests.unit.training.tiny_audio_run", json.dumps(given)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}


def test_a_killed_run_that_is_resumed_equals_the_uninterrupted_one(dataset, full_checkpoint, runs, tmp_path):
    with subprocess.Popen(command("codec", dataset, full_checkpoint, tmp_path), env=environment(), stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "codec/checkpoints/step=4").exists():
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "codec/checkpoints/step=6").exists()
    assert_equal(state(runs / "codec"), state(train(codec_recipe(dataset, full_checkpoint, tmp_path), tmp_path / "codec/last.ckpt")))


def test_two_processes_equal_one_that_accumulates(dataset, full_checkpoint, tmp_path):
    one = state(train(codec_recipe(dataset, full_checkpoint, tmp_path, accumulate_grad_batches=2, exp_name="one")))
    line = command("codec", dataset, full_checkpoint, tmp_path, devices=2, exp_name="two")
    subprocess.run(line, check=True, capture_output=True, env=environment())
    two = state(tmp_path / "two")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, **DISTRIBUTED)


@KINDS
def test_lightning_counts_the_steps_of_the_network_alone(kind, runs):
    saved = torch.load(runs / kind / "last.ckpt", weights_only=True)
    own, opponents = saved["optimizer_states"]
    assert saved["global_step"] == 6
    assert {int(entry["step"]) for entry in opponents["state"].values()} == {6 - ADVERSARIAL_FROM[kind]}
    assert max(int(entry["step"]) for entry in own["state"].values()) == 6


def test_the_encoder_stays_as_it_is_while_the_decoder_has_an_opponent(runs):
    before, after = (
        load_file(runs / f"codec/checkpoints/step={step}/music_dcae_f8c8/diffusion_pytorch_model.safetensors") for step in (3, 6)
    )
    assert any(not torch.equal(tensor, after[name]) for name, tensor in before.items() if name.startswith("decoder."))
    saved = torch.load(runs / "codec/last.ckpt", weights_only=True)
    names = [name for name in saved["state_dict"] if name.startswith("network.")]
    steps = {name: int(saved["optimizer_states"][0]["state"][index]["step"]) for index, name in enumerate(names)}
    assert {count for name, count in steps.items() if name.startswith("network.encoder.")} == {CODEC["adversarial_from"]}
    assert {count for name, count in steps.items() if name.startswith("network.decoder.")} == {6}


@KINDS
def test_checkpoints_are_served_as_they_are(kind, runs, full_checkpoint):
    """The trained network is the run's average, the others are the source's."""
    written = runs / kind / "checkpoints/step=6"
    codec, source = (load_codec(folder, CPU, torch.float32).codec for folder in (written, full_checkpoint))
    waveform = torch.from_numpy(soundfile.read(runs / kind / "eval_results/step_3/target_wav_song3_1.wav", dtype="float32")[0])
    latents = codec.encode(waveform.reshape(len(waveform), -1).T, 44_100)
    assert torch.cat(list(codec.decode(latents, 44_100)), dim=-1).isfinite().all()
    assert torch.equal(latents, source.encode(waveform.reshape(len(waveform), -1).T, 44_100)) == (kind == "vocoder")
    ours = {str(path.relative_to(written)) for path in written.rglob("*")}
    assert ours == {str(path.relative_to(full_checkpoint)) for path in full_checkpoint.rglob("*")}


@KINDS
def test_a_network_comes_back_from_its_checkpoint_as_it_was(kind, full_checkpoint, dataset, tmp_path):
    build = {"codec": trainable_dcae, "vocoder": trainable_vocoder}[kind]
    recipe = MAKE[kind](dataset, full_checkpoint, tmp_path)
    network = build(recipe)
    export(network, full_checkpoint, tmp_path / "written")
    again = build(dataclasses.replace(recipe, checkpoint_dir=tmp_path / "written"))
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor)  # folding weight normalisation rounds
    config = json.loads((tmp_path / "written" / FOLDERS[kind] / "config.json").read_text())
    source = json.loads((full_checkpoint / FOLDERS[kind] / "config.json").read_text())
    assert {name: config[name] for name in source if not name.startswith("_") and name != "drop_path_rate"} == {
        name: value for name, value in source.items() if not name.startswith("_") and name != "drop_path_rate"
    }


@KINDS
def test_samples_are_the_same_songs_every_time(kind, runs):
    folder = runs / kind / "eval_results"
    assert {path.name for path in folder.iterdir()} == {"step_0", "step_3", "step_6"}
    for path in (folder / "step_0").glob("*.wav"):
        now, then = (soundfile.read(folder / step / path.name)[0] for step in ("step_0", "step_6"))
        assert np.array_equal(now, then) == path.name.startswith("target")
    events = EventAccumulator(str(runs / kind)).Reload().Tags()
    assert {tag.partition("/")[0] for tag in events["audio"]} == {"target", "pred"}
    assert "samples/mel_l1" in events["scalars"]


def test_training_lowers_the_error(dataset, full_checkpoint, tmp_path):
    steps = {"max_steps": 30, "every_n_train_steps": 30, "every_plot_step": 30, "adversarial_from": -1, "ema_decay": 0.0}
    for kind, make in MAKE.items():
        recipe = make(dataset, full_checkpoint, tmp_path, learning_rate=1e-2, sample_seconds=0.4, from_scratch="tiny", **steps)
        errors = [event.value for event in EventAccumulator(str(train(recipe))).Reload().Scalars("samples/mel_l1")]
        assert errors[-1] < 0.6 * errors[0], (kind, errors)


def test_the_latent_loss_is_zero_for_unit_latents():
    unit = torch.randn(4, 8, 16, 200)
    assert latent_loss(unit) < 1e-3
    assert latent_loss(2 * unit) == pytest.approx(1, abs=0.05)
    assert latent_loss(unit + 1) == pytest.approx(1, abs=0.05)


def test_bad_songs_are_named_and_skipped(dataset, full_checkpoint, tmp_path, caplog):
    songs = write_songs(tmp_path / "songs")
    (tmp_path / "songs/song1.flac").write_bytes(b"no audio")
    (tmp_path / "songs/song2.flac").unlink()
    train(codec_recipe(songs, full_checkpoint, tmp_path, max_steps=2))
    assert "song1: cannot be decoded" in caplog.text
    assert "song2: no such file" in caplog.text
    for path in (tmp_path / "songs").glob("*.flac"):
        path.write_bytes(b"no audio")
    with pytest.raises(ValueError, match="no song can be read:\nsong"):
        train(codec_recipe(songs, full_checkpoint, tmp_path, exp_name="nothing"))
    assert not (tmp_path / "nothing").exists()


def test_a_vocoder_without_weights_is_not_trained(full_checkpoint, dataset, tmp_path, capsys):
    checkpoint = tmp_path / "checkpoint"
    (checkpoint / "music_vocoder").mkdir(parents=True)
    (checkpoint / "music_vocoder/config.json").write_text(json.dumps({"_class_name": MelGriffinLim.class_name}))
    assert vocoder_main(["--dataset_path", str(dataset), "--checkpoint_dir", str(checkpoint)]) == 1
    assert "MelGriffinLim has no weights to train: start with --from_scratch" in capsys.readouterr().err
    recipe = vocoder_recipe(dataset, checkpoint, tmp_path, from_scratch="tiny")
    config = tmp_path / "config.json"
    config.write_text((full_checkpoint / "music_vocoder/config.json").read_text())
    one, other = (trainable_vocoder(dataclasses.replace(recipe, from_scratch=size)).state_dict() for size in ("tiny", str(config)))
    assert_equal(one, other)
    with pytest.raises(CheckpointError, match="from_scratch is 'huge'"):
        trainable_vocoder(dataclasses.replace(recipe, from_scratch="huge"))


def test_flags_override_a_recipe(dataset, full_checkpoint, tmp_path, capsys):
    flags = {"logger_dir": tmp_path, "exp_name": "flags", "every_plot_step": 0, **VOCODER, "max_steps": 1, "adversarial_from": -1}
    words = [word for name, value in flags.items() if not isinstance(value, tuple) for word in (f"--{name}", str(value))]
    assert vocoder_main(["--dataset_path", str(dataset), "--checkpoint_dir", str(full_checkpoint), *words]) == 0
    assert capsys.readouterr().out.strip().endswith("flags")
    assert len(torch.load(tmp_path / "flags/last.ckpt", weights_only=True)["optimizer_states"]) == 1
    with pytest.raises(ValueError, match="there are hinge, lsgan"):
        codec_recipe(dataset, full_checkpoint, tmp_path, adversarial_loss="wgan")


def test_gradients_are_clipped(dataset, full_checkpoint, tmp_path):
    """With plain AdamW a clip shows in its moments."""
    moments = {}
    for clip in (0.0, 1e-3):
        recipe = codec_recipe(dataset, full_checkpoint, tmp_path, gradient_clip_val=clip, max_steps=1, exp_name=f"clip{clip}")
        saved = torch.load(train(recipe) / "last.ckpt", weights_only=True)["optimizer_states"][0]["state"]
        moments[clip] = torch.cat([entry["exp_avg"].flatten() for entry in saved.values()]).norm() / (1 - recipe.beta1)
    assert moments[1e-3] == pytest.approx(1e-3, rel=1e-2)
    assert moments[0.0] > 1e-2


def test_the_codec_has_no_opponent_unless_the_recipe_says_so(dataset, full_checkpoint, tmp_path):
    recipe = codec_recipe(dataset, full_checkpoint, tmp_path, adversarial_from=-1)
    assert len(CodecTraining(trainable_dcae(recipe), recipe).discriminators) == 0
