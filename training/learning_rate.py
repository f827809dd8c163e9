"""The learning rate over a run, as multipliers of its peak."""

WARMUP_STEPS = 10


def learning_rate_multiplier(step: int, max_steps: int, warmup_steps: int = WARMUP_STEPS, first_step_at_zero: bool = False) -> float:
    """Linear warm-up, then a linear fall from 1 at `warmup_steps` to 0 at `max_steps`.

    Args:
        step: Optimiser steps done so far: 0 gives the rate of the first step.
        max_steps: Length of the run.
        warmup_steps: Steps until the peak.
        first_step_at_zero: Warm up by step / warmup_steps as the reference does, which spends the first step without learning; else by
            (step + 1) / warmup_steps.
    """
    if step >= max_steps:
        return 0.0
    if step < warmup_steps:
        return (step if first_step_at_zero else step + 1) / warmup_steps
    return (max_steps - step) / (max_steps - warmup_steps)


def plateau_multiplier(step: int, max_steps: int, warmup_steps: int = WARMUP_STEPS, decay_from: float = 0.0) -> float:
    """Warm-up, 1 until a share `decay_from` of the run is over, then a linear fall to 0; with 0 as `learning_rate_multiplier`."""
    start = max(warmup_steps, int(decay_from * max_steps))
    if warmup_steps <= step < start:
        return 1.0
    if step >= start:
        return max(0.0, (max_steps - step) / (max_steps - start)) if start < max_steps else 0.0
    return learning_rate_multiplier(step, max_steps, warmup_steps)
