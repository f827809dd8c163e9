"""The reference's defects: kept for equal results, refused, or impossible here. The others have their tests beside what they concern."""

import dataclasses
import random
import re
from pathlib import Path

import pytest
import torch

import diffusion_svc.settings
import encoder_svc.settings
import orchestrator.settings
import vae_svc.settings
from acestep_rpc.errors import InvalidRequest
from acestep_rpc.torch_tensor import pack
from acestep_rpc.v1 import diffusion_pb2, music_pb2, sampling_pb2
from diffusion_svc.sampler import Sampler
from diffusion_svc.sampling.audio_to_audio import audio_to_audio, build_reference_schedule
from diffusion_svc.sampling.edit import EditWindow
from diffusion_svc.sampling.guidance import Branch, apg
from diffusion_svc.sampling.params import SchedulerType
from diffusion_svc.task_fields import read_task
from diffusion_svc.tasks import Edit
from orchestrator.plan import plan
from tests import tiny

DEFECTS = set(range(1, 38))
SOURCE = {"asset": "assets/1"}


def violations(**fields) -> list[str]:
    request = music_pb2.GenerateRequest(**({"prompt": {"tags": "funk"}} | fields))
    with pytest.raises(InvalidRequest) as caught:
        plan(request, random.Random(0), "drawn")
    return [field for field, _ in caught.value.violations]


def test_every_defect_of_the_reference_has_a_test_named_for_it():
    named = set()
    for path in Path(__file__).parents[1].rglob("test_*.py"):
        for first, word, second in re.findall(r"def test_defects?_(\d+)(?:_(and|to)_(\d+))?_", path.read_text()):
            named |= {int(first)} if not word else {int(first), int(second)} if word == "and" else set(range(int(first), int(second) + 1))
    assert named == DEFECTS


def test_defect_2_the_reference_is_mixed_at_a_lower_noise_level_than_sampling_starts_from():
    params, source, noise = tiny.sampling_params(10), tiny.latents(9), torch.ones(8, 16, 9)
    schedule = build_reference_schedule(params, 0.5)
    (evaluation, *_) = next(audio_to_audio(params, schedule, source, 0.5, lambda: noise))
    assert torch.allclose(evaluation.latents, 0.25 * source + 0.75 * noise)
    assert schedule.sigmas[0] == pytest.approx(0.9)


def test_defect_7_heuns_guidance_window_counts_its_steps_and_not_its_evaluations():
    params = tiny.sampling_params(6, SchedulerType.HEUN, guidance=tiny.guidance_params(guidance_interval=1.0))
    sampler = Sampler(tiny.transformer())
    (song,) = sampler.start(tiny.sampling_request(params=params))
    rows = []
    while song.pending:
        rows.append(len(song.rows))
        sampler.tick([song])
    assert rows == [2] * 6 + [1] * 5


@pytest.mark.parametrize("task", ["repaint", "extend"])
def test_defect_8_heun_is_refused_where_the_reference_ignores_it(task):
    message = {"source": SOURCE} | ({"regions": [{"end_seconds": 1}]} if task == "repaint" else {"left_seconds": 1})
    heun = {"scheduler_type": sampling_pb2.SCHEDULER_TYPE_HEUN}
    assert violations(sampling=heun, **{task: message}) == ["sampling.scheduler_type"]


def test_defect_10_unknown_guidance_rules_and_decays_that_make_no_sense_are_refused():
    assert violations(sampling={"cfg_type": 9}) == ["sampling.cfg_type"]
    assert violations(sampling={"guidance_interval_decay": 1.1}) == ["sampling.guidance_interval_decay"]
    assert violations(sampling={"guidance_interval_decay": 0.5, "min_guidance_scale": 16}) == ["sampling.min_guidance_scale"]


def test_defect_25_the_source_of_an_edit_has_momentum_and_the_target_has_none():
    guidance = tiny.guidance_params(guidance_scale=4.0)
    params, source = tiny.sampling_params(3, guidance=guidance), tiny.latents(6)
    spec = Edit(source, tiny.conditions(5), EditWindow(0.0, 1.0, 1), (7,))
    sampler = Sampler(tiny.transformer())
    (song,) = sampler.start(tiny.sampling_request(task=spec, params=params))
    velocities, latents, difference = {}, source, None
    for _ in range(2):
        evaluations = song.pending
        velocities = dict(zip((e.branch for e in evaluations), sampler.model(song.rows), strict=True))
        momentum = velocities[Branch.FULL] - velocities[Branch.NULL]
        difference = momentum if difference is None else momentum - 0.75 * difference
        latents = evaluations[2].latents - evaluations[0].latents + source
        sampler.resume(song, list(velocities.values()))
    target = apg(velocities[Branch.TARGET], velocities[Branch.TARGET_NULL], 4.0, None)
    full = velocities[Branch.FULL]
    guided = apg(full, full - difference, 4.0, None)
    moved = song.pending[2].latents - song.pending[0].latents + source
    expected = (target - guided) / (target - guided).norm()
    actual = (moved - latents) / (moved - latents).norm()
    assert torch.allclose(-expected, actual, atol=1e-4)


def test_defects_30_to_33_cannot_arise_for_nothing_is_offloaded_or_quantised():
    services = (encoder_svc.settings, diffusion_svc.settings, vae_svc.settings, orchestrator.settings)
    names = {field.name for service in services for field in dataclasses.fields(service.Settings)}
    assert not [name for name in names if "offload" in name or "quant" in name]


def test_defect_34_bad_seeds_are_refused_where_the_reference_draws_others():
    assert violations(seeds=[2**32]) == ["seeds[0]"]
    assert violations(seeds=[1], retake={"retake_seeds": [2**40]}) == ["retake.retake_seeds[0]"]
    with pytest.raises((TypeError, ValueError)):
        music_pb2.GenerateRequest(seeds=[-1])


@pytest.mark.parametrize("task", ["repaint", "extend", "edit", "audio_to_audio"])
def test_defect_36_a_missing_source_is_named(task):
    assert f"{task}.source" in violations(**{task: {}})
    message = diffusion_pb2.SampleRequest(seeds=[1])
    getattr(message, task).SetInParent()
    if task == "edit":
        message.edit.edit_n_avg = 1
    with pytest.raises(InvalidRequest, match=f"{task}.source"):
        read_task(message, tiny.sampling_params(), tiny.conditions())


def test_defect_36_a_source_of_no_frames_is_named():
    message = diffusion_pb2.SampleRequest(seeds=[1], audio_to_audio={"source": pack(torch.zeros(8, 16, 0))})
    with pytest.raises(InvalidRequest, match="audio_to_audio.source"):
        read_task(message, tiny.sampling_params(), None)
