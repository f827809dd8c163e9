"""A request that is frozen between any two of its steps and goes on elsewhere gives the same songs, bit for bit."""

import itertools

import pytest
import torch

from diffusion_svc.sampler import Sampler, SamplingRequest, SongSnapshot
from diffusion_svc.sampling.edit import EditWindow
from diffusion_svc.sampling.guidance import CfgType
from diffusion_svc.sampling.params import SchedulerType
from diffusion_svc.tasks import AudioToAudio, Edit, Extend, Repaint, Retake, TaskSpec, TextToMusic
from tests import tiny

MODEL = tiny.transformer(num_layers=1)
SOURCE = tiny.latents(9)
TASKS: dict[str, TaskSpec] = {
    "text_to_music": TextToMusic(9),
    "retake": Retake(9, (0.3, 0.6), (7, 8)),
    "repaint": Repaint(SOURCE, ((2, 5),), 0.8, (7, 8), feather=1.0),
    "repaint in windows": Repaint(SOURCE, ((1, 3), (6, 8)), 0.8, (7, 8), context=1),
    "extend": Extend(SOURCE, 3, 2, (7, 8)),
    "edit": Edit(SOURCE, tiny.conditions(5, 2, 7), EditWindow(0.1, 0.6, 2), (7, 8)),
    "edit to the end": Edit(SOURCE, tiny.conditions(5, 2, 7), EditWindow(0.0, 1.0, 1), (7, 8)),
    "audio_to_audio": AudioToAudio(SOURCE, 0.1),
}
GUIDANCE = {
    "none": tiny.guidance_params(guidance_scale=1.0),
    **{cfg_type.value: tiny.guidance_params(cfg_type=cfg_type, guidance_interval=0.9, guidance_interval_decay=0.5) for cfg_type in CfgType},
    "double": tiny.guidance_params(guidance_interval=1.0, guidance_scale_text=5.0, guidance_scale_lyric=2.0),
}


def cases():
    for (name, task), solver, guidance in itertools.product(TASKS.items(), SchedulerType, GUIDANCE):
        if isinstance(task, Repaint | Extend) and solver is not SchedulerType.EULER:
            continue
        if isinstance(task, Edit) and (solver is SchedulerType.HEUN or guidance not in ("none", "apg")):
            continue
        yield pytest.param(task, solver, GUIDANCE[guidance], id=f"{name}, {solver.value}, {guidance}")


def request_of(task: TaskSpec, solver: SchedulerType, guidance, steps: int = 5) -> SamplingRequest:
    return tiny.sampling_request((1, 2), params=tiny.sampling_params(steps, solver, guidance), task=task)


def run(sampler: Sampler, request: SamplingRequest, snapshot: list[SongSnapshot] | None = None) -> tuple[list[torch.Tensor], list]:
    """Final latents, and a snapshot of every step boundary."""
    songs, boundaries = sampler.start(request, snapshot), []
    while waiting := [song for song in songs if song.pending]:
        boundaries.append((sampler.freeze(songs), [(song.steps_done, song.forwards_done, song.evaluated_rows) for song in songs]))
        sampler.tick(waiting[:1] if len(boundaries) % 3 == 0 else waiting)  # variants drift apart, and end apart
    return [song.result for song in songs], [*boundaries, (sampler.freeze(songs), None)]


@pytest.mark.parametrize(("task", "solver", "guidance"), list(cases()))
def test_a_request_frozen_at_any_step_goes_on_to_the_same_songs(task, solver, guidance):
    request = request_of(task, solver, guidance)
    expected, boundaries = run(Sampler(MODEL), request)
    assert len(boundaries) >= 3
    for snapshot, counts in boundaries:
        resumed = Sampler(MODEL)
        songs = resumed.start(request, snapshot)
        if counts:
            assert [(song.steps_done, song.forwards_done, song.evaluated_rows) for song in songs] == counts
        while waiting := [song for song in songs if song.pending]:
            resumed.tick(waiting)
        assert all(torch.equal(song.result, alone) for song, alone in zip(songs, expected, strict=True))


def test_a_snapshot_is_not_touched_by_the_song_that_goes_on():
    request = request_of(TASKS["repaint in windows"], SchedulerType.EULER, GUIDANCE["apg"])
    sampler = Sampler(MODEL)
    expected, boundaries = run(sampler, request)
    snapshot, _ = boundaries[len(boundaries) // 2]
    for _ in range(2):
        assert all(torch.equal(*pair) for pair in zip(run(sampler, request, snapshot)[0], expected, strict=True))


def test_draws_of_ping_pong_are_counted():
    _, boundaries = run(Sampler(MODEL), request_of(TASKS["text_to_music"], SchedulerType.PINGPONG, GUIDANCE["apg"], steps=6))
    draws = [[song.state.draws for song in snapshot] for snapshot, counts in boundaries if counts]
    assert draws[0] == [1, 1]
    assert max(max(row) for row in draws) == 6


def test_windows_of_a_long_extension_go_on():
    source = tiny.latents(100)
    request = tiny.sampling_request(
        task=Extend(source, 1400, 2700, (7,)), params=tiny.sampling_params(2, guidance=tiny.guidance_params(guidance_interval=1.0))
    )
    expected, boundaries = run(Sampler(MODEL), request)
    assert {snapshot[0].state.window for snapshot, counts in boundaries if counts} == {0, 1, 2, 3}
    for snapshot, _ in boundaries[1:8:3]:
        assert torch.equal(run(Sampler(MODEL), request, snapshot)[0][0], expected[0])
    assert boundaries[0][0][0].state.tensors.keys() == {"latents", "result"}
