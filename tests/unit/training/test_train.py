import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.unit.training.tiny_run import recipe, write_dataset
from training.batches import Bucket
from training.checkpoint import load_trainable
from training.recipes import base
from training.shards import PreparedSong, write_manifest, write_shard
from training.text_to_music import Objective, frozen_weights, trained_parameters
from training.train import freeze, main, steps_of_epochs, train

LAST = "checkpoints/step=6"
WEIGHTS = "ace_step_transformer/diffusion_pytorch_model.safetensors"
# Gradients of two processes are averaged in another order than one process sums them.
DISTRIBUTED = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset") / "songs")


@pytest.fixture(scope="module")
def uninterrupted(dataset, checkpoint, tmp_path_factory) -> dict[str, torch.Tensor]:
    return weights(run(dataset, checkpoint, tmp_path_factory.mktemp("runs"), "whole"))


def command(dataset: Path, checkpoint: Path, logs: Path, **options: object) -> list[str]:
    given = {"dataset": str(dataset), "checkpoint": str(checkpoint), "logs": str(logs), **options}
    return [sys.executable, "-m", "tests.unit.training.tiny_run", json.dumps(given)]


def run(dataset: Path, checkpoint: Path, logs: Path, name: str, resume: Path | None = None, **options: object) -> Path:
    line = command(dataset, checkpoint, logs, exp_name=name, **options)
    subprocess.run([*line, *([str(resume)] if resume else [])], check=True, capture_output=True, env=environment())
    return logs / name


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / LAST / WEIGHTS)


def test_two_identical_runs_give_identical_weights(dataset, checkpoint, uninterrupted, tmp_path):
    again = weights(run(dataset, checkpoint, tmp_path, "again"))
    assert all(torch.equal(tensor, again[name]) for name, tensor in uninterrupted.items())
    other = weights(run(dataset, checkpoint, tmp_path, "other", seed=1))
    assert not all(torch.equal(tensor, other[name]) for name, tensor in uninterrupted.items())


def test_a_killed_run_that_is_resumed_equals_the_uninterrupted_one(dataset, checkpoint, uninterrupted, tmp_path):
    with subprocess.Popen(
        command(dataset, checkpoint, tmp_path, exp_name="killed"), env=environment(), stderr=subprocess.DEVNULL
    ) as process:
        while not (tmp_path / "killed" / "checkpoints" / "step=3").exists():
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    killed = tmp_path / "killed"
    assert not (killed / LAST).exists()
    resumed = weights(run(dataset, checkpoint, tmp_path, "killed", resume=killed / "last.ckpt"))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in uninterrupted.items())


