from collections import Counter
from dataclasses import replace

import pytest
import torch

from acestep_rpc.errors import ShapeTooLarge, StageError
from diffusion_svc.sampler import Sampler, Song
from diffusion_svc.sampling.edit import EditWindow
from diffusion_svc.sampling.guidance import Branch, CfgType
from diffusion_svc.sampling.params import SchedulerType
from diffusion_svc.tasks import AudioToAudio, Edit, Extend, Repaint, Retake
from tests import tiny


def run(sampler: Sampler, *songs: Song) -> list[torch.Tensor]:
    while waiting := [song for song in songs if song.pending]:
        sampler.tick(waiting)
    return [song.result for song in songs]


def count_calls(model: torch.nn.Module) -> Counter:
    """Counts forwards of every submodule by its name."""
    counts: Counter = Counter()
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: counts.update([name]))
    return counts


def test_keys_and_values_are_projected_once_a_request_and_condition():
    model = tiny.transformer(num_layers=2)
    counts, sampler = count_calls(model), Sampler(model)
    params = tiny.sampling_params(
        6, guidance=tiny.guidance_params(guidance_interval=1.0, guidance_scale_text=5.0, guidance_scale_lyric=2.0)
    )
    run(sampler, *sampler.start(tiny.sampling_request(seeds=(1, 2), params=params)))
    for block in range(2):
        assert counts[f"transformer_blocks.{block}.cross_attn.to_k"] == 3  # full, null, text only; not 6 steps x 2 songs x 3
        assert counts[f"transformer_blocks.{block}.cross_attn.to_v"] == 3
    assert counts["genre_embedder"] == counts["lyric_proj"] == counts["speaker_embedder"] == 3


def test_timesteps_are_embedded_once_a_schedule():
    model = tiny.transformer()
    counts, sampler = count_calls(model), Sampler(model)
    for seed in (1, 2, 3):
        run(sampler, *sampler.start(tiny.sampling_request(seeds=(seed,))))
    assert counts["timestep_embedder"] == counts["t_block"] == 1
    run(sampler, *sampler.start(tiny.sampling_request(params=tiny.sampling_params(infer_step=5))))
    assert counts["timestep_embedder"] == counts["t_block"] == 2


def test_the_branches_of_all_songs_share_one_forward_a_step():
    model = tiny.transformer()
    counts, sampler = count_calls(model), Sampler(model)
    songs = sampler.start(tiny.sampling_request(seeds=(1, 2, 3)))
    run(sampler, *songs)
    assert counts[""] == 4
    assert [song.evaluated_rows for song in songs] == [2 + 2 * 2] * 3  # 4 steps, the middle two guided


def test_heun_makes_two_evaluations_a_step_but_one_at_the_end():
    sampler = Sampler(tiny.transformer())
    (song,) = sampler.start(tiny.sampling_request(params=tiny.sampling_params(4, SchedulerType.HEUN)))
    assert song.total_steps == 7
    run(sampler, song)
    assert song.steps_done == 7


def test_cfg_star_skips_the_evaluations_of_its_zero_steps():
    model = tiny.transformer()
    counts, sampler = count_calls(model), Sampler(model)
    params = tiny.sampling_params(4, guidance=tiny.guidance_params(cfg_type=CfgType.CFG_STAR, guidance_interval=1.0))
    (song,) = sampler.start(tiny.sampling_request(params=params))
    assert song.steps_done == 2
    run(sampler, song)
    assert counts[""] == 2


