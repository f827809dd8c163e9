import pytest
import torch

from diffusion_svc.budget import forward_seconds, measure_budget
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
