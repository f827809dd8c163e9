"""Quotes of real servers against what they then take."""

import asyncio
import time

import grpc
import pytest

from acestep_rpc.v1 import music_pb2
from tests.integration.requests import song_request


def long_request(**fields) -> music_pb2.GenerateRequest:
    request = song_request(**fields)
    request.text_to_music.duration_seconds = 60
    request.sampling.infer_step = 60
    return request


async def estimate(music, request):
    return await music.EstimateGeneration(music_pb2.EstimateGenerationRequest(generation=request))


async def steps_done(system) -> float:
    return await asyncio.to_thread(system.stage("diffusion").metric, "acestep_step_seconds_count")


async def test_a_quote_grows_with_the_work_and_runs_nothing(system, music):
    before = await steps_done(system)
    whole, half = long_request(), long_request()
    half.sampling.infer_step = 30
    quotes = [(await estimate(music, request)).device_time.ToMilliseconds() for request in (half, whole)]
    assert await steps_done(system) == before
    assert 0 < quotes[0] < quotes[1] < 2.5 * quotes[0]


async def test_an_accepted_song_is_promised_for_later_and_the_promise_is_checked(system, music):
    begun = time.time()
    async for event in music.Generate(long_request()):
        if event.HasField("accepted"):
            promised = event.accepted.estimated_finish_time.ToMilliseconds() / 1000
    assert promised > begun
    errors = await asyncio.to_thread(system.front.metric, "acestep_eta_error_seconds_count")
    assert errors >= 1
    assert await asyncio.to_thread(system.stage("diffusion").metric, "acestep_cost_error_ratio_count", stage="diffusion") > 0


async def test_a_deadline_that_no_device_meets_is_refused_without_a_step(system, music):
    await estimate(music, long_request())
    before = await steps_done(system)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async for _ in music.Generate(long_request(num_variants=16), timeout=0.5):
            pass
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(refused.value.trailing_metadata())["grpc-retry-pushback-ms"]) >= 1000
    assert await steps_done(system) == before