def test_a_run_without_any_evaluation_is_its_noise():
    params = tiny.sampling_params(2, guidance=tiny.guidance_params(cfg_type=CfgType.CFG_STAR, guidance_interval=1.0))
    (song,) = Sampler(tiny.transformer()).start(tiny.sampling_request(seeds=(5,), params=params))
    assert torch.equal(song.result, torch.randn(8, 16, 9, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("solver", SchedulerType)
def test_defects_11_and_12_a_song_has_the_same_bits_alone_and_in_company(solver):
    sampler = Sampler(tiny.transformer())
    params = tiny.sampling_params(5, solver)
    (alone,) = run(sampler, *sampler.start(tiny.sampling_request(seeds=(3,), params=params)))
    variants = sampler.start(tiny.sampling_request(seeds=(1, 3, 2), params=params))
    stranger = sampler.start(tiny.sampling_request(seeds=(9,), params=tiny.sampling_params(3), states=tiny.conditions(7, 2, 8)))
    results = run(sampler, *variants, *stranger)
    assert torch.equal(results[1], alone)
    assert not torch.equal(results[0], alone)


LATENTS = tiny.latents(9)
TASKS = {
    "retake": Retake(9, (0.2, 0.4, 0.6), (7, 8, 9)),
    "repaint": Repaint(LATENTS, ((2, 5),), 0.7, (7, 8, 9)),
    "extend": Extend(LATENTS[..., :4], 3, 2, (7, 8, 9)),
    "edit": Edit(LATENTS, tiny.conditions(5, 2, 7), EditWindow(0.0, 0.6, 2), (7, 8, 9)),
    "audio_to_audio": AudioToAudio(LATENTS, 0.3),
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_the_same_bits_alone_and_in_company(task):
    spec, sampler, params = TASKS[task], Sampler(tiny.transformer()), tiny.sampling_params(5)
    lists = {name: (getattr(spec, name)[1],) for name in ("retake_seeds", "variances") if hasattr(spec, name)}
    (alone,) = run(sampler, *sampler.start(tiny.sampling_request(seeds=(3,), params=params, task=replace(spec, **lists))))
    songs = sampler.start(tiny.sampling_request(seeds=(1, 3, 2), params=params, task=spec))
    others = [
        song
        for name, other in TASKS.items()
        if name != task
        for song in sampler.start(tiny.sampling_request(seeds=(4, 5, 6), params=tiny.sampling_params(4), task=other))
    ]
    results = run(sampler, *songs, *others)
    assert torch.equal(results[1], alone)
    assert not torch.equal(results[0], alone)


def test_joining_late_changes_nothing():
    sampler = Sampler(tiny.transformer())
    (expected,) = run(sampler, *sampler.start(tiny.sampling_request(seeds=(4,))))
    (early,) = sampler.start(tiny.sampling_request(seeds=(8,)))
    sampler.tick([early])
    (late,) = sampler.start(tiny.sampling_request(seeds=(4,)))
    assert torch.equal(run(sampler, early, late)[1], expected)


def test_values_that_are_not_finite_are_an_error():
    model = tiny.transformer()
    model.final_layer.linear.bias[0] = torch.nan
    sampler = Sampler(model)
    (song,) = sampler.start(tiny.sampling_request())
    (result,) = run(sampler, song)
    assert isinstance(result, StageError)


def test_a_masked_null_condition_is_used():
    sampler, states = Sampler(tiny.transformer()), tiny.conditions()
    masked = type(states)(**{**vars(states), "null_lyric_mask": torch.zeros(5, dtype=torch.bool)})
    results = [run(sampler, *sampler.start(tiny.sampling_request(states=which)))[0] for which in (states, masked)]
    assert not torch.equal(*results)


@pytest.mark.parametrize("cfg_type", CfgType)
@pytest.mark.parametrize("double", [False, True])
def test_negative_tags_of_another_length_steer_every_guidance_rule(cfg_type, double):
    weights = {"guidance_scale_text": 5.0, "guidance_scale_lyric": 2.0} if double else {}
    params = tiny.sampling_params(6, guidance=tiny.guidance_params(cfg_type=cfg_type, **weights))
    sampler, states = Sampler(tiny.transformer()), tiny.conditions()
    requests = [
        tiny.sampling_request(params=params, states=replace(states, null_text=tiny.conditions(seed, tokens).text))
        for seed, tokens in ((1, 3), (2, 3), (2, 7))
    ]
    alone = [run(sampler, *sampler.start(request))[0] for request in requests]
    together = run(sampler, *(song for request in requests for song in sampler.start(request)))
    assert not torch.equal(alone[0], alone[1])
    assert not torch.equal(alone[1], alone[2])
    assert all(torch.equal(*pair) for pair in zip(alone, together, strict=True))


def sample_without_sharing_rows(sampler: Sampler, request) -> torch.Tensor:
    (song,) = sampler.start(request)
    while song.pending:
        song.rows, song.answers = [song._row(evaluation) for evaluation in song.pending], range(len(song.pending))
        sampler.tick([song])
    return song.result


def test_without_lyrics_the_full_and_the_tags_only_branch_are_one_row():
    sampler, states = Sampler(tiny.transformer()), tiny.conditions()
    guidance = tiny.guidance_params(guidance_interval=1.0, guidance_scale_text=5.0, guidance_scale_lyric=2.0)
    for lyric_mask, rows in ((states.lyric_mask, 3), (torch.zeros_like(states.lyric_mask), 2)):
        request = tiny.sampling_request(states=replace(states, lyric_mask=lyric_mask), params=tiny.sampling_params(4, guidance=guidance))
        (song,) = sampler.start(request)
        assert len(song.pending) == 3
        assert len(set(map(id, song.contexts.values()))) == rows
        (result,) = run(sampler, song)
        assert song.evaluated_rows == 4 * rows
        assert torch.equal(result, sample_without_sharing_rows(sampler, request))


def test_equal_null_conditions_of_an_edit_share_keys_and_values_and_a_row_while_its_latents_are_equal():
    sampler, nothing = Sampler(tiny.transformer()), torch.zeros(5, dtype=torch.bool)
    states, target = (replace(tiny.conditions(seed), null_text=None, null_lyric_mask=nothing) for seed in (1, 2))
    request = tiny.sampling_request(
        states=states, task=Edit(LATENTS, target, EditWindow(0.0, 1.0, 2), (7,)), params=tiny.sampling_params(3)
    )
    (song,) = sampler.start(request)
    assert song.contexts[Branch.NULL] is song.contexts[Branch.TARGET_NULL]
    rows = []
    while song.pending:
        rows.append((len(song.pending), len(song.rows)))
        sampler.tick([song])
    assert rows == [(8, 6), (8, 8), (8, 8)]  # two draws of noise; after the first step source and result differ
    assert torch.equal(song.result, sample_without_sharing_rows(sampler, request))


def test_other_tags_beside_the_same_lyrics_share_nothing():
    states = tiny.conditions()
    (song,) = Sampler(tiny.transformer()).start(tiny.sampling_request(states=replace(states, null_lyrics=states.lyrics)))
    assert song.contexts[Branch.FULL] is not song.contexts[Branch.NULL]


def test_songs_of_different_lengths_share_a_forward():
    model = tiny.transformer()
    counts, sampler = count_calls(model), Sampler(model)
    songs = [song for frames in (4, 9, 30) for song in sampler.start(tiny.sampling_request((frames,), frames))]
    alone = [run(Sampler(tiny.transformer()), *sampler.start(tiny.sampling_request((frames,), frames)))[0] for frames in (4, 9, 30)]
    assert all(torch.equal(*pair) for pair in zip(run(sampler, *songs), alone, strict=True))
    assert counts[""] == 4
    assert songs[2].device_seconds > songs[1].device_seconds > songs[0].device_seconds > 0


class SmallDevice(torch.nn.Module):
    """A network on a device that holds so many rows x frames."""

    def __init__(self, model, capacity):
        super().__init__()
        self.model, self.capacity = model, capacity

    def __getattr__(self, name):
        return super().__getattr__(name) if name in ("model", "capacity") else getattr(self.model, name)

    def forward(self, rows, share_products=None):
        if sum(row.num_frames for row in rows) > self.capacity:
            raise torch.OutOfMemoryError("too much")
        return self.model(rows, share_products)


def test_what_does_not_fit_together_is_halved_and_what_does_not_fit_alone_ends():
    sampler = Sampler(SmallDevice(tiny.transformer(), 40))
    songs = [song for frames in (30, 4, 9) for song in sampler.start(tiny.sampling_request((frames,), frames))]
    large, *others = run(sampler, *songs)
    assert isinstance(large, ShapeTooLarge)
    for result, frames in zip(others, (4, 9), strict=True):
        assert torch.equal(result, tiny.sample(tiny.sampling_request((frames,), frames))[0])
