import math
import random
from typing import Any

import pytest

from acestep_rpc.errors import InvalidRequest
from acestep_rpc.v1 import encoder_pb2, music_pb2, sampling_pb2, tensor_pb2, vae_pb2
from orchestrator.plan import Plan, plan
from orchestrator.stage_requests import sample_request
from orchestrator.tasks import FRAME_SECONDS, AudioToAudio, Edit, Extend, Repaint, Retake, song_seconds

ASSET = {"asset": "assets/1"}
MINIMAL: dict[str, dict[str, Any]] = {
    "retake": {},
    "repaint": {"source": ASSET, "regions": [{"start_seconds": 1, "end_seconds": 2}]},
    "extend": {"source": ASSET, "right_seconds": 3},
    "edit": {"source": ASSET, "target": {"tags": "jazz"}},
    "audio_to_audio": {"source": ASSET},
}


def planned(**fields: Any) -> Plan:
    return plan(music_pb2.GenerateRequest(**({"prompt": {"tags": "funk"}} | fields)), random.Random(0), "drawn")


def violations(**fields: Any) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        planned(**fields)
    return [field for field, _ in caught.value.violations]


def source(frames: int) -> vae_pb2.EncodeAudioResponse:
    latents = tensor_pb2.Tensor(data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=[8, 16, frames])
    return vae_pb2.EncodeAudioResponse(latents=latents, duration_seconds=frames * FRAME_SECONDS)


def test_unset_fields_take_their_defaults() -> None:
    retake = planned(retake={}).task
    assert isinstance(retake, Retake)
    assert (retake.duration_seconds, retake.retake_variances, len(retake.retake_seeds)) == (60, (0.5,), 1)
    edit = planned(edit=MINIMAL["edit"]).task
    assert isinstance(edit, Edit)
    assert (edit.edit_n_min, edit.edit_n_max, edit.edit_n_avg) == (0, 1, 1)
    cover = planned(audio_to_audio=MINIMAL["audio_to_audio"]).task
    assert cover == AudioToAudio("assets/1", 0.5)


def test_zero_is_not_unset() -> None:
    task = planned(audio_to_audio=MINIMAL["audio_to_audio"] | {"ref_audio_strength": 0}).task
    assert isinstance(task, AudioToAudio)
    assert task.ref_audio_strength == 0


def test_variances_and_seeds_make_a_grid() -> None:
    result = planned(seeds=[1, 2], retake={"retake_variances": [0.2, 0.9], "retake_seeds": [7, 8]})
    assert isinstance(result.task, Retake)
    assert result.seeds == (1, 1, 2, 2)
    assert result.task.retake_variances == (0.2, 0.9, 0.2, 0.9)
    assert result.task.retake_seeds == (7, 7, 8, 8)


def test_second_seeds_that_are_not_given_are_drawn() -> None:
    task = planned(seeds=[1, 2], extend=MINIMAL["extend"] | {"retake_seeds": [7]}).task
    assert isinstance(task, Extend)
    assert task.retake_seeds[0] == 7
    assert 0 <= task.retake_seeds[1] < 2**32


BAD = [
    ({"retake": {"duration_seconds": 0}}, "retake.duration_seconds"),
    ({"retake": {"retake_variances": [1.1]}}, "retake.retake_variances[0]"),
    ({"retake": {"retake_variances": [math.nan]}}, "retake.retake_variances[0]"),
    ({"retake": {"retake_variances": [0.1] * 17}}, "retake.retake_variances"),
    ({"retake": {"retake_seeds": [1, 2]}}, "retake.retake_seeds"),
    ({"retake": {"retake_seeds": [2**32]}}, "retake.retake_seeds[0]"),
    ({"repaint": MINIMAL["repaint"] | {"source": {}}}, "repaint.source"),
    ({"repaint": MINIMAL["repaint"] | {"regions": []}}, "repaint.regions"),
    ({"repaint": MINIMAL["repaint"] | {"regions": [{"start_seconds": 2, "end_seconds": 1}]}}, "repaint.regions[0].end_seconds"),
    ({"repaint": MINIMAL["repaint"] | {"regions": [{"start_seconds": -1, "end_seconds": 1}]}}, "repaint.regions[0].start_seconds"),
    ({"repaint": MINIMAL["repaint"] | {"regions": [{"start_seconds": 0, "end_seconds": math.inf}]}}, "repaint.regions[0].end_seconds"),
    (
        {"repaint": MINIMAL["repaint"] | {"regions": [{"start_seconds": 2, "end_seconds": 4}, {"start_seconds": 1, "end_seconds": 3}]}},
        "repaint.regions[0].start_seconds",
    ),
    ({"repaint": MINIMAL["repaint"], "sampling": {"scheduler_type": sampling_pb2.SCHEDULER_TYPE_HEUN}}, "sampling.scheduler_type"),
    ({"repaint": MINIMAL["repaint"] | {"feather_seconds": 5.5}}, "repaint.feather_seconds"),
    ({"repaint": MINIMAL["repaint"] | {"context_seconds": -1}}, "repaint.context_seconds"),
    ({"extend": {"source": ASSET}}, "extend"),
    ({"extend": MINIMAL["extend"] | {"left_seconds": -1}}, "extend.left_seconds"),
    ({"extend": MINIMAL["extend"], "sampling": {"scheduler_type": sampling_pb2.SCHEDULER_TYPE_PINGPONG}}, "sampling.scheduler_type"),
    ({"edit": {"source": ASSET}}, "edit.target"),
    ({"edit": MINIMAL["edit"] | {"edit_n_min": 0.8, "edit_n_max": 0.3}}, "edit.edit_n_min"),
    ({"edit": MINIMAL["edit"] | {"edit_n_avg": 17}}, "edit.edit_n_avg"),
    ({"edit": MINIMAL["edit"], "sampling": {"cfg_type": sampling_pb2.CFG_TYPE_CFG}}, "sampling.cfg_type"),
    ({"edit": MINIMAL["edit"], "sampling": {"oss_steps": [1, 2]}}, "sampling.oss_steps"),
    ({"audio_to_audio": MINIMAL["audio_to_audio"] | {"ref_audio_strength": 2}}, "audio_to_audio.ref_audio_strength"),
    ({"audio_to_audio": MINIMAL["audio_to_audio"], "sampling": {"oss_steps": [1, 2]}}, "sampling.oss_steps"),
]


