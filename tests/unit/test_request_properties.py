"""Requests of any content: refused with a reason, or done as promised. What the orchestrator accepts, the diffusion stage takes."""

import random

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from acestep_rpc.errors import InvalidRequest, Unimplemented
from acestep_rpc.torch_tensor import pack
from acestep_rpc.v1 import encoder_pb2, music_pb2, vae_pb2
from diffusion_svc.sampler import Sampler
from diffusion_svc.servicer import read_request
from diffusion_svc.tasks import Extend, Repaint
from orchestrator.plan import Plan, plan, resolved_request
from orchestrator.stage_requests import sample_request
from orchestrator.tasks import FRAME_SECONDS, song_seconds, source_of
from tests import tiny

REPEATABLE = settings(deadline=None, derandomize=True, max_examples=250)
FEW = settings(deadline=None, derandomize=True, max_examples=30)
MODEL = tiny.transformer(num_layers=1)
SOURCE = {"asset": "assets/1"}


def conditioning() -> encoder_pb2.Conditioning:
    states = tiny.conditions()
    return encoder_pb2.Conditioning(
        text_hidden_states=pack(states.text),
        lyric_hidden_states=pack(states.lyrics),
        lyric_attention_mask=pack(states.lyric_mask),
        null_lyric_hidden_states=pack(states.null_lyrics),
    )


