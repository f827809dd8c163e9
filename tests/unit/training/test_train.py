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

from tests.unit.training.tiny_run import recipe, write_dataset
from training.train import train

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
