import pytest

from diffusion_svc.sampling.schedule import build_schedule, heun_schedule, select_steps, training_sigmas


@pytest.mark.parametrize(
    ("num_steps", "timesteps"),
    [(1, [1000]), (2, [1000, 8.928572]), (5, [1000, 900.35907, 751.121094, 502.985046, 8.928572])],
)
def test_defect_1_timesteps_are_the_doubly_shifted_ones_of_the_released_model(num_steps, timesteps):
    assert build_schedule(num_steps).timesteps == pytest.approx(timesteps, rel=1e-6)


def test_the_middle_of_27_and_60_steps():
    assert build_schedule(27).timesteps[13] == pytest.approx(751.1211, abs=1e-4)
    assert build_schedule(60).timesteps[30] == pytest.approx(744.7494, abs=1e-4)


def test_training_table_ends_at_the_once_shifted_minimum():
    table = training_sigmas()
    assert len(table) == 1000
    assert table[0].item() == 1.0
    assert table[-1].item() == pytest.approx(0.002994012087583542, rel=1e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 27])
def test_sigmas_fall_and_end_at_zero(num_steps):
    sigmas = build_schedule(num_steps).sigmas
    assert len(sigmas) == num_steps + 1
    assert sigmas[-1] == 0.0
    assert list(sigmas) == sorted(set(sigmas), reverse=True)


def test_defect_2_a_lower_maximum_is_shifted_twice():
    assert build_schedule(3, sigma_max=0.5).sigmas[0] == pytest.approx(0.9)


def test_heun_evaluates_every_level_but_the_first_twice():
    plain = build_schedule(3)
    doubled = heun_schedule(plain)
    a, b, c = plain.timesteps
    assert doubled.timesteps == (a, b, b, c, c)
    assert doubled.sigmas[-1] == 0.0
    assert len(doubled.sigmas) == len(doubled.timesteps) + 1
    assert doubled.num_steps == 3


def test_defect_4_selected_steps_are_shifted_once_more_and_stay_float32():
    plain = build_schedule(6)
    kept = select_steps(plain, [2, 5])
    sigma = plain.timesteps[1] / 1000
    assert kept.num_steps == 2
    assert kept.sigmas[0] == pytest.approx(3 * sigma / (1 + 2 * sigma), rel=1e-6)
