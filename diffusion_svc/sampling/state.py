"""What a task remembers from one step to the next. A task that is given a copy goes on where the other one stood."""

from dataclasses import dataclass, field

from torch import Tensor

from diffusion_svc.sampling.solvers import NoiseSource

LATENTS, RESULT = "latents", "result"


@dataclass
class TaskState:
    """Where a task stands at the start of a step; it reads this when it begins, and keeps it up to date. New: at its very beginning.

    Between two steps nothing else is remembered: what a task waits for follows from this alone.

    Attributes:
        index: Evaluation of the schedule that comes next.
        window: Part of the song that is under way; most songs are one.
        draws: Noise drawn by now from the source that is drawn from at steps; noise that only starts a song is drawn again.
        tensors: Float32, by name: latents and what solver and guidance keep, as long as the window [8, 16, T]; `result`, of the whole song.
    """

    index: int = 0
    window: int = 0
    draws: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)
    _drawn: int = field(init=False)

    def __post_init__(self) -> None:
        self._drawn = self.draws

    @property
    def begun(self) -> bool:
        """The window has its first latents."""
        return LATENTS in self.tensors

    @property
    def latents(self) -> Tensor:
        """At the noise level of `index`."""
        return self.tensors[LATENTS]

    def begin(self, latents: Tensor, index: int = 0) -> None:
        """The window's first latents, and the evaluation that they are for."""
        self.tensors[LATENTS], self.index, self.draws = latents, index, self._drawn

    def advance(self, latents: Tensor) -> None:
        """A step is done and led to these latents."""
        self.begin(latents, self.index + 1)

    def next_window(self) -> None:
        """A window is done: solver and guidance begin anew."""
        self.tensors = {name: tensor for name, tensor in self.tensors.items() if name == RESULT}
        self.index, self.window = 0, self.window + 1

    def counted(self, noise: NoiseSource) -> NoiseSource:
        """The same noise, its draws counted. It must stand where `draws` says."""

        def draw() -> Tensor:
            self._drawn += 1
            return noise()

        return draw
