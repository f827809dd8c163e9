"""How a song would sound if it were done now: clean estimates of a stretch of it, taken while it is sampled."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor


@dataclass(frozen=True)
class Estimates:
    """What to take of one song, and what was taken.

    Tasks ask `wants` after each evaluation and compute an estimate only where one is wanted: nothing else depends on it.

    Attributes:
        steps: Step, by the index of the evaluation that ends it.
        frames: (start, stop) of the stretch.
        window: The song's window whose evaluations are meant.
        whole: From what a task estimates to the whole song.
        taken: Step and latents [8, 16, T] on the CPU, in their order; whoever sends them takes them out.
    """

    steps: Mapping[int, int] = field(default_factory=dict)
    frames: tuple[int, int] = (0, 0)
    window: int = 0
    whole: Callable[[Tensor], Tensor] = lambda estimate: estimate
    taken: list[tuple[int, Tensor]] = field(default_factory=list)

    def wants(self, index: int, window: int = 0) -> bool:
        """Whether the estimate after an evaluation of a window is to be taken."""
        return index in self.steps and window == self.window

    def take(self, index: int, estimate: Tensor) -> None:
        """Keep the estimate, [8, 16, T], after an evaluation."""
        start, stop = self.frames
        self.taken.append((self.steps[index], self.whole(estimate)[..., start:stop].to("cpu", copy=True)))

    def inside(self, song: Tensor, low: int, high: int) -> "Estimates":
        """The same for a task that makes the frames low to high of a song; the others are as they are now."""

        def whole(estimate: Tensor) -> Tensor:
            completed = song.clone()
            completed[..., low:high] = estimate
            return completed

        return replace(self, whole=whole)


NO_ESTIMATES = Estimates()
"""Wants none."""
