"""What a run trains, and one step of it.

B crops, T latent frames of a crop.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from training.checkpoint import load_trainable
from training.streamed.learning import Learner, Optimizer
from training.streamed.songs import HELD_OUT_SONGS, Crops, played_store, sung_store

FROZEN = (
    *("transformer_blocks.0.", "transformer_blocks.1."),
    *("genre_embedder.", "speaker_embedder.", "timestep_embedder.", "t_block.", "proj_in."),
)
"""The clock of training/corpus/clock.py, and what it was fitted to."""
SUNG_SHARE = 1 / 16
PHONE_WEIGHT = 0.3
PARTS = 2
"""Files of a set of weights, each small enough for places that limit the size of one."""


def write_weights(folder: Path, name: str, names: Sequence[str], tensors: Sequence[Tensor]) -> None:
    """Write weights as float16 in a few files NAME.K.safetensors."""
    state = {key: tensor.detach().half().cpu().contiguous() for key, tensor in zip(names, tensors, strict=True)}
    parts: list[dict[str, Tensor]] = [{} for _ in range(PARTS)]
    for key, tensor in sorted(state.items(), key=lambda item: -item[1].numel()):
        min(parts, key=lambda part: sum(value.numel() for value in part.values()))[key] = tensor
    for number, part in enumerate(parts):
        save_file(part, folder / f"{name}.{number}.safetensors")


class Run:
    """The model, its averaged weights, the songs and the optimiser; what changes from step to step is on the device.

    Args:
        options: Of the command line.
        device: Where it is trained.
        pack: Of `read_pack`.
    Attributes:
        played, held_out: Songs; more may be added between steps.
        averaged: Weights, those of `names`.
        sums: Of total, velocity, score and phone loss and the gradients' norm since they were set to 0.
        generators: Of all that is drawn in a step.
    """

    def __init__(self, options: argparse.Namespace, device: torch.device, pack: Mapping[str, Tensor]) -> None:
        self.device, self.frames = device, options.frames
        self.model = load_trainable(options.checkpoint_dir, device)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not name.startswith(FROZEN))
        self.sung, self.played = sung_store(pack, device), played_store(pack, options.songs, device)
        self.held_out = played_store(pack, HELD_OUT_SONGS, device)
        self.learner = Learner(self.model, pack["tags"], options.seed)
        self.names = [name for name, _ in self.model.named_parameters()]
        self.parameters = [parameter.detach() for parameter in self.model.parameters()]
        self.averaged = self.copy(self.parameters)
        self.optimizer = Optimizer(self.model, options.learning_rate, options.muon_learning_rate)
        self._crop_numbers = torch.Generator(device).manual_seed(options.seed)
        self.generators = (self._crop_numbers, self.learner.random_numbers)
        self.sums = torch.zeros(5, device=device)
        self._controls = torch.zeros(4, device=device)
        self.control(0.0, 0.0, 0.0)

    def control(self, share: float, multiplier: float, average: float) -> None:
        """Set what the next steps go by.

        Args:
            share: Of the run, 0 to 1: the noise levels and the weight of the score's loss follow it.
            multiplier: Of the learning rates.
            average: Share of the new weights in the averaged ones.
        """
        self._controls.copy_(torch.tensor([0.5 * (1 - share), 2.0 - 1.4 * share, multiplier, average]))

    def crops(self, length: int) -> list[Crops]:
        """Crops of a step."""
        count = max(2, self.frames // length)
        few = max(1, round(count * SUNG_SHARE))
        return [self.sung.draw(few, length, self._crop_numbers), self.played.draw(count - few, length, self._crop_numbers)]

    def step(self, length: int) -> None:
        """A step on crops of a length; nothing in it waits for the device or depends on Python's numbers."""
        logit_mean, score_weight, multiplier, average = self._controls.unbind()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss: Tensor = self.learner(self.crops(length), logit_mean, score_weight, PHONE_WEIGHT)
        torch.autograd.backward(loss[0])
        norm = self.optimizer.step(multiplier)
        changes = list(torch._foreach_sub(self.parameters, self.averaged))
        torch._foreach_mul_(changes, average)
        torch._foreach_add_(self.averaged, changes)
        self.sums += torch.cat([loss.detach(), norm.detach()[None]])

    def seconds_of_steps(self, lengths: Sequence[int], steps: Mapping[int, Callable[[], object]] | None = None) -> float:
        """Mean time of steps that change nothing but momenta: two of each length."""
        self.control(0.0, 0.0, 0.0)
        begun = time.monotonic()
        for length in [*lengths] * 2:
            if steps is None:
                self.step(length)
            else:
                steps[length]()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.monotonic() - begun) / (2 * len(lengths))

    def begin(self) -> None:
        """Forget what the steps left that only tried."""
        self.optimizer.forget()
        self.sums.zero_()

    def copy(self, tensors: Sequence[Tensor] | None = None) -> list[Tensor]:
        """A copy of weights, by default the averaged ones."""
        return [tensor.clone() for tensor in (self.averaged if tensors is None else tensors)]

    def restore(self, kept: list[Tensor]) -> None:
        """Go back to weights."""
        torch._foreach_copy_(self.averaged, kept)
        torch._foreach_copy_(self.parameters, kept)
        self.optimizer.forget()

    @torch.no_grad()
    def validate(self) -> list[str]:
        """Velocity and score loss on songs of held-out pairs of genre and tempo, with the same crops and noise every time."""
        fixed = torch.Generator(self.device).manual_seed(1)
        self.learner.random_numbers, kept = torch.Generator(self.device).manual_seed(2), self.learner.random_numbers
        self.model.eval()
        try:
            with (
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"),
                torch.compiler.set_stance("force_eager"),
            ):
                losses = self.learner([self.held_out.draw(128, 128, fixed)], 0.0, 1.0, 0.0).tolist()
        finally:
            self.learner.random_numbers = kept
            self.model.train()
        return [f"{losses[1]:.4f}", f"{losses[2]:.4f}"]
