"""The promise of the batcher: a song is the same alone and in any company, whoever joins and leaves, and whatever the others ask for.

On a CPU rows do not share matrix products and results have the same bits; where they do share them, as on other devices, they are within
1e-5 of the largest value.
"""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_svc.adapters import Adaptation, AdapterStore
from diffusion_svc.model.transformer import Transformer
from diffusion_svc.sampler import Sampler, SamplingRequest, Song
from diffusion_svc.sampling.edit import EditWindow
from diffusion_svc.sampling.guidance import CfgType
from diffusion_svc.sampling.params import SchedulerType
from diffusion_svc.tasks import AudioToAudio, ConditionStates, Edit, Extend, Repaint, Retake, TaskSpec, TextToMusic
from tests import tiny
from tests.unit.diffusion_svc.test_adapters import low_rank, write

TOLERANCE = 1e-5
MODEL = tiny.transformer(num_layers=2)


def draw_adaptations(folder: Path, model: Transformer = MODEL) -> list[Adaptation | None]:
    """None, and some of two random adapters in a folder."""
    for name, seed in (("a", 1), ("b", 2)):
        write(folder, name, low_rank(model, seed=seed))
    store = AdapterStore(folder, model, max_loaded=2)
    return [None, None, store.select([("a", 1.0)]), store.select([("b", -0.5)]), store.select([("a", 0.3), ("b", 1.0)])]


@pytest.fixture(scope="module")
def adaptations(tmp_path_factory) -> list[Adaptation | None]:
    return draw_adaptations(tmp_path_factory.mktemp("adapters"))


class RecordingSampler(Sampler):
    """Keeps the noise that songs drew."""

    def __init__(self, model: Transformer, share_products: bool | None = None) -> None:
        super().__init__(model, share_products)
        self.noise: dict[int, list[torch.Tensor]] = {}

    def _noise_of(self, seed, num_frames):
        draw, drawn = super()._noise_of(seed, num_frames), self.noise.setdefault(seed, [])

        def recorded():
            drawn.append(draw())
            return drawn[-1]

        return recorded


def random_states(randoms: random.Random) -> ConditionStates:
    states = tiny.conditions(randoms.randrange(1000), randoms.randint(1, 9), randoms.randint(1, 12))
    kind = randoms.choice(("plain", "zero null tags", "null without lyrics", "negative tags", "no lyrics"))
    nothing = torch.zeros_like(states.lyric_mask)
    match kind:
        case "zero null tags":
            return replace(states, null_text=None)
        case "null without lyrics":
            return replace(states, null_text=None, null_lyric_mask=nothing)
        case "negative tags":
            return replace(states, null_text=tiny.conditions(1, 13).text)
        case "no lyrics":
            return replace(states, lyric_mask=nothing)
    return states


def random_task(randoms: random.Random, frames: int, seed: int) -> TaskSpec:
    source = tiny.latents(frames, seed)
    start = randoms.randrange(frames)
    region = (start, randoms.randint(start + 1, frames))
    match randoms.randrange(6):
        case 0:
            return TextToMusic(frames)
        case 1:
            return Retake(frames, (randoms.random(),), (seed + 1,))
        case 2:
            context = randoms.choice((None, randoms.randrange(frames)))
            return Repaint(source, (region,), randoms.uniform(0.3, 1), (seed + 1,), randoms.choice((0.0, 1.0)), context)
        case 3:
            return Extend(source, randoms.randint(1, frames), randoms.randint(0, frames), (seed + 1,))
        case 4:
            low, high = sorted((randoms.uniform(0, 0.5), randoms.uniform(0.5, 1)))
            return Edit(source, random_states(randoms), EditWindow(low, high, randoms.randint(1, 2)), (seed + 1,))
        case _:
            return AudioToAudio(source, randoms.uniform(0, 0.9))


def random_request(randoms: random.Random, frames: int, seed: int, adaptation: Adaptation | None) -> SamplingRequest:
    """Any task, solver and guidance for one song; seeds of requests are 10 apart."""
    double = {"guidance_scale_text": 5.0, "guidance_scale_lyric": 2.0} if randoms.random() < 0.2 else {}
    guidance = tiny.guidance_params(
        guidance_scale=randoms.choice((1.0, 4.0, 15.0)),
        cfg_type=randoms.choice(tuple(CfgType)),
        guidance_interval=randoms.choice((0.5, 1.0)),
        guidance_interval_decay=randoms.choice((0.0, 0.7)),
        **double,
    )
    task = random_task(randoms, frames, seed)
    solvers = {Repaint: (SchedulerType.EULER,), Extend: (SchedulerType.EULER,), Edit: (SchedulerType.EULER, SchedulerType.PINGPONG)}
    solver = randoms.choice(solvers.get(type(task), tuple(SchedulerType)))
    params = replace(tiny.sampling_params(randoms.randint(2, 7), solver, guidance), use_erg_diffusion=randoms.random() < 0.5)
    return SamplingRequest(random_states(randoms), params, (seed,), task, adaptation)


