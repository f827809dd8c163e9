"""Training of a network that reconstructs, alone or against discriminators, as a Lightning module.

With two optimisers Lightning leaves steps, accumulation and clipping to the module. Both networks learn from the weights before the step,
so several processes compute what one does that accumulates. Steps are those of the reconstructing network; Lightning counts no others.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from training.audio_crops import CropBatch
from training.codec_recipes import AudioRecipe
from training.learning_rate import plateau_multiplier
from training.text_to_music import trained_parameters


@dataclass(frozen=True)
class Reconstruction:
    """What a network makes of a micro-batch.

    Attributes:
        real: As discriminators see it.
        generated: Of the same shape.
        losses: By name, without their weights.
    """

    real: Tensor
    generated: Tensor
    losses: Mapping[str, Tensor]


class AdversarialTraining(LightningModule, ABC):
    """The module that Lightning trains; what is reconstructed and how, a subclass says.

    Args:
        network: In float32; every parameter is trained.
        discriminators: Of what it generates; none: it trains alone.
        recipe: Of the run.
        weights: Of the losses of `reconstruct`.
    """

    def __init__(self, network: nn.Module, discriminators: nn.ModuleList, recipe: AudioRecipe, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.discriminators = discriminators
        self.recipe = recipe
        self.weights = dict(weights)
        self.step_ended = False
        """Whether the last micro-batch completed a step."""
        self.averaged: dict[str, Tensor] = {}
        if recipe.ema_decay:
            self.averaged = {name: parameter.detach().clone() for name, parameter in trained_parameters(network)}

    @abstractmethod
    def reconstruct(self, waveforms: Tensor) -> Reconstruction:
        """Losses of a micro-batch, [B, C, S]."""

    @abstractmethod
    def resynthesise(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """What the network makes of a song, in evaluation mode and without gradients.

        Args:
            waveform: [C, S], S a multiple of 4096.
        Returns:
            On the CPU: a waveform [C, S], and the log-mel [C, 128, F] that the network is to blame for.
        """

    @property
    def adversarial(self) -> bool:
        """Whether the discriminators take part in the present step."""
        return len(self.discriminators) > 0 and self.global_step >= self.recipe.adversarial_from

    def transfer_batch_to_device(self, batch: CropBatch, device: torch.device, dataloader_idx: int) -> CropBatch:
        """Lightning moves no frozen dataclasses by itself."""
        return batch.to(device)

    def on_fit_start(self) -> None:
        """Averages go where the weights are."""
        self.averaged = {name: tensor.to(self.device) for name, tensor in self.averaged.items()}

    def training_step(self, batch: CropBatch) -> None:
        """Gradients of a micro-batch; after the last one of a step, the step."""
        recipe = self.recipe
        place = batch.number // self.trainer.world_size % recipe.accumulate_grad_batches
        if place == 0:
            self.network.zero_grad()
            self.discriminators.zero_grad()
        made = self.reconstruct(batch.waveforms)
        total = sum((self.weights[name] * loss for name, loss in made.losses.items()), torch.zeros((), device=self.device))
        losses = dict(made.losses)
        if self.adversarial:
            real = self._feature_maps(made.real)
            judged = self._feature_maps(made.generated.detach())
            losses["discriminator"] = discriminator_loss(recipe.adversarial_loss, _scores(real), _scores(judged))
            self._backward(losses["discriminator"])
            # Towards the network the discriminators pass gradients on and keep none.
            self.discriminators.requires_grad_(False)
            generated = self._feature_maps(made.generated)
            losses["adversarial"] = generator_loss(recipe.adversarial_loss, _scores(generated))
            losses["feature_matching"] = feature_matching_loss(real, generated)
            total = total + recipe.adversarial_weight * losses["adversarial"]
            total = total + recipe.feature_matching_weight * losses["feature_matching"]
        self._backward(total)
        self.discriminators.requires_grad_(True)
        named = {f"train/{name}_loss": loss.detach() for name, loss in {**losses, "total": total}.items()}
        self.log_dict(named, batch_size=len(batch.waveforms), prog_bar=True)
        self.step_ended = place == recipe.accumulate_grad_batches - 1
        if self.step_ended:
            self._step()

    def _feature_maps(self, material: Tensor) -> list[list[Tensor]]:
        return [discriminator(material) for discriminator in self.discriminators]

    def _backward(self, loss: Tensor) -> None:
        """Into this process's own gradients. `manual_backward` would add those of other processes at every micro-batch, twice."""
        (loss / self.recipe.accumulate_grad_batches).backward()  # type: ignore[no-untyped-call]

    def _step(self) -> None:
        step, adversarial = self.global_step, self.adversarial
        optimizers = self.optimizers()
        own = optimizers[0] if isinstance(optimizers, Sequence) else optimizers
        multiplier = plateau_multiplier(step, self.recipe.max_steps, self.recipe.warmup_steps, self.recipe.decay_from)
        if adversarial:
            raw: Any = self.optimizers(use_pl_optimizer=False)  # whose steps Lightning does not count
            warmed = min(1.0, (step - self.recipe.adversarial_from + 1) / max(1, self.recipe.warmup_steps))
            self._prepare(raw[1], self.discriminators.parameters(), min(multiplier, warmed))
            raw[1].step()
        assert own is not None
        self._prepare(own, self.network.parameters(), multiplier)
        own.step()
        decay = min(self.recipe.ema_decay, (step + 1) / (step + 10))  # a short run's average forgets its start sooner
        with torch.no_grad():
            for name, parameter in trained_parameters(self.network) if self.averaged else ():
                self.averaged[name].lerp_(parameter.detach(), 1 - decay)

    def _prepare(self, optimizer: Any, parameters: Iterable[nn.Parameter], multiplier: float) -> None:
        """Join the gradients of all processes, clip them, set the learning rate."""
        trained = [parameter for parameter in parameters if parameter.grad is not None]
        if self.trainer.world_size > 1:
            gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
            joined: Any = self.trainer.strategy.reduce(torch.cat([gradient.flatten() for gradient in gradients]), reduce_op="mean")
            sizes = [gradient.numel() for gradient in gradients]
            for gradient, mean in zip(gradients, joined.split(sizes), strict=True):
                gradient.copy_(mean.view_as(gradient))
        if self.recipe.gradient_clip_val:
            if self.recipe.gradient_clip_algorithm == "norm":
                nn.utils.clip_grad_norm_(trained, self.recipe.gradient_clip_val)
            else:
                nn.utils.clip_grad_value_(trained, self.recipe.gradient_clip_val)
        for group in optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * multiplier

    def configure_optimizers(self) -> list[Optimizer]:
        """One of the network; with discriminators one of theirs. Learning rates are set at each step."""
        recipe = self.recipe

        def optimizer(module: nn.Module) -> Optimizer:
            return AdamW(module.parameters(), recipe.learning_rate, (recipe.beta1, recipe.beta2), weight_decay=recipe.weight_decay)

        return [optimizer(self.network), *([optimizer(self.discriminators)] if len(self.discriminators) else [])]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the averages beside the weights."""
        checkpoint["averaged"] = {name: tensor.cpu() for name, tensor in self.averaged.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the averages back.

        Raises:
            ValueError: One of the two runs averages, the other does not.
        """
        if checkpoint["averaged"].keys() != self.averaged.keys():
            raise ValueError("the run to go on with has other averaged weights: ema_decay must be as it was")
        for name, tensor in checkpoint["averaged"].items():
            self.averaged[name].copy_(tensor)

    @contextmanager
    def final_network(self) -> Iterator[nn.Module]:
        """The network in evaluation mode with the averaged weights, if the run averages; then again as it was."""
        kept = {name: parameter.detach().clone() for name, parameter in trained_parameters(self.network) if self.averaged}
        self.network.load_state_dict(self.averaged, strict=False)
        self.network.eval()
        try:
            with torch.no_grad():
                yield self.network
        finally:
            self.network.load_state_dict(kept, strict=False)
            self.network.train()


