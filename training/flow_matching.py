"""Flow matching: noise levels and how often each is trained, noising, and the loss.

It knows no data and no optimiser. Noise and timesteps are arguments: who draws them decides what is reproducible.

B batch, T latent frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.conditions import Conditions
from training.model import TrainableTransformer
from training.projection_losses import FeatureBatch, projection_losses

NUM_TRAIN_TIMESTEPS = 1000
SHIFT = 3.0


def noise_levels(shift: float = SHIFT) -> Tensor:
    """Sigmas of the training timesteps, descending from 1, [1000] float32. A timestep is 1000 sigma."""
    linear = torch.arange(NUM_TRAIN_TIMESTEPS, 0, -1, dtype=torch.float32) / NUM_TRAIN_TIMESTEPS
    return shift * linear / (1 + (shift - 1) * linear)


def draw_timestep_indices(count: int, generator: torch.Generator, logit_mean: float = 0.0, logit_std: float = 1.0) -> Tensor:
    """Which noise levels to train, logit-normal: indices into `noise_levels`, [count] int64.

    Args:
        count: Number of items.
        generator: On the CPU.
        logit_mean: Of the normal variable before the sigmoid. The table of noise levels is shifted already.
        logit_std: Its standard deviation.
    """
    positions = torch.normal(logit_mean, logit_std, (count,), generator=generator).sigmoid()
    return (positions * NUM_TRAIN_TIMESTEPS).long().clamp(0, NUM_TRAIN_TIMESTEPS - 1)


def add_noise(latents: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Between latents (sigma 0) and noise (sigma 1), [B, 8, 16, T] with sigmas [B]."""
    weight = sigmas[:, None, None, None]
    return weight * noise + (1 - weight) * latents


def denoising_loss(velocity: Tensor, noisy: Tensor, latents: Tensor, sigmas: Tensor, frame_mask: Tensor | None = None) -> Tensor:
    """Squared error of the denoised estimate: the velocity's error, weighted by sigma squared.

    Args:
        velocity: What the network says of `noisy`, [B, 8, 16, T].
        noisy: [B, 8, 16, T].
        latents: The truth, [B, 8, 16, T].
        sigmas: Noise levels, [B].
        frame_mask: [B, T], 1 = real. Every item is the mean over its own real frames and weighs the same. None: every frame is real; the
            reference has that always.
    """
    denoised = noisy - sigmas[:, None, None, None] * velocity
    return masked_mean(denoised - latents, frame_mask)


def masked_mean(errors: Tensor, frame_mask: Tensor | None = None) -> Tensor:
    """Mean square of errors [B, 8, 16, T]; under a mask [B, T] over each item's real frames, every item weighing the same."""
    frame_errors = errors.square().mean(dim=(1, 2))  # [B, T]
    if frame_mask is None:
        return frame_errors.mean()
    mask = frame_mask.to(frame_errors.dtype)
    return ((frame_errors * mask).sum(1) / mask.sum(1)).mean()


@dataclass(frozen=True)
class Losses:
    """Losses of one batch, scalars.

    Attributes:
        total: What is minimised.
        denoising: Its first part.
        projections: Its other parts before their coefficients, by the name of the encoder.
    """

    total: Tensor
    denoising: Tensor
    projections: Mapping[str, Tensor]


def total_loss(denoising: Tensor, projections: Sequence[tuple[str, Tensor]], coefficients: Mapping[str, float]) -> Tensor:
    """Denoising loss plus the mean of the projection losses, each times the coefficient of its encoder (1 in the reference)."""
    if not projections:
        return denoising
    return denoising + torch.stack([coefficients[name] * loss for name, loss in projections]).mean()


def flow_matching_losses(
    model: TrainableTransformer,
    latents: Tensor,
    conditions: Conditions,
    ssl_targets: Sequence[FeatureBatch | None],
    ssl_coefficients: Mapping[str, float],
    noise: Tensor,
    sigmas: Tensor,
    frame_mask: Tensor | None = None,
    velocity: bool = False,
) -> Losses:
    """One evaluation of the network and its losses.

    Args:
        model: Its `ssl_names` name the encoders.
        latents: Of songs, [B, 8, 16, T].
        conditions: After their dropout.
        ssl_targets: Features of each encoder; None: the encoder is left out.
        ssl_coefficients: Weight of each encoder that has targets.
        noise: Standard normal, like the latents.
        sigmas: Noise levels, [B].
        frame_mask: [B, T], 1 = real; padding is on the right. Padding then touches neither the network nor a loss. None: no padding.
        velocity: Weigh all noise levels alike: the error of the velocity itself, not of the denoised estimate.
    """
    noisy = add_noise(latents, noise, sigmas)
    prediction = model.predict(noisy, NUM_TRAIN_TIMESTEPS * sigmas, conditions, frame_mask)
    predicted = prediction.velocity.float()
    if velocity:
        denoising = masked_mean(predicted - (noise - latents), frame_mask)
    else:
        denoising = denoising_loss(predicted, noisy, latents, sigmas, frame_mask)
    projections = projection_losses(
        model.projectors,  # type: ignore[arg-type]
        model.config.ssl_names,
        prediction.hidden_states,
        ssl_targets,
        None if frame_mask is None else frame_mask.sum(1).long().tolist(),
    )
    return Losses(total_loss(denoising, projections, ssl_coefficients), denoising, dict(projections))
