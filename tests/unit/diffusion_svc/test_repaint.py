import pytest
import torch

from acestep_rpc.work import context_windows, extension_windows
from diffusion_svc.sampler import Sampler
from diffusion_svc.sampling.guidance import CfgType
from diffusion_svc.sampling.params import build_sampling_schedule
from diffusion_svc.sampling.repaint import build_mask, regenerate, repaint
from diffusion_svc.sampling.solvers import seeded_noise
from diffusion_svc.sampling.text_to_music import mix_noise
from diffusion_svc.tasks import Extend, Repaint
from tests import tiny

SOURCE = tiny.latents(12)


def repainted(variance=0.5, regions=((3, 7),), source=SOURCE, retake_seeds=(7,), **changes):
    return tiny.sample(tiny.sampling_request(task=Repaint(source, regions, variance, retake_seeds), **changes))


def extended(left, right, source=SOURCE, retake_seeds=(7,), **changes):
    return tiny.sample(tiny.sampling_request(task=Extend(source, left, right, retake_seeds), **changes))


@pytest.mark.parametrize("variance", [0.05, 0.3, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("regions", [((0, 1),), ((11, 12),), ((0, 11),), ((2, 4), (4, 5), (8, 12))])
@pytest.mark.parametrize("cfg_type", CfgType)
def test_outside_the_regions_the_source_comes_back_bit_for_bit(variance, regions, cfg_type):
    params = tiny.sampling_params(5, guidance=tiny.guidance_params(cfg_type=cfg_type, guidance_interval=1.0))
    (result,) = repainted(variance, regions, params=params)
    new = torch.zeros(12, dtype=torch.bool)
    for start, end in regions:
        new[start:end] = True
    assert torch.equal(result[..., ~new], SOURCE[..., ~new])
    assert (result != SOURCE)[..., new].any(dim=(0, 1)).all()


def test_defect_6_variance_0_gives_the_source_where_the_reference_gives_noise():
    sampler = Sampler(tiny.transformer())
    (song,) = sampler.start(tiny.sampling_request(task=Repaint(SOURCE, ((3, 7),), 0.0, (7,))))
    assert not song.pending
    assert song.evaluated_rows == 0
    assert torch.equal(song.result, SOURCE)


@pytest.mark.parametrize(("variance", "first"), [(1.0, 0), (0.7, 1), (0.5, 3), (0.3, 4), (0.1, 5)])
def test_variance_is_the_share_of_the_steps_that_run(variance, first):
    (song,) = Sampler(tiny.transformer()).start(
        tiny.sampling_request(params=tiny.sampling_params(6), task=Repaint(SOURCE, ((3, 7),), variance, (7,)))
    )
    assert song.pending[0].timestep_index == first


def test_defect_5_with_oss_steps_the_first_step_counts_among_the_selected_ones():
    params = tiny.sampling_params(20, oss_steps=(2, 4, 6, 8))
    (song,) = Sampler(tiny.transformer()).start(tiny.sampling_request(params=params, task=Repaint(SOURCE, ((3, 7),), 0.5, (7,))))
    assert song.pending[0].timestep_index == 2
    (result,) = repainted(params=params)
    assert torch.equal(result[..., :3], SOURCE[..., :3])
    assert not torch.equal(result[..., 3:7], SOURCE[..., 3:7])


def test_omega_has_no_effect_on_a_repaint():
    results = []
    for omega_scale in (-50.0, 50.0):
        params = tiny.sampling_params()
        object.__setattr__(params, "omega_scale", omega_scale)
        results += repainted(params=params)
    assert torch.equal(*results)


def test_the_retake_seed_changes_the_region_alone():
    params = tiny.sampling_params()
    schedule, mask = build_sampling_schedule(params), build_mask(12, [(0, 4)])

    def start(retake_seed):
        noise, retake_noise = (seeded_noise(seed, (8, 16, 12), torch.device("cpu")) for seed in (1, retake_seed))
        return next(repaint(params, schedule, SOURCE, mask, 1.0, noise, retake_noise))[0].latents

    first, second = start(2), start(3)
    assert torch.equal(first[..., 4:], second[..., 4:])
    assert not torch.equal(first[..., :4], second[..., :4])


def test_a_feathered_edge_rises_inside_its_region_and_not_at_the_ends_of_the_song():
    assert build_mask(8, [(2, 6)]).tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    assert build_mask(10, [(1, 9)], 4).tolist() == [0, 0.125, 0.375, 0.625, 0.875, 0.875, 0.625, 0.375, 0.125, 0]
    assert build_mask(6, [(0, 2), (4, 6)], 2).tolist() == [1, 0.5, 0, 0, 0.5, 1]
    assert build_mask(5, [(1, 4)], 50).tolist() == pytest.approx([0, 1 / 3, 1, 1 / 3, 0])


def test_a_feathered_repaint_goes_from_the_source_to_the_new_in_steps():
    source = tiny.latents(30)
    (result,) = tiny.sample(tiny.sampling_request(task=Repaint(source, ((5, 25),), 1.0, (7,), feather=8.0)))
    assert torch.equal(result[..., :5], source[..., :5])
    assert torch.equal(result[..., 25:], source[..., 25:])
    distance = (result - source).abs().mean(dim=(0, 1))
    assert distance[5:8].mean() < 0.5 * distance[12:18].mean()
    assert (distance[5:25] > 0).all()


def test_feathered_noise_is_standard_normal_everywhere():
    source = tiny.latents(400)
    (song,) = Sampler(tiny.transformer()).start(tiny.sampling_request(task=Repaint(source, ((50, 350),), 1.0, (7,), feather=150.0)))
    assert song.pending[0].latents.std(dim=(0, 1)).sub(1).abs().max() < 0.25


def test_no_feather_is_the_hard_edge_bit_for_bit():
    for variance in (0.3, 1.0):
        noise, second = (torch.randn(8, 16, 12, generator=torch.Generator().manual_seed(seed)) for seed in (1, 7))
        mixed = torch.where(torch.arange(12) < 4, mix_noise(noise, second, variance), noise)
        assert torch.equal(mix_noise(noise, second, variance, build_mask(12, [(0, 4)])), mixed)


def test_windows_around_regions_merge_where_they_touch():
    assert context_windows(100, [(10, 20), (40, 50)], 5) == [(5, 25), (35, 55)]
    assert context_windows(100, [(10, 20), (40, 50)], 10) == [(0, 60)]
    assert context_windows(100, [(2, 20), (96, 100)], 3) == [(0, 23), (93, 100)]


def test_a_context_as_wide_as_the_song_is_no_context():
    whole, wide = (tiny.sample(tiny.sampling_request(task=Repaint(SOURCE, ((3, 7),), 0.5, (7,), 0, context)))[0] for context in (None, 9))
    assert torch.equal(whole, wide)


def test_with_a_context_the_rest_of_the_song_is_neither_heard_nor_changed_nor_paid_for():
    source, regions = tiny.latents(60), ((10, 14), (40, 45))
    elsewhere = source.clone()
    elsewhere[..., 25:30] = 0
    results = []
    for heard in (source, elsewhere):
        (song,) = Sampler(tiny.transformer()).start(tiny.sampling_request(task=Repaint(heard, regions, 1.0, (7,), 1.0, 6)))
        lengths = []
        while song.pending:
            lengths.append((song.num_frames, song.steps_done))
            Sampler(tiny.transformer()).tick([song])
        assert lengths == [(16, 0), (16, 1), (16, 2), (16, 3), (17, 4), (17, 5), (17, 6), (17, 7)]
        assert song.steps_done == song.total_steps == 8
        results.append(song.result)
    kept = torch.ones(60, dtype=torch.bool)
    for start, end in regions:
        kept[start:end] = False
        assert torch.equal(results[0][..., start:end], results[1][..., start:end])
        assert not torch.equal(results[0][..., start:end], source[..., start:end])
    assert torch.equal(results[0][..., kept], source[..., kept])
    assert torch.equal(results[1][..., kept], elsewhere[..., kept])


@pytest.mark.parametrize("left", [0, 1, 5, 12, 13, 40])
@pytest.mark.parametrize("right", [0, 1, 5, 12, 13, 40])
def test_defects_13_and_14_each_side_gets_its_length_whatever_the_source_has(left, right):
    (result,) = extended(left, right, params=tiny.sampling_params(2))
    assert result.shape == (8, 16, left + 12 + right)
    assert torch.equal(result[..., left : left + 12], SOURCE)
    assert result.isfinite().all()


@pytest.mark.parametrize(("left", "right"), [(8, 3), (30, 0)], ids=["extend_both_small_right", "extend_left_longer_than_source"])
def test_extensions_that_crash_the_reference_work(left, right):
    source = tiny.latents(24)
    (result,) = extended(left, right, source)
    assert result.shape == (8, 16, left + 24 + right)
    assert torch.equal(result[..., left : left + 24], source)


def test_long_new_parts_do_not_share_noise():
    (song,) = Sampler(tiny.transformer()).start(tiny.sampling_request(task=Extend(SOURCE, 20, 25, (7,))))
    start = song.pending[0].latents
    noise = torch.randn(8, 16, 45, generator=torch.Generator().manual_seed(7))
    assert torch.equal(torch.cat([start[..., :20], start[..., 32:]], dim=-1), noise)


def long_extension(source, steps):
    params = tiny.sampling_params(steps, guidance=tiny.guidance_params(guidance_scale=1.0))
    return tiny.sample(tiny.sampling_request(task=Extend(source, 1400, 2700, (7,)), params=params))[0]


def test_every_window_of_a_long_extension_hears_what_it_overlaps_and_keeps_it():
    source = tiny.latents(100)
    windows = extension_windows(100, 1400, 2700)
    assert windows == [(1400, 3983), (1617, 4200), (108, 2691), (0, 2583)]
    params = tiny.sampling_params(1, guidance=tiny.guidance_params(guidance_scale=1.0))
    (song,) = (sampler := Sampler(tiny.transformer())).start(tiny.sampling_request(task=Extend(source, 1400, 2700, (7,)), params=params))
    inputs, lengths = [], []
    while song.pending:
        inputs.append(song.pending[0].latents)
        lengths.append((song.num_frames, song.steps_done))
        sampler.tick([song])
    assert lengths == [(stop - start, number) for number, (start, stop) in enumerate(windows)]
    assert song.total_steps == 4
    # the first noise level is 1: an overlap starts from its own noise and ends as what the window before made
    assert torch.equal(inputs[1][..., : 3983 - 1617], inputs[0][..., 1617 - 1400 :])
    assert torch.equal(inputs[2][..., 1400 - 108 :], inputs[0][..., : 2691 - 1400])
    assert torch.equal(song.result[..., 1400:1500], source)


def test_no_seam_of_a_long_extension_loses_or_doubles_a_frame():
    """Alone, the first window's new frames are what they are in the whole; so are those of each later one, given the ones before."""
    source = tiny.latents(100)
    whole = long_extension(source, steps=1)
    params = tiny.sampling_params(1, guidance=tiny.guidance_params(guidance_scale=1.0))
    noise, second = (torch.randn(8, 16, size, generator=torch.Generator().manual_seed(seed)) for size, seed in ((100, 1), (4100, 7)))
    start = torch.cat([second[..., :1400], noise, second[..., -2700:]], dim=-1)
    known = torch.zeros(4200, dtype=torch.bool)
    known[1400:1500] = True
    result = torch.zeros(8, 16, 4200)
    result[..., 1400:1500] = source
    for low, high in extension_windows(100, 1400, 2700):
        task = regenerate(
            params, build_sampling_schedule(params), result[..., low:high], (~known[low:high]).float(), start[..., low:high], 1.0
        )
        (evaluation,) = next(task)
        sampler = Sampler(tiny.transformer())
        (song,) = sampler.start(tiny.sampling_request(num_frames=4, params=params))
        song.wait_for([evaluation])
        (velocity,) = sampler.model(song.rows)
        with pytest.raises(StopIteration) as stopped:
            task.send([velocity])
        result[..., low:high] = stopped.value.value
        known[low:high] = True
    assert known.all()
    assert torch.equal(whole, result)


def test_the_new_frames_of_every_window_depend_on_the_ones_before():
    changed = tiny.latents(100)
    changed[..., -3:] *= -1
    first, second = long_extension(tiny.latents(100), steps=2), long_extension(changed, steps=2)
    for low, high in ((1500, 3983), (3983, 4200), (108, 1400), (0, 108)):
        assert not torch.equal(first[..., low:high], second[..., low:high])


def test_defect_17_every_song_of_a_request_is_extended():
    together = extended(5, 20, retake_seeds=(7, 8, 9), seeds=(1, 2, 3))
    assert [result.shape[-1] for result in together] == [37] * 3
    assert torch.equal(together[1], extended(5, 20, retake_seeds=(8,), seeds=(2,))[0])
    assert not torch.equal(together[0], together[1])


def test_defect_18_new_parts_start_from_full_noise():
    noise = [torch.randn(8, 16, 12, generator=torch.Generator().manual_seed(seed)) for seed in (1, 7)]
    (song,) = Sampler(tiny.transformer()).start(tiny.sampling_request(seeds=(1,), task=Extend(SOURCE, 5, 4, (7,))))
    start = song.pending[0]
    assert start.timestep_index == 0
    assert torch.equal(start.latents, torch.cat([noise[1][..., :5], noise[0], noise[1][..., -4:]], dim=-1))
