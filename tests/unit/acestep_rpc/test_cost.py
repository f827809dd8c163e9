"""Predicted seconds: fitted, followed, and robust."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acestep_rpc.cost import CostModel, fit, predict

TRUE = {"forwards": 0.03, "rows": 0.004, "row_frames": 2e-5, "row_frame_tokens": 1e-8}


def forward(rows: int, frames: int, tokens: int) -> dict[str, float]:
    return {"forwards": 1, "rows": rows, "row_frames": rows * frames, "row_frame_tokens": rows * frames * tokens}


START = [forward(1, 64, 128), forward(1, 256, 128), forward(4, 256, 128), forward(16, 16, 128), forward(1, 256, 2048)]


def measured(works, coefficients, noise=0.0, randoms=None):
    return [(work, predict(coefficients, work) * (randoms.uniform(1 - noise, 1 + noise) if randoms else 1)) for work in works]


@settings(deadline=None)
@given(st.floats(1e-6, 1e3), st.floats(0.1, 1e3), st.floats(0.1, 10), st.lists(st.floats(1.5, 100), min_size=1, max_size=9))
def test_a_fit_recovers_a_base_and_a_slope(slope, smallest, base_share, multiples):
    base = base_share * slope * smallest
    found = fit([({"pieces": 1, "size": smallest * multiple}, base + slope * smallest * multiple) for multiple in (1, *multiples)])
    assert found["pieces"] == pytest.approx(base, rel=1e-3)
    assert found["size"] == pytest.approx(slope, rel=1e-3)


def test_a_fit_recovers_all_coefficients_of_a_forward():
    found = fit(measured(START, TRUE))
    assert found == pytest.approx(TRUE, rel=1e-6)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000), st.floats(1e-3, 1e3)), min_size=1, max_size=12))
def test_no_coefficient_is_ever_negative(samples):
    found = fit([({"a": a, "b": b}, seconds) for a, b, seconds in samples])
    assert all(value >= 0 for value in found.values())
    model = CostModel([({"a": a, "b": b}, seconds) for a, b, seconds in samples])
    for a, b, seconds in samples * 4:
        model.observe({"a": a, "b": b}, seconds)
    assert all(value >= 0 for value in model.coefficients.values())


def test_work_of_one_kind_teaches_the_speed_and_keeps_the_proportions():
    model = CostModel(measured(START, TRUE))
    for _ in range(200):
        model.observe(forward(2, 256, 128), 3 * predict(TRUE, forward(2, 256, 128)))
    for work in START:
        assert model.predict(work) == pytest.approx(3 * predict(TRUE, work), rel=0.02)


def test_noise_on_work_that_hardly_differs_says_nothing_about_proportions():
    randoms = random.Random(0)
    model = CostModel(measured(START, TRUE))
    for _ in range(400):
        work = forward(2, randoms.randint(250, 260), randoms.randint(120, 130))
        model.observe(work, predict(TRUE, work) * randoms.uniform(0.8, 1.2))
    for work in START:
        assert model.predict(work) == pytest.approx(predict(TRUE, work), rel=0.3)


def test_mixed_work_teaches_new_proportions():
    randoms = random.Random(0)
    other = {"forwards": 0.01, "rows": 0.012, "row_frames": 1e-5, "row_frame_tokens": 5e-8}
    model = CostModel(measured(START, TRUE))

    def draw() -> dict[str, float]:
        return forward(randoms.randint(1, 20), randoms.randint(8, 600), randoms.choice((64, 256, 1024, 4096)))

    for work in [draw() for _ in range(600)]:
        model.observe(work, predict(other, work) * randoms.uniform(0.9, 1.1))
    for work in [draw() for _ in range(50)]:
        assert model.predict(work) == pytest.approx(predict(other, work), rel=0.2)


def test_one_stall_changes_little():
    model = CostModel(measured(START, TRUE))
    work = forward(2, 256, 128)
    for seconds in [predict(TRUE, work)] * 50 + [1000.0] + [predict(TRUE, work)] * 8:
        model.observe(work, seconds)
    assert model.predict(work) == pytest.approx(predict(TRUE, work), rel=0.15)


def test_a_device_that_slows_down_a_hundredfold_is_followed():
    model = CostModel(measured(START, TRUE))
    work = forward(2, 256, 128)
    for _ in range(300):
        ratio = model.observe(work, 100 * predict(TRUE, work))
    assert ratio == pytest.approx(1, abs=0.05)


def test_a_model_of_one_measurement_goes_by_what_it_measured():
    model = CostModel([({"row_frames": 100}, 0.5)])
    assert model.predict(forward(1, 200, 7)) == pytest.approx(1.0)
