import numpy as np
import pytest

from benchmarks.quality.statistics import estimate


def test_the_interval_holds_the_mean_and_narrows_with_more_prompts():
    values = np.random.default_rng(0).normal(1.0, 0.5, 400).tolist()
    few, many = estimate([[value] for value in values[:20]]), estimate([[value] for value in values])
    assert few is not None
    assert many is not None
    assert many.low < many.mean < many.high
    assert many.high - many.low < (few.high - few.low) / 2
    assert many.high - many.low == pytest.approx(4 * 0.5 / 20, rel=0.2)


def test_more_clips_of_the_same_prompts_are_no_more_evidence():
    values = np.random.default_rng(0).normal(0.0, 1.0, 50).tolist()
    once, thrice = estimate([[value] for value in values]), estimate([[value] * 3 for value in values])
    assert once is not None
    assert thrice is not None
    assert (once.low, once.high) == pytest.approx((thrice.low, thrice.high))


def test_prompts_without_the_figure_do_not_count():
    found = estimate([[1.0], [], [1.0]])
    assert found is not None
    assert (found.mean, found.prompts) == (1.0, 2)
    assert estimate([[], []]) is None


def test_an_estimate_is_the_same_every_time():
    assert estimate([[1.0], [0.0], [2.0]]) == estimate([[1.0], [0.0], [2.0]])
