import asyncio
import gc
import math
import random
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from prometheus_client import REGISTRY

from acestep_rpc.admission import Memory
from acestep_rpc.errors import Overloaded, ShapeTooLarge, StageError
from diffusion_svc.batcher import Batcher, Progress, Result
from diffusion_svc.budget import Budget
from diffusion_svc.memory import LATENT_COPIES, request_bytes
from diffusion_svc.sampler import Sampler, SamplingRequest
from diffusion_svc.scheduling import Priority, Terms
from tests import tiny


class CountingSampler(Sampler):
    """Notes the lengths of the songs that shared a forward, and can break."""

    def __init__(self, model, broken_length=None):
        super().__init__(model)
        self.groups: list[list[int]] = []
        self.broken_length = broken_length

    def tick(self, songs):
        self.groups.append([song.num_frames for song in songs])
        if self.broken_length in self.groups[-1]:
            raise RuntimeError("broken device")
        return super().tick(songs)


@pytest.fixture
def sampler():
    return CountingSampler(tiny.transformer())


def make(sampler: Sampler, budget: int = 160, max_requests: int = 8) -> Batcher:
    return Batcher(sampler, ThreadPoolExecutor(max_workers=1), Budget(budget, 0.01), max_requests)


async def collect(batcher: Batcher, request: SamplingRequest, terms: Terms | None = None) -> list[Progress | Result]:
    return [event async for event in batcher.sample(request, terms)]


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
    assert max(map(len, sampler.groups)) == 4


async def test_lengths_share_forwards(sampler):
    batcher = make(sampler)
    await asyncio.gather(*(collect(batcher, tiny.sampling_request(num_frames=frames)) for frames in (5, 8, 30)))
    assert [5, 8, 30] in [sorted(group) for group in sampler.groups]


async def test_the_budget_of_rows_and_frames_bounds_a_forward_and_nobody_starves(sampler):
    batcher = make(sampler, budget=4 * 9)
    results = await asyncio.gather(*(collect(batcher, tiny.sampling_request(seeds=(seed,))) for seed in range(5)))
    assert all(isinstance(events[-1], Result) for events in results)
    assert max(event.batch_rows for events in results for event in events[:-1]) <= 4


async def test_a_song_beyond_the_budget_runs_alone_and_short_ones_finish_beside_it(sampler):
    batcher = make(sampler, budget=30)
    long = asyncio.create_task(collect(batcher, tiny.sampling_request(num_frames=100, params=tiny.sampling_params(40))))
    while [100] not in sampler.groups:
        await asyncio.sleep(0.001)
    await asyncio.gather(*(collect(batcher, tiny.sampling_request((seed,), num_frames=5)) for seed in range(3)))
    assert not long.done()
    await long
    assert all(group == [100] for group in sampler.groups if 100 in group)
    short = [index for index, group in enumerate(sampler.groups) if 100 not in group]
    assert sum(100 in group for group in sampler.groups[short[0] : short[-1]]) <= 2  # all their work is less than one step of the long one


async def test_the_urgent_class_overtakes(sampler):
    batcher = make(sampler, budget=1)
    ended: list[Priority] = []

    async def run(priority: Priority) -> None:
        await collect(batcher, tiny.sampling_request(params=tiny.sampling_params(6)), Terms(priority))
        ended.append(priority)

    await asyncio.gather(*map(run, (Priority.BATCH, Priority.NORMAL, Priority.INTERACTIVE)))
    assert ended == [Priority.INTERACTIVE, Priority.NORMAL, Priority.BATCH]


async def test_a_close_deadline_overtakes(sampler):
    batcher = make(sampler, budget=1)
    ended: list[str] = []

    async def run(name: str, deadline: float) -> None:
        await collect(batcher, tiny.sampling_request(params=tiny.sampling_params(6)), Terms(deadline=deadline))
        ended.append(name)

    await asyncio.gather(run("at leisure", math.inf), run("in a hurry", time.monotonic() + 0.01))
    assert ended == ["in a hurry", "at leisure"]


async def test_forwards_are_counted_by_size_and_fill(sampler):
    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0.0

    before = [value("acestep_batch_fill_ratio_sum"), value("acestep_step_seconds_count", bucket="256")]
    waited = value("acestep_stage_queue_seconds_count", stage="diffusion")
    await collect(make(sampler, budget=36), tiny.sampling_request(num_frames=9))
    assert value("acestep_batch_fill_ratio_sum") - before[0] == pytest.approx((9 + 18 + 18 + 9) / 36)
    assert value("acestep_step_seconds_count", bucket="256") - before[1] == 4
    assert value("acestep_stage_queue_seconds_count", stage="diffusion") - waited == 1


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
    batcher = make(sampler, budget=1)  # they never share one
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


