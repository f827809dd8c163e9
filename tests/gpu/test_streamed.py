"""Steps of a run as CUDA graphs."""

import argparse

import pytest
import torch

from tests.unit.training import test_streamed
from training.streamed.learning import recorded
from training.streamed.run import Run

pytestmark = pytest.mark.gpu


def run_of(device: torch.device) -> Run:
    options = argparse.Namespace(
        frames=2048, songs=4, seed=0, checkpoint_dir=test_streamed.CHECKPOINT, learning_rate=1e-3, muon_learning_rate=0.02
    )
    run = Run(options, device, test_streamed.pack())
    run.played.add(test_streamed.prepared(3))
    run.model.eval()  # no dropout: its numbers are drawn by the device's own generator
    return run


def test_a_recorded_step_is_the_step(device: torch.device) -> None:
    ours, expected = run_of(device), run_of(device)
    replay = recorded(lambda: ours.step(64), ours.generators)
    for _ in range(3):
        expected.step(64)
    for run, step in ((ours, replay), (expected, lambda: expected.step(64))):
        run.begin()
        for number in range(4):
            run.control(share=0.1 * number, multiplier=1.0, average=0.5)
            step()
    # Those of the losses: additions whose order is not fixed make bfloat16's differences grow from step to step.
    torch.testing.assert_close(ours.sums[:4], expected.sums[:4], rtol=2e-2, atol=1e-3)
