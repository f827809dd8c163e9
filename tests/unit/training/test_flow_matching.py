import pytest
import torch
from torch import Tensor

from training.checkpoint import load_trainable
from training.conditions import drop_conditions
from training.flow_matching import (
    add_noise,
    denoising_loss,
    draw_timestep_indices,
    flow_matching_losses,
    noise_levels,
    total_loss,
)
from training.init_checkpoint import ARCHITECTURES
from training.learning_rate import learning_rate_multiplier

COEFFICIENTS = {"mert": 1.0, "m-hubert": 1.0}


def test_noise_levels_fall_from_one_and_are_shifted():
    sigmas = noise_levels()
    assert len(sigmas) == 1000
    assert sigmas[0] == 1
    assert sigmas[500].item() == pytest.approx(0.75)
    assert sigmas[-1].item() == pytest.approx(0.003 / 1.002)
    assert (sigmas.diff() < 0).all()
    torch.testing.assert_close(noise_levels(1.0)[250].item(), 0.75)


def test_timesteps_are_drawn_by_seed_within_the_table():
    draws = [draw_timestep_indices(5000, torch.Generator().manual_seed(seed), logit_std=20.0) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert (draws[0].min(), draws[0].max()) == (0, 999)


def test_logit_mean_moves_the_density():
    later = draw_timestep_indices(5000, torch.Generator().manual_seed(0), logit_mean=1.0)
    assert later.double().mean().item() == pytest.approx(1000 * torch.randn(100_000).add(1).sigmoid().mean().item(), abs=15)


def test_noise_replaces_latents_at_sigma_one(batch):
    ends = add_noise(batch.latents, batch.noise, torch.tensor([0.0, 1.0]))
    assert torch.equal(ends[0], batch.latents[0])
    assert torch.equal(ends[1], batch.noise[1])


def test_true_velocity_has_no_loss(batch):
    sigmas = torch.tensor([0.9, 0.2])
    noisy = add_noise(batch.latents, batch.noise, sigmas)
    assert denoising_loss(batch.noise - batch.latents, noisy, batch.latents, sigmas) < 1e-12


def test_loss_is_the_velocitys_error_weighted_by_sigma_squared(batch):
    sigmas = torch.tensor([0.9, 0.2])
    velocity = torch.zeros_like(batch.noise)
    noisy = add_noise(batch.latents, batch.noise, sigmas)
    errors = (batch.noise - batch.latents).square().mean((1, 2, 3))
    torch.testing.assert_close(denoising_loss(velocity, noisy, batch.latents, sigmas), (sigmas.square() * errors).mean())


def test_padded_frames_are_not_in_the_loss(batch):
    sigmas = torch.tensor([0.9, 0.2])
    velocity, noisy = batch.noise, add_noise(batch.latents, batch.noise, sigmas)
    short = denoising_loss(velocity[1:, ..., :9], noisy[1:, ..., :9], batch.latents[1:, ..., :9], sigmas[1:])
    first = denoising_loss(velocity[:1], noisy[:1], batch.latents[:1], sigmas[:1])
    masked = denoising_loss(velocity, noisy, batch.latents, sigmas, batch.frame_mask)
    torch.testing.assert_close(masked, (first + short) / 2)


def test_mask_of_ones_is_no_mask(batch):
    sigmas = torch.tensor([0.9, 0.2])
    noisy = add_noise(batch.latents, batch.noise, sigmas)
    ones = torch.ones_like(batch.frame_mask)
    torch.testing.assert_close(
        denoising_loss(batch.noise, noisy, batch.latents, sigmas, ones), denoising_loss(batch.noise, noisy, batch.latents, sigmas)
    )


def test_total_weighs_each_encoder():
    losses = [("mert", torch.tensor(0.5)), ("m-hubert", torch.tensor(0.8))]
    assert total_loss(torch.tensor(2.0), losses, COEFFICIENTS).item() == pytest.approx(2.65)
    assert total_loss(torch.tensor(2.0), losses, {"mert": 1.0, "m-hubert": 0.01}).item() == pytest.approx(2.254)
    assert total_loss(torch.tensor(2.0), [], {}).item() == 2


def test_encoder_without_a_coefficient_is_an_error():
    with pytest.raises(KeyError, match="mert"):
        total_loss(torch.tensor(2.0), [("mert", torch.tensor(0.5))], {})


def test_losses_of_a_padded_batch_are_those_of_its_items(checkpoint, batch):
    model = load_trainable(checkpoint).eval()
    sigmas = torch.tensor([0.9, 0.2])

    def losses(latents: Tensor, noise: Tensor, items: slice, frame_mask: Tensor | None) -> Tensor:
        conditions = type(batch.conditions)(**{name: tensor[items] for name, tensor in vars(batch.conditions).items()})
        targets = [features[items] for features in batch.features]
        found = flow_matching_losses(model, latents, conditions, targets, COEFFICIENTS, noise, sigmas[items], frame_mask)
        return torch.stack([found.total, found.denoising, *found.projections.values()])

    with torch.no_grad():
        together = losses(batch.latents, batch.noise, slice(None), batch.frame_mask)
        first = losses(batch.latents[:1], batch.noise[:1], slice(0, 1), None)
        second = losses(batch.latents[1:, ..., :9], batch.noise[1:, ..., :9], slice(1, 2), None)
    torch.testing.assert_close(together, (first + second) / 2, atol=1e-5, rtol=1e-5)


def test_thirty_steps_lower_the_loss_and_repeat_exactly(tmp_path, write_transformer, make_batch):
    config = ARCHITECTURES["tiny"].transformer
    folder, batch = write_transformer(tmp_path / "checkpoint", config), make_batch(config)
    sigmas = noise_levels()

    def train() -> tuple[list[float], dict[str, Tensor]]:
        torch.manual_seed(0)  # dropout of the lyric encoder
        generator = torch.Generator().manual_seed(0)
        model = load_trainable(folder)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.8, 0.9), weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_multiplier(step, 30))
        losses = []
        for _ in range(30):
            indices = draw_timestep_indices(2, generator)
            noise = torch.randn(batch.latents.shape, generator=generator)
            conditions = drop_conditions(batch.conditions, generator)
            found = flow_matching_losses(
                model, batch.latents, conditions, batch.features, COEFFICIENTS, noise, sigmas[indices], batch.frame_mask
            )
            optimizer.zero_grad()
            found.total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            schedule.step()
            losses.append(found.total.item())
        return losses, model.state_dict()

    losses, weights = train()
    again_losses, again = train()
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert losses == again_losses
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights.items())
