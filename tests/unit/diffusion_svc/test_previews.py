"""Clean estimates on the way: what they are, when they are taken, and that no song depends on them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from acestep_rpc.errors import InvalidRequest
from acestep_rpc.v1 import diffusion_pb2
from diffusion_svc.batcher import Batcher, Estimate, Progress, Result
from diffusion_svc.budget import Budget
from diffusion_svc.previews import Preview, last_evaluation, preview_window, read_preview
from diffusion_svc.sampler import Sampler, SamplingRequest
from diffusion_svc.sampling.edit import EditWindow
from diffusion_svc.sampling.params import SchedulerType, build_sampling_schedule
from diffusion_svc.sampling.schedule import build_schedule, heun_schedule
from diffusion_svc.sampling.solvers import Euler, Heun, PingPong, seeded_noise
from diffusion_svc.tasks import AudioToAudio, Edit, Extend, Repaint, Retake, TaskSpec, TextToMusic
from tests import tiny

STEPS = 4
SOURCE = tiny.latents(12)
EULER, HEUN, PINGPONG = SchedulerType
CASES: dict[str, tuple[TaskSpec, SchedulerType]] = {
    "text_to_music, euler": (TextToMusic(12), EULER),
    "text_to_music, heun": (TextToMusic(12), HEUN),
    "text_to_music, pingpong": (TextToMusic(12), PINGPONG),
    "retake, heun": (Retake(12, (0.3,), (5,)), HEUN),
    "repaint": (Repaint(SOURCE, ((2, 5), (8, 11)), 1.0, (5,), feather=1.0), EULER),
    "repaint in windows": (Repaint(SOURCE, ((2, 4), (9, 11)), 1.0, (5,), context=1), EULER),
    "extend": (Extend(SOURCE, 3, 4, (5,)), EULER),
    "edit, source followed to the end": (Edit(SOURCE, tiny.conditions(7), EditWindow(0.0, 1.0, 2), (5,)), EULER),
    "edit, target alone at the end": (Edit(SOURCE, tiny.conditions(7), EditWindow(0.0, 0.5, 1), (5,)), EULER),
    "edit, pingpong": (Edit(SOURCE, tiny.conditions(7), EditWindow(0.0, 0.5, 1), (5,)), PINGPONG),
    "audio_to_audio, euler": (AudioToAudio(SOURCE, 0.01), EULER),
    "audio_to_audio, heun": (AudioToAudio(SOURCE, 0.01), HEUN),
}


def request_of(task: TaskSpec, scheduler: SchedulerType, **fields) -> SamplingRequest:
    return replace(tiny.sampling_request(task=task, params=tiny.sampling_params(STEPS, scheduler)), **fields)


def run(request: SamplingRequest) -> tuple[torch.Tensor, list[tuple[int, torch.Tensor]]]:
    sampler = Sampler(tiny.transformer())
    (song,) = sampler.start(request)
    while song.pending:
        sampler.tick([song])
    assert isinstance(song.result, torch.Tensor)
    return song.result, song.estimates.taken


@pytest.mark.parametrize("case", CASES)
def test_the_estimate_after_the_last_step_is_the_song_and_the_song_does_not_depend_on_any(case: str) -> None:
    task, scheduler = CASES[case]
    frames, steps = task.num_frames, STEPS if not isinstance(task, AudioToAudio) else STEPS - 1
    plain, nothing = run(request_of(task, scheduler))
    assert nothing == []
    result, taken = run(request_of(task, scheduler, preview=Preview(tuple(range(1, steps + 1)), 0, frames)))
    assert torch.equal(result, plain)
    assert [step for step, _ in taken] == list(range(1, steps + 1))
    assert all(estimate.shape == result.shape for _, estimate in taken)
    assert torch.equal(taken[-1][1], result)  # the same operations on the same numbers: no tolerance is needed
    assert not torch.equal(taken[0][1], result)


@pytest.mark.parametrize("case", CASES)
def test_a_stretch_is_that_of_the_whole(case: str) -> None:
    task, scheduler = CASES[case]
    _, whole = run(request_of(task, scheduler, preview=Preview((2,), 0, task.num_frames)))
    _, stretch = run(request_of(task, scheduler, preview=Preview((2,), 9, 11)))
    assert torch.equal(stretch[0][1], whole[0][1][..., 9:11])


def test_along_a_straight_flow_every_estimate_is_its_end() -> None:
    """x = (1 - s) clean + s noise has the velocity noise - clean everywhere, and whatever solves it must see where it leads."""
    clean, noise = tiny.latents(9, 1), tiny.latents(9, 2)
    plain = build_schedule(6)
    for schedule, solver in (
        (plain, Euler(plain, 0.0)),
        (heun_schedule(plain), Heun(heun_schedule(plain), 0.0)),
        (plain, PingPong(plain, lambda: noise)),
    ):
        latents = noise
        for index in range(len(schedule.timesteps)):
            torch.testing.assert_close(solver.estimate(latents, noise - clean, index), clean, atol=2e-6, rtol=0)
            latents = solver.step(latents, noise - clean, index)


@pytest.mark.parametrize(("scheduler", "expected"), [(EULER, [0, 1, 2, 3]), (PINGPONG, [0, 1, 2, 3]), (HEUN, [1, 3, 5, 6])])
def test_a_step_of_heun_is_two_evaluations_but_for_the_last(scheduler: SchedulerType, expected: list[int]) -> None:
    schedule = build_sampling_schedule(tiny.sampling_params(STEPS, scheduler))
    assert [last_evaluation(step, schedule) for step in range(1, STEPS + 1)] == expected


def test_what_a_repaint_keeps_is_the_source_in_every_estimate_and_earlier_windows_are_done() -> None:
    task = Repaint(SOURCE, ((2, 4), (9, 11)), 1.0, (5,), context=1)
    result, ((_, second),) = run(request_of(task, EULER, preview=Preview((1,), 0, 12)))
    kept = [0, 1, 4, 5, 6, 7, 8, 11]
    assert torch.equal(second[..., kept], SOURCE[..., kept])
    assert torch.equal(second[..., 2:4], result[..., 2:4])
    assert not torch.equal(second[..., 9:11], result[..., 9:11])
    _, ((_, first),) = run(request_of(task, EULER, preview=Preview((1,), 2, 4)))
    assert not torch.equal(first, result[..., 2:4])


def test_a_long_extension_is_heard_when_the_stretch_becomes_new() -> None:
    task = Extend(torch.zeros(8, 16, 2400), 500, 600, (5,))  # first its end, then its start
    assert len(task.windows) == 2
    assert preview_window(Preview((1,), 3300, 3400), task) == 0
    assert preview_window(Preview((1,), 0, 100), task) == 1
    assert preview_window(Preview((1,), 450, 3000), task) == 1
    assert preview_window(Preview((1,), 1000, 1100), task) == 0  # the source itself


async def test_the_batcher_sends_each_estimate_of_each_song_after_its_step() -> None:
    with ThreadPoolExecutor(1) as worker:
        batcher = Batcher(Sampler(tiny.transformer()), worker, Budget(1000, 1.0), 4)
        request = replace(tiny.sampling_request((1, 2)), preview=Preview((2, 4), 1, 6))
        events = [event async for event in batcher.sample(request)]
    estimates = [event for event in events if isinstance(event, Estimate)]
    assert [(event.variant, event.step) for event in estimates] == [(0, 2), (1, 2), (0, 4), (1, 4)]
    result = events[-1]
    assert isinstance(result, Result)
    for event in estimates[2:]:
        assert torch.equal(event.latents, result.latents[event.variant][..., 1:6])
    before = events[: events.index(estimates[0])]
    assert [event.step for event in before if isinstance(event, Progress)] == [2, 4]


def message(steps=(1,), start=0.0, end=1.0) -> diffusion_pb2.SampleRequest:
    return diffusion_pb2.SampleRequest(preview_steps=steps, preview_window={"start_seconds": start, "end_seconds": end})


def test_seconds_become_the_frames_that_they_touch() -> None:
    frame = 4096 / 44100
    task, params = TextToMusic(20), tiny.sampling_params(STEPS)
    assert read_preview(diffusion_pb2.SampleRequest(), task, params) is None
    for start, end, expected in (
        (0.0, 10 * frame, (0, 10)),
        (2.5 * frame, 4.1 * frame, (2, 5)),
        (2.5 * frame, 2.6 * frame, (2, 3)),
        (3 * frame, 720.0, (3, 20)),
    ):
        preview = read_preview(message(start=start, end=end), task, params)
        assert preview is not None
        assert (preview.start, preview.stop) == expected


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"steps": (0,)}, "preview_steps"),
        ({"steps": (STEPS + 1,)}, "preview_steps"),
        ({"steps": (2, 2)}, "preview_steps"),
        ({"steps": range(1, 18)}, "preview_steps"),
        ({"start": -0.1}, "preview_window.start_seconds"),
        ({"start": float("nan")}, "preview_window.start_seconds"),
        ({"start": 2.0, "end": 3.0}, "preview_window.start_seconds"),
        ({"start": 0.5, "end": 0.5}, "preview_window.end_seconds"),
        ({"end": float("inf")}, "preview_window.end_seconds"),
    ],
)
def test_a_preview_out_of_range_is_refused_by_name(fields: dict, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_preview(message(**fields), TextToMusic(20), tiny.sampling_params(STEPS))
    assert [name for name, _ in refused.value.violations] == [field]


def test_pingpong_draws_the_same_noise_beside_estimates() -> None:
    drawn = []
    for wanted in (False, True):
        noise = seeded_noise(3, (8, 16, 9), torch.device("cpu"))
        solver, latents = PingPong(build_schedule(3), noise), tiny.latents()
        for index in range(3):
            if wanted:
                solver.estimate(latents, tiny.latents(seed=index), index)
            latents = solver.step(latents, tiny.latents(seed=index), index)
        drawn.append(latents)
    assert torch.equal(*drawn)
