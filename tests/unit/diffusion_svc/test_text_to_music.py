import pytest
import torch

from diffusion_svc.sampling.params import SchedulerType
from diffusion_svc.sampling.text_to_music import mix_noise
from diffusion_svc.tasks import Retake
from tests import tiny


def retake(variances, retake_seeds, seeds, **changes):
    return tiny.sample(tiny.sampling_request(seeds=seeds, task=Retake(9, variances, retake_seeds), **changes))


@pytest.mark.parametrize("solver", [SchedulerType.EULER, SchedulerType.HEUN])
def test_variance_0_is_the_song_of_the_seed(solver):
    params = tiny.sampling_params(scheduler_type=solver)
    (song,) = tiny.sample(tiny.sampling_request(seeds=(3,), params=params))
    assert torch.equal(retake((0.0,), (8,), (3,), params=params)[0], song)


def test_variance_1_is_the_song_of_the_retake_seed():
    (song,) = tiny.sample(tiny.sampling_request(seeds=(8,)))
    assert torch.allclose(retake((1.0,), (8,), (3,))[0], song, atol=1e-5)


def test_a_grid_of_variances_and_seeds_gives_each_song_as_if_alone():
    grid = [(variance, seed) for variance in (0.2, 0.7) for seed in (8, 9)]
    together = retake(tuple(variance for variance, _ in grid), tuple(seed for _, seed in grid), (3,) * 4)
    for song, (variance, seed) in zip(together, grid, strict=True):
        assert torch.equal(song, retake((variance,), (seed,), (3,))[0])
    assert len({song.sum().item() for song in together}) == 4


def test_mixed_noise_stays_standard_normal():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 100_000, generator=generator)
    for variance in (0.0, 0.3, 0.5, 1.0):
        assert mix_noise(first, second, variance).std().item() == pytest.approx(1, abs=0.01)