def optional(**fields):
    """A dictionary with some of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


def numbers(low, high, wild):
    """Floats of a range; wild ones too, where asked for."""
    inside = st.floats(low, high)
    return inside | st.floats() if wild else inside


@st.composite
def requests(draw, wild: bool, longest: float = 250.0, steps: int = 200):
    """Requests of every task, most of them valid unless wild."""
    seeds = st.integers(0, 2**33 if wild else 2**32 - 1)
    seconds = numbers(0, longest, wild)
    share = numbers(0, 1, wild)
    regions = st.lists(st.tuples(numbers(0, 1.5, wild), numbers(0.1, 0.5, wild)), min_size=0 if wild else 1, max_size=3 if wild else 2)
    prompts = optional(tags=st.text(max_size=20), negative_tags=st.text(max_size=5)) if wild else st.just({"tags": "jazz"})
    num_seeds = draw(st.integers(1, 2))
    second = st.lists(seeds, max_size=num_seeds)
    source = st.just(SOURCE) if not wild else st.sampled_from([SOURCE, {}, {"result": "operations/a/results/0"}])
    tasks = {
        "text_to_music": optional(duration_seconds=numbers(1, longest, wild)),
        "retake": optional(duration_seconds=numbers(1, longest, wild), retake_variances=st.lists(share, max_size=3), retake_seeds=second),
        "repaint": st.builds(
            lambda spans, rest: rest | {"regions": [{"start_seconds": start, "end_seconds": start + length} for start, length in spans]},
            regions,
            optional(
                source=source,
                retake_variance=share,
                retake_seeds=second,
                feather_seconds=numbers(0, 5, wild),
                context_seconds=numbers(0, 9, wild),
                splice_source=st.booleans(),
            ),
        ),
        "extend": optional(source=source, left_seconds=seconds, right_seconds=seconds, retake_seeds=second),
        "edit": optional(
            source=source, target=prompts, edit_n_min=share, edit_n_max=share, edit_n_avg=st.integers(1, 3), retake_seeds=second
        ),
        "audio_to_audio": optional(source=source, ref_audio_strength=share),
    }
    name = draw(st.sampled_from(sorted(tasks)))
    task = draw(tasks[name])
    if not wild and name not in ("text_to_music", "retake"):
        task["source"] = SOURCE
    if not wild and name == "edit":
        task["target"] = {"tags": "jazz"}
    sampling = optional(
        infer_step=st.integers(1, steps),
        scheduler_type=st.integers(0, 4 if wild else 3),
        cfg_type=st.integers(0, 4 if wild else 3),
        guidance_scale=numbers(0, 20, wild),
        guidance_interval=share,
        guidance_interval_decay=share,
        omega_scale=numbers(-100, 100, wild),
        guidance_scale_text=numbers(0, 10, wild),
        guidance_scale_lyric=numbers(0, 10, wild),
        oss_steps=st.lists(st.integers(0 if wild else 1, steps), max_size=3),
        use_erg_lyric=st.booleans(),
    )
    prompt = draw(optional(tags=st.text(max_size=30), lyrics=st.text(max_size=30))) if wild else {"tags": "funk"}
    fields = {"prompt": prompt, "sampling": draw(sampling), "seeds": draw(st.lists(seeds, min_size=1, max_size=num_seeds)), name: task}
    if not wild:
        leave_out_what_the_task_refuses(name, fields["sampling"])
    return music_pb2.GenerateRequest(**fields)


def leave_out_what_the_task_refuses(task, sampling):
    refused = {
        "repaint": ("scheduler_type",),
        "extend": ("scheduler_type",),
        "audio_to_audio": ("oss_steps",),
        "edit": ("scheduler_type", "cfg_type", "guidance_interval_decay", "guidance_scale_text", "oss_steps"),
    }
    for name in refused.get(task, ()):
        sampling.pop(name, None)


def planned(request: music_pb2.GenerateRequest) -> Plan | None:
    try:
        return plan(request, random.Random(0), "drawn")
    except (InvalidRequest, Unimplemented):
        return None


def encoded(frames: int) -> vae_pb2.EncodeAudioResponse:
    return vae_pb2.EncodeAudioResponse(latents=pack(tiny.latents(frames)), duration_seconds=(frames - 0.5) * FRAME_SECONDS)


@REPEATABLE
@given(requests(wild=True))
def test_a_request_is_planned_or_refused_with_a_reason_and_always_the_same_way(request):
    before = request.SerializeToString(deterministic=True)
    assert planned(request) == planned(request)
    assert request.SerializeToString(deterministic=True) == before


@REPEATABLE
@given(requests(wild=False) | requests(wild=True))
def test_a_resolved_request_has_nothing_left_to_draw(request):
    first = planned(request)
    assume(first is not None)
    resolved = resolved_request(request, first)
    again = plan(resolved, random.Random(1), "another")
    assert again == first
    assert resolved_request(resolved, again) == resolved


@REPEATABLE
@given(requests(wild=False) | requests(wild=True), st.integers(1, 2600))
def test_what_the_orchestrator_accepts_the_stage_takes_and_promises_the_same_length(request, frames):
    result = planned(request)
    assume(result is not None)
    source = encoded(frames) if source_of(result.task) else None
    try:
        seconds = song_seconds(result.task, source)
    except InvalidRequest:
        return
    states = conditioning()
    taken = read_request(sample_request(result, states, source.latents if source else None, states), MODEL.config)
    assert len(taken.seeds) == len(result.seeds)
    spliced = getattr(result.task, "splice_source", False)
    length = frames if spliced else int(seconds / FRAME_SECONDS + 1e-6)
    assert taken.task.num_frames == length


@FEW
@given(requests(wild=False, longest=2.0, steps=3), st.integers(22, 30))
def test_a_song_is_as_long_as_promised_repeatable_and_independent_of_its_company(request, frames):
    result = planned(request)
    assume(result is not None)
    source = encoded(frames) if source_of(result.task) else None
    try:
        song_seconds(result.task, source)
    except InvalidRequest:
        assume(False)
    states = conditioning()
    message = sample_request(result, states, source.latents if source else None, states)
    taken = read_request(message, MODEL.config)
    songs = tiny.sample(taken, Sampler(MODEL))
    again = tiny.sample(taken, Sampler(MODEL))
    for song, repeated in zip(songs, again, strict=True):
        assert song.shape == (8, 16, taken.task.num_frames)
        assert song.isfinite().all()
        assert torch.equal(song, repeated)
        check_kept_part(taken.task, song)
    last = len(message.seeds) - 1
    task = getattr(message, message.WhichOneof("task"))
    for target, name in ((message, "seeds"), (task, "retake_seeds"), (task, "retake_variances")):
        if name in target.DESCRIPTOR.fields_by_name:
            own = getattr(target, name)[last]
            target.ClearField(name)
            getattr(target, name).append(own)
    (alone,) = tiny.sample(read_request(message, MODEL.config), Sampler(MODEL))
    assert torch.equal(alone, songs[last])


def check_kept_part(task, song):
    if isinstance(task, Repaint):
        kept = torch.ones(task.num_frames, dtype=torch.bool)
        for start, stop in task.regions:
            kept[start:stop] = False
        assert torch.equal(song[..., kept], task.source[..., kept])
    if isinstance(task, Extend):
        assert torch.equal(song[..., task.left : task.left + task.source.shape[-1]], task.source)
