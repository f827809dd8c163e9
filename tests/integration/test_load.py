"""The load tool on a real server."""

from benchmarks.load import TASKS, Outcome, Traffic, draw_calls, run, summarise

TRAFFIC = Traffic(
    rate=20, requests=14, seconds=(1.0, 2.0), steps=(1, 2), cancelled=0.3, patience=0.3, slow=0.3, bytes_per_second=400_000, timeout=60
)
SOURCES = {1.0: "assets/a", 2.0: "assets/b"}


async def test_every_call_has_one_outcome_and_whoever_stays_gets_a_song(system):
    figures = await run(system.front.target, TRAFFIC, seed=3)
    hung_up = sum(call.hangs_up is not None for call in draw_calls(TRAFFIC, SOURCES, seed=3))
    assert hung_up > 0
    assert figures["calls"] == sum(figures["codes"].values()) == TRAFFIC.requests
    assert set(figures["codes"]) <= {"OK", "HUNG_UP"}
    assert figures["codes"]["OK"] >= TRAFFIC.requests - hung_up
    assert figures["first_audio_seconds"]["p50"] <= figures["latency_seconds"]["p50"]


def test_a_seed_draws_the_same_traffic():
    one, again, other = (draw_calls(TRAFFIC, SOURCES, seed) for seed in (1, 1, 2))
    assert one == again != other
    assert {call.request.WhichOneof("task") for call in one} <= set(TASKS)
    arrivals = [call.arrival for call in one]
    assert arrivals == sorted(arrivals)


def test_figures_are_of_the_calls_that_ended_well():
    refused, gone = Outcome("RESOURCE_EXHAUSTED", 0.01), Outcome("HUNG_UP", 3.0, 0.1)
    good, slow = Outcome("OK", 4.0, 0.1, 2.0, 30.0), Outcome("OK", 60.0, 0.1, 2.0, 30.0, slow=True)
    figures = summarise([refused, gone, good, slow], seconds=60.0)
    assert figures["codes"] == {"HUNG_UP": 1, "OK": 2, "RESOURCE_EXHAUSTED": 1}
    assert figures["audio_seconds_per_second"] == 1.0
    assert figures["latency_seconds"] == {"p50": 4.0, "p90": 4.0, "p99": 4.0}
    assert figures["refused_seconds"]["p99"] == 0.01
    assert figures["slow_reader_seconds"]["p50"] == 60.0
    assert summarise([refused], 1.0)["latency_seconds"] is None
