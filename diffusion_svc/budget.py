"""How much goes into one forward, found by trying it out when the stage starts."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from diffusion_svc.model.transformer import Row, Transformer

FIRST_SIZE, LARGEST_SIZE = 64, 2**18
ROW_FRAMES = 256  # 24 seconds
CONTEXT_TOKENS = 128


@dataclass(frozen=True)
class Budget:
    """What a forward holds and takes.

    Attributes:
        size: Rows x frames.
        seconds: Time of a forward of that size.
    """

    size: int
    seconds: float


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
            return Budget(size // 2, previous)
        if seconds >= step_seconds:
            fitting = max(int(size * step_seconds / seconds), 1)
            return Budget(fitting, seconds * fitting / size)
        if size >= LARGEST_SIZE:
            return Budget(size, seconds)
        size, previous = 2 * size, seconds


@torch.inference_mode()
def forward_seconds(model: Transformer, size: int) -> float:
    """Time of a forward of a power of 2 of rows x frames, under conditions of an ordinary length."""
    frames = min(size, ROW_FRAMES)
    (modulation,) = model.modulate(torch.zeros(1, device=model.device))
    context = model.project_context(torch.zeros(CONTEXT_TOKENS, model.config.inner_dim, dtype=model.dtype, device=model.device))
    row = Row(torch.zeros(8, 16, frames, device=model.device), modulation, context)
    started, worked = time.perf_counter(), time.process_time()
    velocities = model([row] * (size // frames))
    velocities[-1].cpu()  # the device has finished
    seconds = time.perf_counter() - started
    if model.device.type == "cpu":  # what other programs took of it meanwhile says nothing about the device
        seconds = min(seconds, time.process_time() - worked)
    return seconds
