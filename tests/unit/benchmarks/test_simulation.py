"""Simulated systems behave as queues must."""

import json
import random

import pytest

from acestep_rpc.v1 import music_pb2, stage_pb2
from benchmarks.simulated import Simulation
from benchmarks.simulation import Traffic, main, read_costs, simulate, write_costs

COSTS = {
    "encoder": {"encode": {"prompts": 0.01}, "text_tokens": {"characters": 0.25}, "lyric_tokens": {"characters": 0.5}},
    "diffusion": {"forward": {"forwards": 0.02, "row_frames": 1e-4}},
    "vae": {"decode": {"songs": 0.05, "frames": 1e-4}},
}


def descriptions() -> list[stage_pb2.DescribeResponse]:
    return [
        stage_pb2.DescribeResponse(
            stage=stage, limits={"forward_row_frames": 2000}, costs=[{"name": name, "coefficients": value} for name, value in own.items()]
        )
        for stage, own in COSTS.items()
    ]


def song(seconds: float = 10.0, **fields) -> music_pb2.GenerateRequest:
    sampling = {"infer_step": 10, "guidance_scale": 1.0}
    return music_pb2.GenerateRequest(prompt={"tags": "funk"}, sampling=sampling, text_to_music={"duration_seconds": seconds}, **fields)


SOLO = 0.01 + 10 * (0.02 + 107e-4) + 0.05 + 107e-4


def test_a_request_alone_takes_what_was_predicted():
    simulation = Simulation(descriptions())
    simulation.add(1.0, song())
    simulation.run()
    (request,) = simulation.requests
    assert request.outcome == "completed"
    assert request.finished - 1.0 == pytest.approx(sum(request.prediction.alone)) == pytest.approx(SOLO)
    assert simulation.pools[1][0].busy_seconds == pytest.approx(10 * (0.02 + 107e-4))


def test_songs_share_forwards_as_far_as_they_fit():
    simulation = Simulation(descriptions())
    for _ in range(18):  # 18 x 107 frames fit into one forward
        simulation.add(0.0, song())
    simulation.run()
    assert simulation.pools[1][0].busy_seconds < 13 * (0.02 + 18 * 107e-4)


def test_a_higher_class_is_done_first():
    simulation = Simulation(descriptions())
    for _ in range(10):
        simulation.add(0.0, song(60, priority=music_pb2.PRIORITY_BATCH))
    simulation.add(0.1, song(60, priority=music_pb2.PRIORITY_INTERACTIVE))
    simulation.run()
    *slow, quick = simulation.requests
    assert quick.finished < min(request.finished for request in slow[1:])


@pytest.mark.parametrize("refuse", [True, False])
def test_what_cannot_be_done_in_time_is_refused_or_missed(refuse):
    traffic = Traffic(50.0, {30.0: 1.0}, requests=60, deadline=2.0)
    outcomes = simulate(traffic, descriptions(), (1, 1, 1), refuse=refuse)["outcomes"]
    assert sum(outcomes.values()) == 60
    assert (outcomes["refused"] > 0) is refuse
    if not refuse:
        assert outcomes["missed"] > 30


def test_refusing_early_completes_more_than_trying_everything():
    traffic = Traffic(40.0, {30.0: 1.0, 60.0: 1.0}, requests=100, deadline=5.0)
    refusing, trying = (simulate(traffic, descriptions(), (1, 1, 1), refuse=refuse)["outcomes"]["completed"] for refuse in (True, False))
    assert refusing > trying


def test_more_replicas_complete_no_less_and_wait_no_longer():
    traffic = Traffic(1.0, {10.0: 0.5, 60.0: 0.2}, requests=80)
    figures = [simulate(traffic, descriptions(), (1, count, 4)) for count in (1, 2, 4, 8)]
    waits = [figure["latency_seconds"]["p95"] for figure in figures]
    assert waits == sorted(waits, reverse=True)
    assert all(figure["outcomes"]["completed"] == 80 for figure in figures)
    assert figures[0]["utilisation"]["diffusion"] > 2 * figures[-1]["utilisation"]["diffusion"]


def test_one_seed_is_one_simulation():
    traffic = Traffic(5.0, {10.0: 1.0}, requests=50)
    assert simulate(traffic, descriptions(), (1, 3, 2), seed=4) == simulate(traffic, descriptions(), (1, 3, 2), seed=4)


def test_of_two_replicas_the_less_loaded_is_taken():
    simulation = Simulation(descriptions(), (1, 2, 1))
    for index in range(20):
        simulation.add(index * 1e-3, song(random.Random(index).choice((10, 120))))
    simulation.run()
    first, second = (replica.busy_seconds for replica in simulation.pools[1])
    assert 0.5 < first / second < 2


def test_the_command_prints_a_line_for_each_number_of_replicas(tmp_path, capsys):
    write_costs(tmp_path / "costs.json", descriptions())
    assert read_costs(tmp_path / "costs.json") == descriptions()
    arguments = ["--arrivals-per-second", "2", "--seconds", "60:0.5,240:0.2", "--deadline", "30", "--replicas", "1..3", "--requests", "20"]
    assert main([*arguments, "--costs", str(tmp_path / "costs.json")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["replicas"]["diffusion"] for line in lines] == [1, 2, 3]
