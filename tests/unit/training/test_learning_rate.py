import pytest

from training.learning_rate import learning_rate_multiplier, plateau_multiplier


def test_first_step_learns():
    assert learning_rate_multiplier(0, 200) == 0.1


def test_first_step_of_the_reference_does_not():
    assert learning_rate_multiplier(0, 200, first_step_at_zero=True) == 0


def test_rate_rises_to_the_peak_and_falls_to_zero():
    rates = [learning_rate_multiplier(step, 50) for step in range(52)]
    assert rates[9] == rates[10] == 1
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[30] == pytest.approx(0.5)
    assert rates[49] > 0
    assert rates[50] == rates[51] == 0


def test_run_shorter_than_the_warm_up_only_warms_up():
    assert [learning_rate_multiplier(step, 3) for step in range(4)] == [0.1, 0.2, 0.3, 0]


def test_no_warm_up_starts_at_the_peak():
    assert learning_rate_multiplier(0, 4, warmup_steps=0) == 1


def test_a_plateau_lasts_until_its_share_of_the_run():
    rates = [plateau_multiplier(step, 100, 10, 0.5) for step in range(101)]
    assert rates[:10] == [learning_rate_multiplier(step, 100) for step in range(10)]
    assert set(rates[10:51]) == {1.0}
    assert rates[75] == pytest.approx(0.5)
    assert rates[100] == 0
    assert [plateau_multiplier(step, 50) for step in range(52)] == [learning_rate_multiplier(step, 50) for step in range(52)]
