import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from acestep_rpc.errors import Overloaded, StageError
from diffusion_svc.batcher import Batcher, Progress, Result
from diffusion_svc.sampler import Sampler, SamplingRequest
from tests import tiny


class CountingSampler(Sampler):
    """Notes which songs shared a forward, and can break."""

    def __init__(self, model, broken_length=None):
        super().__init__(model)
        self.groups: list[tuple[int, int]] = []  # number of songs, their frames
        self.broken_length = broken_length

    def tick(self, songs):
        self.groups.append((len(songs), songs[0].num_frames))
        if songs[0].num_frames == self.broken_length:
            raise RuntimeError("broken device")
        return super().tick(songs)


@pytest.fixture
def sampler():
    return CountingSampler(tiny.transformer())


def make(sampler: Sampler, max_rows: int = 16, max_requests: int = 8) -> Batcher:
    return Batcher(sampler, ThreadPoolExecutor(max_workers=1), max_rows, max_requests)


async def collect(batcher: Batcher, request: SamplingRequest) -> list[Progress | Result]:
    return [event async for event in batcher.sample(request)]


async def test_progress_counts_the_steps_of_all_songs_and_the_result_is_last(sampler):
    *progress, result = await collect(make(sampler), tiny.sampling_request(seeds=(1, 2)))
    assert [event.step for event in progress] == [2, 4, 6, 8]
    assert {event.total_steps for event in progress} == {8}
    assert [event.batch_rows for event in progress] == [2, 4, 4, 2]
    assert len(result.latents) == 2
    assert result.evaluated_rows == 12
    assert result.device_seconds > 0


async def test_requests_of_one_length_share_forwards_and_get_their_own_songs(sampler):
    batcher = make(sampler)
    alone = (await collect(batcher, tiny.sampling_request(seeds=(3,))))[-1]
    sampler.groups.clear()
    requests = [tiny.sampling_request(seeds=(seed,), states=tiny.conditions(seed, 2, seed + 1)) for seed in range(4)]
    requests[3] = tiny.sampling_request(seeds=(3,))
    results = await asyncio.gather(*(collect(batcher, request) for request in requests))
    assert torch.equal(results[3][-1].latents[0], alone.latents[0])
    assert max(number for number, _ in sampler.groups) == 4


async def test_lengths_take_turns(sampler):
    batcher = make(sampler)
    await asyncio.gather(*(collect(batcher, tiny.sampling_request(num_frames=frames)) for frames in (5, 8)))
    lengths = [frames for _, frames in sampler.groups]
    assert sorted(lengths) == [5] * 4 + [8] * 4
    assert lengths[1:5].count(8) == 2


async def test_the_row_budget_bounds_a_forward_and_nobody_starves(sampler):
    batcher = make(sampler, max_rows=4)
    results = await asyncio.gather(*(collect(batcher, tiny.sampling_request(seeds=(seed,))) for seed in range(5)))
    assert all(isinstance(events[-1], Result) for events in results)
    assert max(event.batch_rows for events in results for event in events[:-1]) <= 4


async def test_closing_the_iterator_stops_the_evaluations(sampler):
    batcher = make(sampler)
    events = batcher.sample(tiny.sampling_request(params=tiny.sampling_params(infer_step=500)))
    assert isinstance(await anext(events), Progress)
    await events.aclose()
    await asyncio.sleep(0.05)
    steps = len(sampler.groups)
    await asyncio.sleep(0.05)
    assert len(sampler.groups) == steps < 500
    assert isinstance((await collect(batcher, tiny.sampling_request()))[-1], Result)


async def test_one_request_too_many_is_refused_with_a_retry_hint(sampler):
    batcher = make(sampler, max_requests=1)
    first = batcher.sample(tiny.sampling_request(params=tiny.sampling_params(infer_step=500)))
    await anext(first)
    with pytest.raises(Overloaded) as refused:
        await collect(batcher, tiny.sampling_request())
    assert refused.value.retry_after_seconds > 0
    await first.aclose()
    assert isinstance((await collect(batcher, tiny.sampling_request()))[-1], Result)


async def test_a_failed_forward_fails_its_requests_alone():
    sampler = CountingSampler(tiny.transformer(), broken_length=5)
    batcher = make(sampler)
    broken, whole = await asyncio.gather(
        *(collect(batcher, tiny.sampling_request(num_frames=frames)) for frames in (5, 8)), return_exceptions=True
    )
    assert isinstance(broken, StageError)
    assert isinstance(whole[-1], Result)


async def test_a_run_without_evaluations_ends_at_once(sampler):
    params = tiny.sampling_params(1, guidance=tiny.guidance_params(cfg_type=tiny.CfgType.CFG_STAR, guidance_interval=1.0))
    (result,) = await collect(make(sampler), tiny.sampling_request(params=params))
    assert isinstance(result, Result)
    assert sampler.groups == []