async def test_a_withdrawn_request_is_in_one_more_forward_at_most(sampler):
    batcher = make(sampler)
    staying = asyncio.create_task(collect(batcher, tiny.sampling_request(num_frames=5, params=tiny.sampling_params(60))))
    events = batcher.sample(tiny.sampling_request(num_frames=8, params=tiny.sampling_params(60)))
    await anext(events)
    await events.aclose()
    under_way = len(sampler.groups)
    await staying
    assert 8 in {frames for group in sampler.groups[:under_way] for frames in group}
    assert sum(8 in group for group in sampler.groups[under_way:]) <= 1


async def test_500_withdrawn_requests_leave_nothing_behind():
    started: weakref.WeakSet[object] = weakref.WeakSet()

    class WatchedSampler(Sampler):
        def start(self, *arguments):
            songs = super().start(*arguments)
            started.update(songs)
            started.update(context for song in songs for context in song.contexts.values())
            return songs

    batcher, randoms = make(WatchedSampler(tiny.transformer()), budget=60, max_requests=500), random.Random(0)
    others = asyncio.all_tasks()

    async def withdraw_after(seconds: float, frames: int) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await collect(batcher, tiny.sampling_request((1, 2), frames, tiny.sampling_params(1000)))

    await asyncio.gather(*(withdraw_after(randoms.uniform(0, 2), randoms.randint(1, 40)) for _ in range(500)))
    assert len(batcher._queue) == len(batcher._places.tickets) == 0
    while asyncio.all_tasks() - others:  # the last forward ends, and with it the loop that ran it
        await asyncio.sleep(0.01)
    await asyncio.get_running_loop().run_in_executor(batcher._worker, lambda: None)  # and what was waiting for the worker
    gc.collect()
    assert len(started) == 0
    assert isinstance((await collect(batcher, tiny.sampling_request()))[-1], Result)


def test_memory_of_a_request_counts_branches_songs_and_tokens():
    model = tiny.transformer(num_layers=2)
    request = tiny.sampling_request((1, 2), num_frames=9)
    keys_and_values = 2 * 2 * 2 * 9 * 16 * 4  # branches, layers, both, tokens, width, bytes
    assert request_bytes(request, model.config, model.dtype) == keys_and_values + 2 * LATENT_COPIES * 8 * 16 * 9 * 4
    double = tiny.guidance_params(guidance_scale_text=5.0, guidance_scale_lyric=2.0)
    larger = tiny.sampling_request((1, 2), num_frames=9, params=tiny.sampling_params(guidance=double))
    assert request_bytes(larger, model.config, model.dtype) - request_bytes(request, model.config, model.dtype) == keys_and_values // 2


async def test_requests_that_memory_does_not_hold_together_run_one_after_another():
    sampler = CountingSampler(tiny.transformer())
    request = tiny.sampling_request(num_frames=9)
    one = request_bytes(request, sampler.model.config, sampler.model.dtype)
    memory = Memory(int(1.5 * one), "cpu")
    batcher = Batcher(sampler, ThreadPoolExecutor(max_workers=1), Budget(1000, 0.01), 8, memory=memory)
    await asyncio.gather(*(collect(batcher, request) for _ in range(3)))
    assert sampler.groups == [[9]] * 12
    assert memory.free_bytes == int(1.5 * one)
    with pytest.raises(ShapeTooLarge, match=f"{int(1.5 * one)} are for requests"):
        await collect(batcher, tiny.sampling_request((1, 2, 3), num_frames=9))


async def test_a_refused_request_is_told_when_room_may_be():
    batcher = make(CountingSampler(tiny.transformer()), max_requests=2)
    events = [batcher.sample(tiny.sampling_request(num_frames=30, params=tiny.sampling_params(1000))) for _ in range(2)]
    for event in events:
        await anext(event)
    with pytest.raises(Overloaded) as caught:
        await collect(batcher, tiny.sampling_request())
    assert caught.value.retry_after_seconds == pytest.approx(max(batcher.backlog_seconds / 2, 1.0), rel=0.5)
    assert batcher.backlog_seconds > 0
    for event in events:
        await event.aclose()
    assert batcher.backlog_seconds == 0


async def test_the_cost_of_forwards_is_learned_and_the_budget_follows():
    def observed() -> float:
        return REGISTRY.get_sample_value("acestep_cost_error_ratio_count", {"stage": "diffusion"}) or 0

    count, too_fast = observed(), Budget(5000, 0.01, step_seconds=0.01)
    batcher = Batcher(Sampler(tiny.transformer()), ThreadPoolExecutor(max_workers=1), too_fast, 8)
    await collect(batcher, tiny.sampling_request(num_frames=9, params=tiny.sampling_params(60)))
    assert batcher.coefficients["row_frames"] > 10 * 0.01 / 5000
    assert batcher.forward_size < 500
    assert observed() == count + 60
