from dataclasses import replace

import pytest
import torch

from diffusion_svc.sampler import Sampler
from diffusion_svc.sampling.edit import EditWindow
from diffusion_svc.sampling.guidance import CfgType
from diffusion_svc.sampling.params import SchedulerType
from diffusion_svc.tasks import Edit
from tests import tiny

SOURCE = tiny.latents(10)
TARGET = tiny.conditions(seed=5, text_tokens=2, lyric_tokens=7)
UNGUIDED = tiny.guidance_params(1.0)


def edit_request(n_min=0.0, n_max=1.0, n_avg=1, target=TARGET, retake_seeds=(7,), **changes):
    return tiny.sampling_request(task=Edit(SOURCE, target, EditWindow(n_min, n_max, n_avg), retake_seeds), **changes)


def edited(*window, **changes):
    return tiny.sample(edit_request(*window, **changes))


def test_an_edit_to_the_same_prompt_leaves_the_source_as_it_is():
    params = tiny.sampling_params(6, guidance=UNGUIDED)
    (result,) = edited(0.0, 1.0, 2, target=tiny.conditions(), params=params)
    assert torch.equal(result, SOURCE)


def test_the_evaluations_of_a_step_share_one_forward():
    calls = []
    model = tiny.transformer()
    model.register_forward_pre_hook(lambda _, arguments: calls.append(len(arguments[0])))
    tiny.sample(edit_request(0.0, 0.5, 3, params=tiny.sampling_params(4)), Sampler(model))
    assert calls == [12, 12, 2, 2]  # source and target, each with its null condition, three draws; then the target alone


def test_without_guidance_each_prompt_is_evaluated_once():
    (song,) = Sampler(tiny.transformer()).start(edit_request(params=tiny.sampling_params(guidance=UNGUIDED)))
    assert len(song.rows) == 2


def test_source_and_target_are_evaluated_at_latents_of_their_own():
    sampler = Sampler(tiny.transformer())
    (song,) = sampler.start(edit_request())
    sampler.tick([song])
    source, source_null, target, target_null = (evaluation.latents for evaluation in song.pending)
    assert source is source_null
    assert target is target_null
    assert not torch.equal(source, target)


def test_each_prompt_has_its_own_null_condition():
    masked = torch.zeros(7, dtype=torch.bool)
    assert not torch.equal(edited()[0], edited(target=replace(TARGET, null_lyric_mask=masked))[0])
    own_masked = replace(tiny.conditions(), null_lyric_mask=torch.zeros(5, dtype=torch.bool))
    assert not torch.equal(edited()[0], edited(states=own_masked)[0])


@pytest.mark.parametrize(("n_min", "n_max", "first", "followed"), [(0.0, 1.0, 0, 6), (0.2, 0.7, 1, 3), (0.0, 0.0, 0, 0), (1.0, 1.0, 6, 0)])
def test_the_window_chooses_the_steps(n_min, n_max, first, followed):
    sampler = Sampler(tiny.transformer())
    (song,) = sampler.start(edit_request(n_min, n_max, params=tiny.sampling_params(6)))
    rows = []
    while song.pending:
        rows.append((song.pending[0].timestep_index, len(song.rows)))
        sampler.tick([song])
    assert [index for index, _ in rows] == list(range(first, 6))
    assert [count for _, count in rows] == [4] * followed + [2] * (6 - first - followed)
    if first == 6:
        assert torch.equal(song.result, SOURCE)


def test_more_draws_come_closer_to_their_mean():
    params = tiny.sampling_params(3, guidance=UNGUIDED)

    def spread(n_avg):
        return torch.stack(edited(0.0, 1.0, n_avg, params=params, seeds=(0,) * 8, retake_seeds=tuple(range(8)))).std(dim=0).mean()

    assert spread(16) < 0.6 * spread(1)


def test_defect_20_every_song_of_a_request_is_edited_with_noise_of_its_own():
    together = edited(0.0, 0.6, 2, seeds=(1, 1, 1), retake_seeds=(7, 8, 9))
    for result, seed in zip(together, (7, 8, 9), strict=True):
        assert torch.equal(result, edited(0.0, 0.6, 2, retake_seeds=(seed,))[0])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("n_max", [0.5, 1.0])
def test_defect_22_ping_pong_keeps_what_following_the_source_gave(n_max):
    params = tiny.sampling_params(4, SchedulerType.PINGPONG)
    (followed,) = edited(0.0, n_max, params=params)
    (dropped,) = edited(n_max, n_max, params=params)
    assert not torch.allclose(followed, dropped, atol=1e-2)


def test_ping_pong_differs_from_euler_after_the_window_alone():
    euler, pingpong = (tiny.sampling_params(4, solver) for solver in (SchedulerType.EULER, SchedulerType.PINGPONG))
    assert torch.equal(edited(0.0, 1.0, params=euler)[0], edited(0.0, 1.0, params=pingpong)[0])
    assert not torch.equal(edited(0.0, 0.5, params=euler)[0], edited(0.0, 0.5, params=pingpong)[0])


@pytest.mark.parametrize("solver", [SchedulerType.EULER, SchedulerType.PINGPONG])
def test_defect_23_a_bfloat16_network_edits_too(solver):
    sampler = Sampler(tiny.transformer().to(torch.bfloat16))
    (result,) = tiny.sample(edit_request(0.0, 0.5, params=tiny.sampling_params(4, solver)), sampler)
    assert result.dtype == torch.float32
    assert result.isfinite().all()


def test_what_means_nothing_to_an_edit_changes_nothing():
    usual = tiny.sampling_params()
    guidance = tiny.guidance_params(cfg_type=CfgType.APG, guidance_interval=0.1, min_guidance_scale=1.0)
    unusual = replace(usual, omega_scale=-90.0, use_erg_diffusion=False, guidance=guidance)
    sampler = Sampler(tiny.transformer(num_layers=17))  # entropy-rectified guidance weakens blocks from 15 on
    (result,) = tiny.sample(edit_request(params=usual), sampler)
    assert torch.equal(result, tiny.sample(edit_request(params=unusual), sampler)[0])
