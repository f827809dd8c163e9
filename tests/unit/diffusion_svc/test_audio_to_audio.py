import pytest
import torch

from diffusion_svc.sampler import Sampler
from diffusion_svc.sampling.audio_to_audio import build_reference_schedule
from diffusion_svc.sampling.params import SchedulerType
from diffusion_svc.tasks import AudioToAudio
from tests import tiny

REFERENCE = tiny.latents(11)


def test_strength_1_is_the_reference_without_an_evaluation():
    (song,) = Sampler(tiny.transformer()).start(tiny.sampling_request(task=AudioToAudio(REFERENCE, 1.0)))
    assert song.evaluated_rows == song.total_steps == 0
    assert torch.equal(song.result, REFERENCE)


@pytest.mark.parametrize("solver", SchedulerType)
def test_strength_0_is_the_song_of_the_seed_at_the_length_of_the_reference(solver):
    params = tiny.sampling_params(scheduler_type=solver)
    (followed,) = tiny.sample(tiny.sampling_request(seeds=(3,), params=params, task=AudioToAudio(REFERENCE, 0.0)))
    assert torch.equal(followed, tiny.sample(tiny.sampling_request(seeds=(3,), params=params, num_frames=11))[0])


@pytest.mark.parametrize(
    ("strength", "infer_step", "steps"), [(0.9, 10, 1), (0.8, 10, 2), (0.7, 10, 3), (0.99, 10, 1), (0.5, 1, 1), (0.4, 6, 3), (0.3, 12, 8)]
)
def test_defect_3_the_number_of_steps_does_not_suffer_from_rounding_and_is_never_0(strength, infer_step, steps):
    schedule = build_reference_schedule(tiny.sampling_params(infer_step), strength)
    assert len(schedule.timesteps) == schedule.num_steps == steps


def test_defect_3_the_result_of_strength_0_9_has_been_sampled():
    sampler = Sampler(tiny.transformer())
    (song,) = sampler.start(tiny.sampling_request(params=tiny.sampling_params(10), task=AudioToAudio(REFERENCE, 0.9)))
    mixed = song.pending[0].latents
    sampler.tick([song])
    assert song.evaluated_rows > 0
    assert not torch.equal(song.result, mixed)


def test_the_stronger_the_closer():
    params = tiny.sampling_params(20, guidance=tiny.guidance_params(1.0))
    distances = [
        (tiny.sample(tiny.sampling_request(params=params, task=AudioToAudio(REFERENCE, strength)))[0] - REFERENCE).norm().item()
        for strength in (0.2, 0.5, 0.8, 0.95, 1.0)
    ]
    assert distances == sorted(distances, reverse=True)