@pytest.mark.parametrize(("fields", "field"), BAD, ids=[f"{field}-{number}" for number, (_, field) in enumerate(BAD)])
def test_a_bad_field_is_named(fields: dict[str, Any], field: str) -> None:
    assert violations(**fields) == [field]


HEUN = {"scheduler_type": sampling_pb2.SCHEDULER_TYPE_HEUN}
CFG = {"cfg_type": sampling_pb2.CFG_TYPE_CFG, "guidance_scale_text": 3, "guidance_scale_lyric": 3, "guidance_interval_decay": 0.5}


@pytest.mark.parametrize("task", MINIMAL)
@pytest.mark.parametrize("defaults", [HEUN, CFG])
def test_defaults_of_the_checkpoint_give_way_where_a_task_has_no_place_for_them(task: str, defaults: dict[str, Any]) -> None:
    request = music_pb2.GenerateRequest(prompt={"tags": "funk"}, **{task: MINIMAL[task]})
    sampling = plan(request, random.Random(0), "drawn", sampling_pb2.SamplingParams(guidance_scale=5, **defaults)).sampling
    assert sampling.guidance_scale == 5
    for field, value in defaults.items():
        unsuited = (task == "edit" and field != "guidance_scale_lyric") or (task in ("repaint", "extend") and field == "scheduler_type")
        assert (getattr(sampling, field) != value) == unsuited, field


def test_defect_26_an_edit_masks_the_lyrics_of_its_null_condition() -> None:
    assert planned(edit=MINIMAL["edit"]).null_condition == encoder_pb2.NULL_CONDITION_MASKED
    assert planned(edit=MINIMAL["edit"], sampling={"guidance_scale": 1}).null_condition == encoder_pb2.NULL_CONDITION_UNSPECIFIED


@pytest.mark.parametrize("name", MINIMAL)
def test_each_task_reaches_the_stage_with_one_entry_a_song(name: str) -> None:
    result = planned(num_variants=2, **{name: MINIMAL[name]})
    conditioning = encoder_pb2.Conditioning()
    request = sample_request(result, conditioning, source(40).latents, conditioning)
    assert request.WhichOneof("task") == name
    assert len(request.seeds) == 2
    message = getattr(request, name)
    assert len(getattr(message, "retake_seeds", (0, 0))) == 2
    if name != "retake":
        assert list(message.source.shape) == [8, 16, 40]


def test_a_spliced_repaint_has_its_sources_length_and_one_without_whole_frames() -> None:
    encoded = source(100)
    encoded.duration_seconds -= 0.05
    assert song_seconds(planned(repaint=MINIMAL["repaint"]).task, encoded) == encoded.duration_seconds
    decoded = planned(repaint=MINIMAL["repaint"] | {"splice_source": False}).task
    assert song_seconds(decoded, encoded) == pytest.approx(100 * FRAME_SECONDS)


def test_the_length_of_a_song_is_that_of_its_source() -> None:
    task = planned(audio_to_audio=MINIMAL["audio_to_audio"]).task
    assert song_seconds(task, source(100)) == pytest.approx(100 * FRAME_SECONDS)


def test_an_extension_adds_whole_frames() -> None:
    task = planned(extend={"source": ASSET, "left_seconds": 1.0, "right_seconds": 2.0}).task
    assert song_seconds(task, source(100)) == pytest.approx((10 + 100 + 21) * FRAME_SECONDS)


@pytest.mark.parametrize(
    ("name", "frames", "field"),
    [
        ("extend", 7749, "extend"),
        ("audio_to_audio", 2584, "source"),
        ("edit", 2584, "source"),
        ("repaint", 10, "repaint.regions[0].end_seconds"),
    ],
)
def test_what_does_not_fit_its_source_is_named(name: str, frames: int, field: str) -> None:
    task = planned(**{name: MINIMAL[name]}).task
    with pytest.raises(InvalidRequest) as caught:
        song_seconds(task, source(frames))
    assert [violated for violated, _ in caught.value.violations] == [field]


def test_the_longest_source_is_240_seconds() -> None:
    assert song_seconds(planned(repaint=MINIMAL["repaint"]).task, source(2583)) == pytest.approx(239.9, abs=0.1)
    assert isinstance(planned(repaint=MINIMAL["repaint"]).task, Repaint)
