import pytest
import torch

from diffusion_svc.sampling.schedule import Schedule, build_schedule, heun_schedule
from diffusion_svc.sampling.solvers import Euler, Heun, PingPong, omega_factor, seeded_noise, shift_mean


def latents(seed: int = 0) -> torch.Tensor:
    return torch.randn(8, 16, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("omega", "factor"), [(0.0, 1.0), (10.0, 1.0462117157260011), (-100.0, 0.9000090795737405), (100.0, 1.0999909204262597)]
)
def test_omega_scales_between_0_9_and_1_1(omega, factor):
    assert omega_factor(omega) == pytest.approx(factor, rel=1e-12)


def test_mean_shift_keeps_the_mean_and_scales_the_deviation():
    update = latents()
    shifted = shift_mean(update, 1.05)
    assert shifted.mean() == pytest.approx(update.mean().item(), abs=1e-6)
    assert shifted.std() == pytest.approx(1.05 * update.std().item(), rel=1e-5)


def test_euler_follows_a_constant_velocity_to_the_data():
    schedule, data, noise = build_schedule(7), latents(1), latents(2)
    solver, x = Euler(schedule, omega_scale=0.0), noise
    for index in range(7):
        x = solver.step(x, noise - data, index)
    assert (x - data).abs().max() < 1e-5


def test_heun_is_exact_where_the_velocity_is_linear_in_sigma():
    schedule = heun_schedule(build_schedule(4))
    solver, start = Heun(schedule, omega_scale=0.0), latents()
    x = start
    for index, sigma in enumerate(schedule.sigmas[:-1]):
        x = solver.step(x, torch.full_like(x, sigma), index)
        if index == 5:  # three whole steps: from sigma 1 to the last level; the integral of s ds is s^2 / 2
            assert (x - start - (sigma**2 - 1) / 2).abs().max() < 1e-6


def test_heun_ends_on_a_trial_step():
    schedule = heun_schedule(build_schedule(2))
    solver, x = Heun(schedule, omega_scale=0.0), latents()
    for index in range(2):
        x = solver.step(x, torch.zeros_like(x), index)
    velocity = latents(3)
    assert torch.equal(solver.step(x, velocity, 2), x - schedule.sigmas[2] * velocity)


def test_pingpong_mixes_the_clean_estimate_with_fresh_noise():
    schedule = Schedule(timesteps=(1000.0, 500.0), sigmas=(1.0, 0.5, 0.0), num_steps=2)
    noise, x, velocity = latents(4), latents(5), latents(6)
    solver = PingPong(schedule, lambda: noise)
    assert torch.allclose(solver.step(x, velocity, 0), 0.5 * (x - velocity) + 0.5 * noise)


def test_pingpong_draws_nothing_for_the_last_step():
    def never():
        raise AssertionError("noise of weight 0 was drawn")

    schedule = Schedule(timesteps=(500.0,), sigmas=(0.5, 0.0), num_steps=1)
    x, velocity = latents(), latents(1)
    assert torch.equal(PingPong(schedule, never).step(x, velocity, 0), x - 0.5 * velocity)


def test_noise_is_that_of_the_seed_and_goes_on():
    first, again = seeded_noise(7, (2, 3), torch.device("cpu")), seeded_noise(7, (2, 3), torch.device("cpu"))
    draws = first(), first()
    assert torch.equal(draws[0], again())
    assert torch.equal(draws[1], again())
    assert not torch.equal(*draws)
    assert torch.equal(draws[0], torch.randn(2, 3, generator=torch.Generator().manual_seed(7)))
