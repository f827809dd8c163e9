import pytest
import torch

from diffusion_svc.sampler import Sampler
from tests import tiny

pytestmark = pytest.mark.gpu

# Largest difference over the largest value, after a whole run. TF32 is off: what is left is the order of float32 operations.
FLOAT32 = 1e-4
BFLOAT16 = 5e-2


def run(model, *requests):
    sampler = Sampler(model)
    songs = [song for request in requests for song in sampler.start(request)]
    while waiting := [song for song in songs if song.pending]:
        sampler.tick(waiting)
    return [song.result for song in songs]


def difference(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return ((ours - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def model(request, device):
    return tiny.transformer(num_layers=16).to(device, request.param)


def tolerance(model) -> float:
    return FLOAT32 if model.dtype is torch.float32 else BFLOAT16


def test_a_seed_is_the_song_of_the_cpu(model):
    request = tiny.sampling_request(num_frames=64)
    (expected,) = run(tiny.transformer(num_layers=16), request)
    (ours,) = run(model, request)
    assert difference(ours, expected) < tolerance(model)


def test_a_song_is_the_same_in_company(model):
    own = tiny.sampling_request(seeds=(3,), num_frames=64)
    others = [tiny.sampling_request(seeds=(seed,), num_frames=64, states=tiny.conditions(seed, 2, 3 + seed)) for seed in range(5)]
    (alone,) = run(model, own)
    *_, company = run(model, *others, own)
    assert difference(company, alone) < tolerance(model)


def test_a_song_is_the_same_beside_songs_of_other_lengths(model):
    own = tiny.sampling_request(seeds=(3,), num_frames=64)
    others = [tiny.sampling_request((seed,), 7 + 40 * seed, states=tiny.conditions(seed, 2, 3 + seed)) for seed in range(5)]
    (alone,) = run(model, own)
    *_, company = run(model, *others, own)
    assert difference(company, alone) < tolerance(model)


def test_the_same_run_twice_has_the_same_bits(model):
    request = tiny.sampling_request(seeds=(1, 2), num_frames=64)
    for first, second in zip(run(model, request), run(model, request), strict=True):
        assert torch.equal(first, second)
