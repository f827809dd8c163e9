"""How much goes into one forward, found by trying it out when the stage starts."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from acestep_rpc.work import forward_work
from diffusion_svc.model.transformer import Row, Transformer

FIRST_SIZE, LARGEST_SIZE = 64, 2**18
ROW_FRAMES = 256  # 24 seconds
CONTEXT_TOKENS = 128
LONG_CONTEXT_TOKENS = 2048

Sample = tuple[dict[str, float], float]


@dataclass(frozen=True)
class Budget:
    """What a forward holds and takes.

    Attributes:
        size: Rows x frames.
        seconds: Time of a forward of that size.
        step_seconds: What a forward may take: the size follows the speed of the device. None: it stays.
        largest_size: The size never gets above this one.
    """

    size: int
    seconds: float
    step_seconds: float | None = None
    largest_size: int = LARGEST_SIZE


def measure_budget(seconds_of: Callable[[int], float], step_seconds: float) -> Budget:
    """The rows x frames whose forward takes about so many seconds.

    Sizes double until a forward takes longer, and the rest is the rule of three. What the device has no memory for ends the search too.

    Args:
        seconds_of: Runs a forward of so many rows x frames and says how long it took.
        step_seconds: What a forward may take.
    Raises:
        torch.OutOfMemoryError: The device cannot hold the smallest forward.
    """
    size, previous = FIRST_SIZE, 0.0
    seconds_of(size)  # the first forward of a process is slow
    while True:
        try:
            seconds = min(seconds_of(size) for _ in range(2))
        except torch.OutOfMemoryError:
            if previous == 0:
                raise
            return Budget(size // 2, previous, step_seconds, largest_size=size // 2)
        if seconds >= step_seconds:
            fitting = max(int(size * step_seconds / seconds), 1)
            return Budget(fitting, seconds * fitting / size, step_seconds)
        if size >= LARGEST_SIZE:
            return Budget(size, seconds, step_seconds)
        size, previous = 2 * size, seconds


def measure_forwards(seconds_of: Callable[[int, int, int], float], size: int) -> list[Sample]:
    """Work and seconds of forwards that differ in everything that costs: many rows or few, long ones or short, much to attend to or little.

    Args:
        seconds_of: Runs a forward of so many rows of so many frames that attend to so many tokens, and says how long it took.
        size: Rows x frames that the device does in about a step.
    """
    shapes = [(1, FIRST_SIZE, CONTEXT_TOKENS), (1, FIRST_SIZE, LONG_CONTEXT_TOKENS), (FIRST_SIZE // 16, 16, CONTEXT_TOKENS)]
    shapes += [(rows, ROW_FRAMES, CONTEXT_TOKENS) for rows in (1, 2, 4, 16) if rows * ROW_FRAMES <= size]
    return [(forward_work(*shape).features(), min(seconds_of(*shape) for _ in range(2))) for shape in shapes]


def refreshed_size(budget: Budget, predict: Callable[[dict[str, float]], float]) -> int:
    """Rows x frames that now take as long as a forward may, in rows of an ordinary length.

    Args:
        budget: Of the start.
        predict: Seconds of a forward.
    """
    if budget.step_seconds is None:
        return budget.size
    rows = 2**8
    large = predict(forward_work(rows, ROW_FRAMES, CONTEXT_TOKENS).features())
    small = predict(forward_work(1, ROW_FRAMES, CONTEXT_TOKENS).features())
    seconds_per_size = (large - small) / ((rows - 1) * ROW_FRAMES)
    left = budget.step_seconds - (small - seconds_per_size * ROW_FRAMES)  # without what every forward costs
    fitting = int(left / seconds_per_size) if seconds_per_size > 0 else budget.largest_size
    return min(max(fitting, 1), budget.largest_size)


def forward_seconds(model: Transformer, size: int) -> float:
    """Time of a forward of a power of 2 of rows x frames, under conditions of an ordinary length."""
    frames = min(size, ROW_FRAMES)
    return timed_forward(model, size // frames, frames, CONTEXT_TOKENS)


@torch.inference_mode()
def timed_forward(model: Transformer, num_rows: int, frames: int, tokens: int) -> float:
    """Seconds of a forward of equal rows; on a CPU without those that other programs had."""
    (modulation,) = model.modulate(torch.zeros(1, device=model.device))
    context = model.project_context(torch.zeros(tokens, model.config.inner_dim, dtype=model.dtype, device=model.device))
    row = Row(torch.zeros(8, 16, frames, device=model.device), modulation, context)
    started, worked = time.perf_counter(), time.process_time()
    velocities = model([row] * num_rows)
    velocities[-1].cpu()  # the device has finished
    seconds = time.perf_counter() - started
    if model.device.type == "cpu":  # what other programs took of it meanwhile says nothing about the device
        seconds = min(seconds, time.process_time() - worked)
    return seconds