def state(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and averages in float32; the exported ones are in half precision."""
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    return {**saved["state_dict"], **{f"averaged {name}": tensor for name, tensor in saved["averaged"].items()}}


def test_two_processes_equal_one_that_accumulates(dataset, checkpoint, tmp_path):
    one = state(run(dataset, checkpoint, tmp_path, "one", accumulate_grad_batches=2))
    two = state(run(dataset, checkpoint, tmp_path, "two", devices=2))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, **DISTRIBUTED)


def test_two_processes_that_share_the_weights_equal_one_that_accumulates(dataset, checkpoint, tmp_path):
    # AdamW steps by the learning rate however small a gradient is, so what rounding leaves of gradients that cancel (biases of keys) counts
    # in units of it.
    options = {"objective": {"muon_learning_rate": None, "learning_rate": 1e-4}, "gradient_checkpointing": True}
    one = state(run(dataset, checkpoint, tmp_path, "one", accumulate_grad_batches=2, **options))
    shared = {"devices": 2, "strategy": "fsdp", **options}
    two = run(dataset, checkpoint, tmp_path, "two", **shared)
    for name, tensor in state(two).items():
        torch.testing.assert_close(tensor, one[name], **DISTRIBUTED)
    resumed = run(dataset, checkpoint, tmp_path, "two", two / "last.ckpt", max_steps=7, **shared)
    assert (resumed / "checkpoints/step=7").exists()


def test_an_unknown_precision_is_refused(dataset, checkpoint, tmp_path):
    with pytest.raises(ValueError, match="precision is 'int4'; there are bf16-mixed, 32"):
        train(recipe(dataset, checkpoint, tmp_path, precision="int4"))


def test_a_command_line_of_the_reference_works(dataset, checkpoint, tmp_path, capsys):
    lora = tmp_path / "lora.json"
    lora.write_text('{"r": 2, "lora_alpha": 1, "use_rslora": true, "target_modules": ["to_q", "linear_k"]}')
    line = f"""--num_nodes 1 --shift 3.0 --learning_rate 1e-3 --num_workers 0 --epochs -1 --max_steps 2 --every_n_train_steps 1
        --dataset_path {dataset} --exp_name chinese_rap_lora --precision 32 --accumulate_grad_batches 1 --devices 1 --logger_dir {tmp_path}
        --checkpoint_dir {checkpoint} --gradient_clip_val 0.5 --gradient_clip_algorithm norm --reload_dataloaders_every_n_epochs 1
        --every_plot_step 0 --lora_config_path {lora} --validation_path {dataset} --val_check_interval 1
        --ssl_coefficient m-hubert=0:1,0.5:0.01"""
    assert main(line.split()) == 0
    run_folder = tmp_path / "chinese_rap_lora"
    assert (run_folder / "checkpoints/step=2/chinese_rap_lora/pytorch_lora_weights.safetensors").exists()
    events = EventAccumulator(str(run_folder)).Reload()
    assert len(events.Scalars("val/denoising_loss")) == 2
    assert main([*line.split(), "--ckpt_path", str(run_folder / "last.ckpt"), "--max_steps", "3"]) == 0
    assert (run_folder / "checkpoints/step=3").exists()


def test_defaults_are_those_that_users_know(tmp_path):
    recipe = base(tmp_path, tmp_path)
    assert (recipe.objective.learning_rate, recipe.objective.shift, recipe.max_steps, recipe.epochs) == (1e-4, 3.0, 2_000_000, -1)
    assert (recipe.precision, recipe.devices, recipe.num_nodes, recipe.accumulate_grad_batches) == ("bf16-mixed", 1, 1, 1)
    assert (recipe.num_workers, recipe.every_n_train_steps, recipe.every_plot_step) == (8, 2000, 2000)
    assert (recipe.exp_name, recipe.logger_dir) == ("text2music_train_test", Path("exps/logs"))
    assert (recipe.gradient_clip_val, recipe.gradient_clip_algorithm) == (0.5, "norm")
    assert (recipe.val_check_interval, recipe.lora_config_path) == (None, None)


def test_a_projection_loss_fades_between_points():
    objective = Objective(ssl_coefficients={"m-hubert": ((0.0, 1.0), (0.8, 1.0), (0.9, 0.0)), "mert": 0.5})
    assert [objective.ssl_coefficient("m-hubert", share) for share in (0.0, 0.8, 0.85, 1.0)] == pytest.approx([1, 1, 0.5, 0])
    assert (objective.ssl_coefficient("mert", 0.3), objective.ssl_coefficient("other", 0.3)) == (0.5, 1.0)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 3), (10, 25)])
def test_an_epoch_draws_as_many_crops_as_there_are_songs(epochs, steps, tmp_path):
    recipe = dataclasses.replace(base(tmp_path, tmp_path), epochs=epochs, buckets=(Bucket(8, 3), Bucket(16, 1)))
    assert steps_of_epochs(recipe, 5) == steps  # two crops a step on average


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_steps": 0}, "max_steps is 0; it must be 1 or more"),
        ({"epochs": 0}, "epochs is 0; it must be -1 or 1 and more"),
        ({"exp_name": "../up"}, "exp_name is '../up'"),
        ({"strategy": "magic"}, "strategy is 'magic'; there are ddp, fsdp"),
        ({"strategy": "fsdp"}, "needs every_plot_step 0"),
        ({"frozen_precision": "int8"}, "frozen_precision is 'int8'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(base(tmp_path, tmp_path), **change)


def test_frozen_weights_are_written_as_they_were_and_others_change(checkpoint):
    model = load_trainable(checkpoint)
    freeze(model, ("transformer_blocks.0.", "proj_in."))
    kept = frozen_weights(model)
    assert kept
    assert all(name.startswith(("transformer_blocks.0.", "proj_in.")) for name in kept)
    assert kept.keys() | dict(trained_parameters(model)).keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize(("beginnings", "message"), [(("clock.",), "frozen names 'clock.'"), (("",), "leaves nothing to train")])
def test_what_cannot_be_frozen_is_refused(beginnings, message, checkpoint):
    with pytest.raises(ValueError, match=message):
        freeze(load_trainable(checkpoint), beginnings)


def test_a_dataset_of_other_networks_is_refused(checkpoint, tmp_path, capsys):
    song = PreparedSong("a", torch.zeros(8, 16, 4), (torch.zeros(2, 13),), ("",), torch.tensor([0]), torch.zeros(6))
    write_manifest(tmp_path, [write_shard(tmp_path, [song])], {})
    assert main(["--dataset_path", str(tmp_path), "--checkpoint_dir", str(checkpoint), "--logger_dir", str(tmp_path / "logs")]) == 1
    assert "text states have width 13, the checkpoint asks for 12: preprocess with this checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["m-hubert", "m-hubert=much", "m-hubert=0.5:1,0.2:0"])
def test_weights_that_cannot_be_read_are_refused(text, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--dataset_path", str(tmp_path), "--ssl_coefficient", text])
    assert "--ssl_coefficient" in capsys.readouterr().err
