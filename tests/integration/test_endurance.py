"""Short versions of the runs of benchmarks/endurance on real servers."""

import asyncio

import grpc.aio

from acestep_rpc.channels import connect
from acestep_rpc.v1 import music_pb2_grpc
from benchmarks.endurance import cancels, malformed
from benchmarks.endurance.processes import Bound, report
from benchmarks.load import upload_sources
from tests.integration.requests import Answer, generate, song_request

MALFORMED = 300
CANCELS = 2 * len(cancels.WAYS)


async def test_malformed_messages_get_typed_errors_and_leave_the_servers_serving(system, music):
    expected = (await generate(music, song_request())).file()
    logged = malformed.tracebacks(system.servers.values())
    findings = await malformed.attack(system, MALFORMED, seed=1)
    assert sum(findings.by_method.values()) == MALFORMED
    assert len(findings.by_method) == len(await malformed.all_methods(system))
    assert findings.bad == []
    assert malformed.tracebacks(system.servers.values()) == logged
    assert (await generate(music, song_request())).file() == expected


async def test_calls_that_are_given_up_in_any_stage_leave_nothing_behind(system, music):
    async with connect(system.front.target) as channel:
        sources = await upload_sources(channel, cancels.LENGTHS)
    expected = (await generate(music, song_request())).file()
    wanted = await cancels.quiet(system)
    ended = await cancels.cancel_many(system, sources, range(CANCELS), seed=1)
    assert sum(ended.values()) == CANCELS
    assert not [way for way in ended if not way.endswith(("CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ended"))], ended
    assert await cancels.settled(system, wanted) == {}
    assert (await generate(music, song_request())).file() == expected


async def test_a_song_that_nobody_reads_leaves_its_stages_and_is_whole_in_the_end(system, music):
    request = song_request(seconds=60.0, steps=2)
    expected = (await generate(music, request)).file()
    decoded = {"method": "DecodeLatents", "code": "OK"}
    before = await asyncio.to_thread(system.stage("vae").metric, "acestep_requests_total", **decoded)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.lookahead_bytes", 65_536), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(system.front.target, options=options) as channel:
        call = music_pb2_grpc.MusicServiceStub(channel).Generate(request)
        events = [await call.read()]
        async with asyncio.timeout(120):
            while await asyncio.to_thread(system.stage("vae").metric, "acestep_requests_total", **decoded) == before:
                await asyncio.sleep(0.05)
        while (event := await call.read()) is not grpc.aio.EOF:
            events.append(event)
    assert Answer(events).file() == expected


def test_a_bound_that_is_missed_or_not_measured_is_a_verdict():
    assert report({"a": Bound(0.6, most=0.6), "b": Bound(1, least=1)}, {"x": 1})["verdict"] == "holds"
    for missed in (Bound(0.61, most=0.6), Bound(0, least=1), Bound(None, most=1), Bound(float("nan"), most=1)):
        assert report({"a": Bound(0, most=1), "b": missed}, {})["verdict"] == "missed"
