"""Training of the transformer with its lyric encoder, as a Lightning module over preprocessed songs.

Every random number of a micro-batch comes from the run's seed and the micro-batch's number, so that neither a resume nor the number of
processes changes what is computed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from training.batches import Batch, mixed_seed
from training.conditions import LYRIC_DROPOUT, SPEAKER_DROPOUT, TEXT_DROPOUT, drop_conditions
from training.flow_matching import SHIFT, Losses, draw_timestep_indices, flow_matching_losses, noise_levels
from training.learning_rate import WARMUP_STEPS, plateau_multiplier
from training.model import TrainableTransformer
from training.optimizers import MuonAdamW

STEP_NOISE, LAYER_DROPOUT = 1, 2
"""Purposes of random numbers; 0 draws the batch."""


Points = Sequence[tuple[float, float]]


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
        ssl_coefficients: Weight of each projection loss; absent: 1. A weight that changes is given as points (share of the run, weight),
            ascending, with straight lines between them.
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
    ssl_coefficients: Mapping[str, float | Points] = field(default_factory=dict)
    text_dropout: float = TEXT_DROPOUT
    speaker_dropout: float = SPEAKER_DROPOUT
    lyric_dropout: float = LYRIC_DROPOUT
    ema_decay: float = 0.0

    def ssl_coefficient(self, name: str, share: float) -> float:
        """Weight of a projection loss after a share of the run, 0 to 1."""
        weight = self.ssl_coefficients.get(name, 1.0)
        if isinstance(weight, float | int):
            return weight
        return float(np.interp(share, [point[0] for point in weight], [point[1] for point in weight]))


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
        # The frozen weights under an adapter are not in the checkpoints of a run.
        self.strict_loading = all(parameter.requires_grad for parameter in model.parameters())

    def configure_model(self) -> None:
        """Share the weights among the devices if the run does; then begin the averages."""
        if self.device_mesh is not None:
            blocks = [*self.model.lyric_encoder.encoders, *self.model.transformer_blocks]
            for block in blocks:
                fully_shard(block, mesh=self.device_mesh["data_parallel"])
            fully_shard(self.model, mesh=self.device_mesh["data_parallel"])
            register_fsdp_forward_method(self.model, "predict")
        if self.objective.ema_decay and not self.averaged:
            self.averaged = {name: parameter.detach().clone() for name, parameter in trained_parameters(self.model)}

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Lightning moves no frozen dataclasses by itself."""
        return batch.to(device)

    def training_step(self, batch: Batch) -> Tensor:
        """Losses of a micro-batch."""
        losses = self._losses(batch)
        self._log(losses, "train", len(batch.latents))
        return losses.total

    def validation_step(self, batch: Batch) -> None:
        """Losses of a micro-batch that the run does not train on, with the noise of its number; Lightning turns dropout off in layers."""
        self._log(self._losses(batch), "val", len(batch.latents))

    def _log(self, losses: Losses, stage: str, batch_size: int) -> None:
        named = {f"{stage}/{name}_loss": loss for name, loss in losses.projections.items()}
        named |= {f"{stage}/denoising_loss": losses.denoising, f"{stage}/loss": losses.total}
        self.log_dict({name: loss.detach() for name, loss in named.items()}, batch_size=batch_size, prog_bar=True)

    def _losses(self, batch: Batch) -> Losses:
        objective = self.objective
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, batch.number, STEP_NOISE))
        torch.manual_seed(mixed_seed(self.seed, batch.number, LAYER_DROPOUT))  # dropout inside the lyric encoder
        indices = draw_timestep_indices(len(batch.latents), generator, objective.logit_mean, objective.logit_std)
        noise = torch.randn(batch.latents.shape, generator=generator).to(batch.latents.device)
        conditions = drop_conditions(
            batch.conditions, generator, objective.text_dropout, objective.speaker_dropout, objective.lyric_dropout
        )
        names = self.model.config.ssl_names
        return flow_matching_losses(
            self.model,
            batch.latents,
            conditions,
            [batch.features.get(name) for name in names],
            {name: objective.ssl_coefficient(name, self.global_step / self.max_steps) for name in names},
            noise,
            noise_levels(objective.shift)[indices].to(batch.latents.device),
            batch.frame_mask,
            velocity=objective.velocity_loss,
        )

    def configure_optimizers(self) -> Any:
        """The optimiser and its schedule, a multiplier per step."""
        objective = self.objective
        optimizer: Optimizer
        if objective.muon_learning_rate is None:
            trained = [parameter for _, parameter in trained_parameters(self.model)]
            optimizer = AdamW(trained, objective.learning_rate, betas=objective.betas, weight_decay=objective.weight_decay)
        else:
            optimizer = MuonAdamW(
                self.model, objective.learning_rate, objective.muon_learning_rate, objective.betas, objective.weight_decay
            )
        scheduler = LambdaLR(optimizer, self.learning_rate_multiplier)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def learning_rate_multiplier(self, step: int) -> float:
        """Multiplier of the peak at a step: warm-up, constant until `decay_from`, then down to 0."""
        return plateau_multiplier(step, self.max_steps, self.objective.warmup_steps, self.objective.decay_from)

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """A step, then the average over weights: before any callback saves them. A short run's average forgets its start sooner."""
        super().optimizer_step(*arguments, **named)
        decay = min(self.objective.ema_decay, (self.global_step + 1) / (self.global_step + 10))
        with torch.no_grad():
            for name, parameter in trained_parameters(self.model) if self.averaged else ():
                self.averaged[name].lerp_(parameter.detach(), 1 - decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the averages beside the weights, and of the weights only what is trained."""
        checkpoint["trained"] = [name for name, _ in trained_parameters(self.model)]
        kept = {f"model.{name}" for name in checkpoint["trained"]}
        checkpoint["state_dict"] = {name: tensor for name, tensor in checkpoint["state_dict"].items() if name in kept}
        checkpoint["averaged"] = {name: whole(tensor).cpu() for name, tensor in self.averaged.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the averages back.

        Raises:
            ValueError: The checkpoint is of a run that trained something else.
        """
        if different := {name for name, _ in trained_parameters(self.model)} ^ set(checkpoint["trained"]):
            raise ValueError(f"the run to go on with trained other weights, for example {min(different)}")
        for name, tensor in checkpoint["averaged"].items():
            with torch.no_grad():
                self.averaged[name].copy_(like(tensor, self.averaged[name]))

    def final_weights(self) -> dict[str, Tensor]:
        """What was trained, averaged if the run averages, whole and on the CPU; every process must ask."""
        tensors = self.averaged or {name: parameter.detach() for name, parameter in trained_parameters(self.model)}
        return {name: whole(tensor).cpu() for name, tensor in tensors.items()}

    @contextmanager
    def sampling_weights(self) -> Iterator[TrainableTransformer]:
        """The network in evaluation mode with the averaged weights, if the run averages; then again as it was."""
        kept = {name: parameter.detach().clone() for name, parameter in trained_parameters(self.model) if self.averaged}
        self.model.load_state_dict(self.averaged, strict=False)
        self.model.eval()
        try:
            yield self.model
        finally:
            self.model.load_state_dict(kept, strict=False)
            self.model.train()


def whole(tensor: Tensor) -> Tensor:
    """A tensor that devices share, gathered."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, shared: Tensor) -> Tensor:
    """A whole tensor, shared among devices as another one is."""
    return distribute_tensor(tensor.to(shared.device), shared.device_mesh, shared.placements) if isinstance(shared, DTensor) else tensor


def trained_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """What an optimiser may change, by name."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def frozen_weights(model: nn.Module) -> dict[str, Tensor]:
    """What it may not, whole and on the CPU; every process must ask."""
    return {name: whole(parameter.detach()).cpu() for name, parameter in model.named_parameters() if not parameter.requires_grad}