def sample_in_company(sampler: Sampler, requests: list[SamplingRequest], randoms: random.Random) -> list[torch.Tensor]:
    """Every song joins at a random tick, and each tick takes a random part of those that are there."""
    coming, present, songs = list(enumerate(requests)), [], {}
    while coming or present:
        while coming and (not present or randoms.random() < 0.5):
            index, request = coming.pop()
            (songs[index],) = sampler.start(request)
            present.append(songs[index])
        present = [song for song in present if song.pending]
        if present:
            sampler.tick(randoms.sample(present, randoms.randint(1, len(present))))
    return [songs[index].result for index in range(len(requests))]


def assert_invariant(requests: list[SamplingRequest], randoms: random.Random, model: Transformer = MODEL) -> float:
    """Largest difference of a song alone and in company over the larger of 1 and its largest value."""
    solo, bitwise, shared = RecordingSampler(model), RecordingSampler(model, False), RecordingSampler(model, True)
    alone = [tiny.sample(request, solo)[0] for request in requests]
    for expected, together in zip(alone, sample_in_company(bitwise, requests, randoms), strict=True):
        assert torch.equal(together, expected)
    largest = 0.0
    for expected, together in zip(alone, sample_in_company(shared, requests, randoms), strict=True):
        assert together.shape == expected.shape
        largest = max(largest, ((together - expected).abs().max() / max(expected.abs().max().item(), 1.0)).item())
    for sampler in (bitwise, shared):
        assert sampler.noise.keys() == solo.noise.keys()
        for seed, drawn in solo.noise.items():
            assert len(drawn) == len(sampler.noise[seed])
            assert all(torch.equal(*pair) for pair in zip(drawn, sampler.noise[seed], strict=True))
    assert largest < TOLERANCE
    return largest


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_mix_of_requests_gives_each_its_own_song(adaptations, seed):
    randoms = random.Random(seed)
    requests = [
        random_request(randoms, randoms.randint(1, 60), 10 * index, randoms.choice(adaptations)) for index in range(randoms.randint(2, 12))
    ]
    assert_invariant(requests, randoms)


def company(request: SamplingRequest) -> list[SamplingRequest]:
    """A request between a longer and a shorter one that differ from it in everything."""
    others = [
        tiny.sampling_request((90 + frames,), frames, tiny.sampling_params(5, SchedulerType.PINGPONG), tiny.conditions(frames, 2, 8))
        for frames in (4, 40)
    ]
    return [others[0], request, others[1]]


def together(request: SamplingRequest) -> torch.Tensor:
    sampler = Sampler(MODEL, share_products=True)
    songs = [song for one in company(request) for song in sampler.start(one)]
    run(sampler, songs)
    return songs[1].result


def run(sampler: Sampler, songs: list[Song]) -> None:
    while waiting := [song for song in songs if song.pending]:
        sampler.tick(waiting)


def assert_own_song(request: SamplingRequest) -> None:
    (alone,) = tiny.sample(request, Sampler(MODEL))
    assert (together(request) - alone).abs().max() < TOLERANCE * max(alone.abs().max().item(), 1.0)


@pytest.mark.parametrize("solver", [SchedulerType.EULER, SchedulerType.HEUN])
def test_omega_shifts_by_the_mean_of_one_song(solver):
    assert_own_song(tiny.sampling_request(params=tiny.sampling_params(5, solver, tiny.guidance_params(guidance_scale=1.0))))


def test_the_norms_and_the_momentum_of_apg_are_those_of_one_song():
    guidance = tiny.guidance_params(guidance_scale=15.0, cfg_type=CfgType.APG, guidance_interval=1.0)
    assert_own_song(tiny.sampling_request(params=tiny.sampling_params(7, guidance=guidance)))


def test_the_projection_of_cfg_star_is_that_of_one_song():
    guidance = tiny.guidance_params(guidance_scale=4.0, cfg_type=CfgType.CFG_STAR, guidance_interval=1.0)
    assert_own_song(tiny.sampling_request(params=tiny.sampling_params(7, guidance=guidance)))


def test_ping_pong_draws_from_the_seed_of_one_song():
    request = tiny.sampling_request((5,), params=tiny.sampling_params(5, SchedulerType.PINGPONG))
    assert_own_song(request)
    alone, beside = RecordingSampler(MODEL), RecordingSampler(MODEL, share_products=True)
    tiny.sample(request, alone)
    run(beside, [song for one in company(request) for song in beside.start(one)])
    assert len(alone.noise[5]) == 5
    assert torch.equal(torch.stack(alone.noise[5]), torch.stack(beside.noise[5]))


def test_a_song_that_leaves_changes_no_other():
    request, sampler = tiny.sampling_request((3,)), Sampler(MODEL, share_products=True)
    (alone,) = tiny.sample(request, Sampler(MODEL))
    leaving, staying = (sampler.start(one)[0] for one in (tiny.sampling_request((4,), 30), request))
    sampler.tick([leaving, staying])
    sampler.tick([leaving, staying])
    leaving.task.close()
    run(sampler, [staying])
    assert (staying.result - alone).abs().max() < TOLERANCE
