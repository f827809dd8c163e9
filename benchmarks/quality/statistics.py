"""Means over prompts with bootstrap intervals. Clips of one prompt are not independent, so prompts are drawn, with all their clips."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A mean with the interval that holds 95 % of its bootstrap, over so many prompts."""

    mean: float
    low: float
    high: float
    prompts: int


def estimate(values: Sequence[Sequence[float]], seed: int = 0) -> Estimate | None:
    """Estimate from the clips' values of each prompt; prompts without values do not count, and none at all give None."""
    means = np.array([np.mean(clips) for clips in values if len(clips)])
    if not means.size:
        return None
    drawn = np.random.default_rng(seed).integers(len(means), size=(RESAMPLES, len(means)))
    low, high = np.percentile(means[drawn].mean(axis=1), PERCENTILES)
    return Estimate(float(means.mean()), float(low), float(high), len(means))
