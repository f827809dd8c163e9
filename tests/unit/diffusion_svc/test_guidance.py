import pytest
import torch

from acestep_rpc.work import guided_range
from diffusion_svc.sampling.guidance import Branch, CfgType, Guidance, MomentumBuffer, apg, cfg, cfg_star, double_condition
from tests import tiny


def velocities(seed: int) -> torch.Tensor:
    return torch.randn(8, 16, 5, generator=torch.Generator().manual_seed(seed))


FULL, NULL, TEXT = velocities(0), velocities(1), velocities(2)


@pytest.mark.parametrize(
    ("num_steps", "interval", "expected"),
    [(27, 0.5, range(6, 20)), (60, 0.5, range(15, 45)), (6, 1.0, range(6)), (6, 0.0, range(3, 3)), (1, 0.5, range(0))],
)
def test_the_middle_of_the_run_is_guided(num_steps, interval, expected):
    assert guided_range(num_steps, interval) == expected


def test_scale_1_is_the_full_velocity_under_every_rule():
    assert torch.allclose(cfg(FULL, NULL, 1.0), FULL, atol=1e-6)
    assert torch.allclose(cfg_star(FULL, NULL, 1.0), FULL, atol=1e-6)
    assert torch.equal(apg(FULL, NULL, 1.0, None), FULL)
    assert torch.allclose(double_condition(FULL, TEXT, NULL, 1.0, 1.0), FULL, atol=1e-6)


def test_cfg_star_projects_the_null_velocity_on_the_full_one():
    # null parallel to full: its projection is full itself, and no scale can move the result
    assert torch.allclose(cfg_star(FULL, 0.1 * FULL, 7.0), FULL, atol=1e-5)


def test_cfg_star_treats_each_song_of_a_stack_alone():
    stacked = cfg_star(torch.stack([FULL, TEXT]), torch.stack([NULL, FULL]), 3.0)
    assert torch.allclose(stacked[1], cfg_star(TEXT, FULL, 3.0), atol=1e-6)


def test_apg_adds_nothing_along_the_full_velocity():
    added = apg(FULL, NULL, 6.0, None) - FULL
    assert ((added * FULL).sum((-2, -1)).abs() < 1e-3).all()


def test_apg_caps_the_norm_of_each_channel():
    added = apg(FULL, NULL, 2.0, None) - FULL
    assert (added.norm(dim=(-2, -1)) <= 2.5 + 1e-4).all()
    uncapped = apg(FULL, NULL, 2.0, None, norm_threshold=0) - FULL
    assert (uncapped.norm(dim=(-2, -1)) > 2.5).all()


def test_apg_momentum_lives_on_and_stores_the_uncapped_sum():
    buffer = MomentumBuffer()
    apg(FULL, NULL, 3.0, buffer)
    assert torch.allclose(buffer.update(torch.zeros_like(FULL)), -0.75 * (FULL - NULL))


def test_scale_falls_linearly_to_the_minimum():
    guidance = Guidance(tiny.guidance_params(15.0, guidance_interval=1.0, guidance_interval_decay=1.0), num_steps=5)
    assert [guidance.scale(index) for index in range(5)] == [15.0, 12.0, 9.0, 6.0, 3.0]


def test_half_a_decay_falls_half_way():
    guidance = Guidance(tiny.guidance_params(15.0, guidance_interval=1.0, guidance_interval_decay=0.5), num_steps=5)
    assert guidance.scale(4) == 9.0


def test_defect_9_decay_over_one_guided_step_keeps_the_scale():
    guidance = Guidance(tiny.guidance_params(15.0, guidance_interval=0.5, guidance_interval_decay=1.0), num_steps=2)
    assert [guidance.branches(index) for index in range(2)] == [(Branch.FULL, Branch.NULL), (Branch.FULL,)]
    assert guidance.scale(0) == 15.0


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_defect_37_scales_0_and_1_switch_guidance_off_even_with_double_condition(scale):
    params = tiny.guidance_params(scale, guidance_interval=1.0, guidance_scale_text=5.0, guidance_scale_lyric=2.0)
    assert {Guidance(params, 4).branches(index) for index in range(4)} == {(Branch.FULL,)}


def test_double_condition_takes_the_place_of_the_rule_and_ignores_the_decay():
    params = tiny.guidance_params(
        9.0, CfgType.CFG, guidance_interval=1.0, guidance_interval_decay=1.0, guidance_scale_text=5.0, guidance_scale_lyric=1.5
    )
    guidance = Guidance(params, 3)
    assert guidance.branches(2) == (Branch.FULL, Branch.TEXT_ONLY, Branch.NULL)
    answer = {Branch.FULL: FULL, Branch.TEXT_ONLY: TEXT, Branch.NULL: NULL}
    assert torch.equal(guidance.combine(2, answer), double_condition(FULL, TEXT, NULL, 5.0, 1.5))


def test_double_condition_needs_both_scales_above_1():
    params = tiny.guidance_params(9.0, guidance_interval=1.0, guidance_scale_text=5.0, guidance_scale_lyric=1.0)
    assert Guidance(params, 3).branches(0) == (Branch.FULL, Branch.NULL)


def test_cfg_star_evaluates_nothing_in_its_zero_steps():
    guidance = Guidance(tiny.guidance_params(4.0, CfgType.CFG_STAR, guidance_interval=1.0), num_steps=4)
    assert [len(guidance.branches(index)) for index in range(4)] == [0, 0, 2, 2]


def test_cfg_star_zero_steps_count_from_the_start_of_the_run_not_of_the_interval():
    guidance = Guidance(tiny.guidance_params(4.0, CfgType.CFG_STAR, guidance_interval=0.5), num_steps=8)
    assert [len(guidance.branches(index)) for index in range(8)] == [1, 1, 2, 2, 2, 2, 1, 1]