def _scores(feature_maps: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [maps[-1] for maps in feature_maps]


def discriminator_loss(kind: str, real: Sequence[Tensor], generated: Sequence[Tensor]) -> Tensor:
    """Summed over discriminators: real material should score 1 or more, generated -1 or less (hinge) or 0 (lsgan).

    Source: Lim and Ye, "Geometric GAN", 2017; Mao et al., "Least Squares Generative Adversarial Networks", 2017.
    """
    pairs = zip(real, generated, strict=True)
    if kind == "hinge":
        return torch.stack([F.relu(1 - ours).mean() + F.relu(1 + theirs).mean() for ours, theirs in pairs]).sum()
    return torch.stack([(1 - ours).square().mean() + theirs.square().mean() for ours, theirs in pairs]).sum()


def generator_loss(kind: str, generated: Sequence[Tensor]) -> Tensor:
    """Summed over discriminators: generated material should score as real does."""
    if kind == "hinge":
        return torch.stack([-scores.mean() for scores in generated]).sum()
    return torch.stack([(1 - scores).square().mean() for scores in generated]).sum()


def feature_matching_loss(real: Sequence[Sequence[Tensor]], generated: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean difference of each feature map but the scores, summed over maps and discriminators; its gradient is the generated maps'.

    Source: Kong et al., "HiFi-GAN", 2020, equation 6.
    """
    differences = [
        (ours.detach() - theirs).abs().mean()
        for ours_maps, theirs_maps in zip(real, generated, strict=True)
        for ours, theirs in zip(ours_maps[:-1], theirs_maps[:-1], strict=True)
    ]
    return torch.stack(differences).sum()
