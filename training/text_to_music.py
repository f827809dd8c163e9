"""Training of the transformer with its lyric encoder, as a Lightning module over preprocessed songs.

Every random number of a micro-batch comes from the run's seed and the micro-batch's number, so that neither a resume nor the number of
processes changes what is computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from training.batches import Batch, mixed_seed
from training.conditions import LYRIC_DROPOUT, SPEAKER_DROPOUT, TEXT_DROPOUT, drop_conditions
from training.flow_matching import SHIFT, draw_timestep_indices, flow_matching_losses, noise_levels
from training.learning_rate import WARMUP_STEPS, learning_rate_multiplier
from training.model import TrainableTransformer
from training.optimizers import MuonAdamW

STEP_NOISE, LAYER_DROPOUT = 1, 2
"""Purposes of random numbers; 0 draws the batch."""


@dataclass(frozen=True)
class Objective:
    """What is minimised, and how.

    Attributes:
        learning_rate: Of AdamW, at its peak.
        muon_learning_rate: Of Muon on the matrices of the blocks; None: AdamW alone.
        betas: Of AdamW.
        weight_decay: Of AdamW.
        warmup_steps: Until the peak.
        decay_from: Share of the run after which the learning rate falls, linearly to 0; 0: after the warm-up, as in the reference.
        shift: Of the noise levels.
        logit_mean: Of the noise levels' density.
        logit_std: Of the noise levels' density.
        velocity_loss: Weigh all noise levels' velocity errors alike; else by sigma squared, as the reference does.
        ssl_coefficients: Weight of each projection loss; absent: 1.
        text_dropout: Probability that an item's text is left out.
        speaker_dropout: The same for its speaker.
        lyric_dropout: The same for its lyrics.
        ema_decay: Of the averaged weights; 0: none are kept.
    """

    learning_rate: float = 1e-4
    muon_learning_rate: float | None = None
    betas: tuple[float, float] = (0.8, 0.9)
    weight_decay: float = 1e-2
    warmup_steps: int = WARMUP_STEPS
    decay_from: float = 0.0
    shift: float = SHIFT
    logit_mean: float = 0.0
    logit_std: float = 1.0
    velocity_loss: bool = False
    ssl_coefficients: Mapping[str, float] = field(default_factory=dict)
    text_dropout: float = TEXT_DROPOUT
    speaker_dropout: float = SPEAKER_DROPOUT
    lyric_dropout: float = LYRIC_DROPOUT
    ema_decay: float = 0.0


class TextToMusic(LightningModule):
    """The module that Lightning trains.

    Args:
        model: In float32, in training mode.
        objective: What is minimised.
        max_steps: Optimiser steps of the whole run, for the schedule.
        seed: Of noise, noise levels and dropout.
    """

    def __init__(self, model: TrainableTransformer, objective: Objective, max_steps: int, seed: int) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.max_steps = max_steps
        self.seed = seed
        self.averaged: dict[str, Tensor] = {}
        if objective.ema_decay:
            self.averaged = {name: parameter.detach().clone() for name, parameter in _trained(model)}

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Lightning moves no frozen dataclasses by itself."""
        return batch.to(device)

    def training_step(self, batch: Batch) -> Tensor:
        """Losses of a micro-batch."""
        objective = self.objective
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, batch.number, STEP_NOISE))
        torch.manual_seed(mixed_seed(self.seed, batch.number, LAYER_DROPOUT))  # dropout inside the lyric encoder
        indices = draw_timestep_indices(len(batch.latents), generator, objective.logit_mean, objective.logit_std)
        noise = torch.randn(batch.latents.shape, generator=generator).to(batch.latents.device)
        conditions = drop_conditions(
            batch.conditions, generator, objective.text_dropout, objective.speaker_dropout, objective.lyric_dropout
        )
        names = self.model.config.ssl_names
        losses = flow_matching_losses(
            self.model,
            batch.latents,
            conditions,
            [batch.features.get(name) for name in names],
            {name: objective.ssl_coefficients.get(name, 1.0) for name in names},
            noise,
            noise_levels(objective.shift)[indices].to(batch.latents.device),
            batch.frame_mask,
            velocity=objective.velocity_loss,
        )
        named = {f"train/{name}_loss": loss for name, loss in losses.projections.items()}
        named |= {"train/denoising_loss": losses.denoising, "train/loss": losses.total}
        self.log_dict({name: loss.detach() for name, loss in named.items()}, batch_size=len(batch.latents), prog_bar=True)
        return losses.total

    def configure_optimizers(self) -> Any:
        """The optimiser and its schedule, a multiplier per step."""
        objective = self.objective
        optimizer: Optimizer
        if objective.muon_learning_rate is None:
            trained = [parameter for _, parameter in _trained(self.model)]
            optimizer = AdamW(trained, objective.learning_rate, betas=objective.betas, weight_decay=objective.weight_decay)
        else:
            optimizer = MuonAdamW(
                self.model, objective.learning_rate, objective.muon_learning_rate, objective.betas, objective.weight_decay
            )
        scheduler = LambdaLR(optimizer, self.learning_rate_multiplier)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def learning_rate_multiplier(self, step: int) -> float:
        """Multiplier of the peak at a step: warm-up, constant until `decay_from`, then down to 0."""
        objective = self.objective
        start = max(objective.warmup_steps, int(objective.decay_from * self.max_steps))
        if objective.warmup_steps <= step < start:
            return 1.0
        if step >= start:
            return max(0.0, (self.max_steps - step) / (self.max_steps - start))
        return learning_rate_multiplier(step, self.max_steps, objective.warmup_steps)

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """A step, then the average over weights: before any callback saves them. A short run's average forgets its start sooner."""
        super().optimizer_step(*arguments, **named)
        decay = min(self.objective.ema_decay, (self.global_step + 1) / (self.global_step + 10))
        with torch.no_grad():
            for name, parameter in _trained(self.model) if self.averaged else ():
                self.averaged[name].lerp_(parameter.detach(), 1 - decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the averages beside the weights."""
        checkpoint["averaged"] = self.averaged

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the averages back."""
        for name, tensor in checkpoint["averaged"].items():
            self.averaged[name].copy_(tensor)


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
