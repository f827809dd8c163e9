import pytest
import torch

from acestep_rpc.cost import fit
from diffusion_svc.budget import Budget, forward_seconds, measure_budget, measure_forwards, refreshed_size
from tests import tiny


def test_a_forward_of_the_budget_takes_about_the_time_asked_for():
    found = measure_budget(lambda size: 0.01 + size * 1e-4, 0.5)
    assert 4800 < found.size < 5000  # 4900 in truth
    assert found.seconds == pytest.approx(0.5, abs=0.01)


def test_a_slow_device_gets_a_small_budget():
    assert measure_budget(lambda size: 10.0, 0.5).size == 3


def test_a_device_without_limits_gets_the_largest_budget_there_is():
    assert measure_budget(lambda size: 1e-9, 0.5).size == 2**18


def test_the_memory_of_the_device_bounds_the_budget():
    def forward(size: int) -> float:
        if size > 1024:
            raise torch.OutOfMemoryError("too much")
        return 0.1

    found = measure_budget(forward, 0.5)
    assert (found.size, found.seconds) == (1024, 0.1)


def test_a_device_that_holds_nothing_says_so():
    def forward(size: int) -> float:
        raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError):
        measure_budget(forward, 0.5)


def test_forwards_of_a_network_take_time():
    model = tiny.transformer()
    assert 0 < forward_seconds(model, 64) < forward_seconds(model, 2**14)


def test_forwards_are_measured_in_every_way_in_which_they_can_differ():
    asked = []

    def forward(rows: int, frames: int, tokens: int) -> float:
        asked.append((rows, frames, tokens))
        return 0.01 + rows * 0.002 + rows * frames * 1e-4 + rows * frames * tokens * 1e-7

    found = fit(measure_forwards(forward, 1024))
    assert found == pytest.approx({"forwards": 0.01, "rows": 0.002, "row_frames": 1e-4, "row_frame_tokens": 1e-7}, rel=1e-3)
    assert max(rows * frames for rows, frames, _ in asked) == 1024


@pytest.mark.parametrize("slower", [0.5, 1.0, 4.0])
def test_the_budget_follows_the_speed_of_the_device(slower):
    def predict(features: dict[str, float]) -> float:
        return slower * (0.01 * features["forwards"] + 0.002 * features["rows"] + 1e-4 * features["row_frames"])

    size = refreshed_size(Budget(2000, 0.25, step_seconds=0.25), predict)
    rows = size / 256
    assert slower * (0.01 + 0.002 * rows + 1e-4 * size) == pytest.approx(0.25, rel=0.01)


def test_the_budget_stays_within_the_memory_of_the_device():
    assert refreshed_size(Budget(512, 0.1, 0.25, largest_size=512), lambda features: 1e-9 * features["row_frames"]) == 512
    assert refreshed_size(Budget(512, 0.1, 0.25), lambda features: 10 * features["row_frames"]) == 1
