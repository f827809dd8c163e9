import math
import random
from typing import Any

import pytest

from acestep_rpc.errors import InvalidRequest
from acestep_rpc.v1 import encoder_pb2, music_pb2, sampling_pb2
from orchestrator.limits import LIMITS
from orchestrator.plan import Plan, plan
from orchestrator.preview_spec import Preview
from orchestrator.stage_requests import encode_request, encode_target_request
from orchestrator.tasks import Edit, TextToMusic

NAN, INFINITY = math.nan, math.inf
ASSET = {"asset": "assets/1"}
REPAINT = {"source": ASSET, "regions": [{"start_seconds": 1, "end_seconds": 2}], "splice_source": False}


def request(**fields: Any) -> music_pb2.GenerateRequest:
    return music_pb2.GenerateRequest(**({"prompt": {"tags": "funk"}} | fields))


def planned(seed: int = 0, **fields: Any) -> Plan:
    return plan(request(**fields), random.Random(seed), "drawn")


def test_unset_fields_take_the_defaults_of_the_model() -> None:
    result = planned()
    assert result.task == TextToMusic(60)
    assert result.sample_rate == 48000
    assert result.audio_format == music_pb2.AUDIO_FORMAT_WAV_PCM16
    assert result.request_id == "drawn"
    assert result.sampling == sampling_pb2.SamplingParams(
        infer_step=60,
        guidance_scale=15,
        scheduler_type=sampling_pb2.SCHEDULER_TYPE_EULER,
        cfg_type=sampling_pb2.CFG_TYPE_APG,
        omega_scale=10,
        guidance_interval=0.5,
        guidance_interval_decay=0,
        min_guidance_scale=3,
        guidance_scale_text=0,
        guidance_scale_lyric=0,
        use_erg_tag=True,
        use_erg_lyric=True,
        use_erg_diffusion=True,
    )


def test_zero_and_false_are_not_unset() -> None:
    sampling = planned(
        sampling={"guidance_scale": 0, "omega_scale": 0, "guidance_interval": 0, "min_guidance_scale": 0, "use_erg_tag": False}
    ).sampling
    assert sampling.guidance_scale == sampling.omega_scale == sampling.guidance_interval == sampling.min_guidance_scale == 0
    assert not sampling.use_erg_tag
    assert sampling.use_erg_lyric


def test_every_field_of_the_sampling_parameters_is_set() -> None:
    sampling = planned().sampling
    for field in sampling.DESCRIPTOR.fields:
        if not field.is_repeated:
            assert sampling.HasField(field.name) if field.has_presence else getattr(sampling, field.name) != 0, field.name


def test_every_numeric_field_of_the_sampling_parameters_has_a_limit() -> None:
    numeric = (sampling_pb2.SamplingParams.DESCRIPTOR.fields[0].TYPE_UINT32, sampling_pb2.SamplingParams.DESCRIPTOR.fields[0].TYPE_DOUBLE)
    names = {f"sampling.{field.name}" for field in sampling_pb2.SamplingParams.DESCRIPTOR.fields if field.type in numeric}
    assert names == {field for field in LIMITS if field.startswith("sampling.")}


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("prompt", {"prompt": {"tags": " \n", "lyrics": "\t"}}, "tags, lyrics or both"),
    ("prompt.tags", {"prompt": {"tags": "x" * 4097}}, "at most 4096 characters"),
    ("prompt.lyrics", {"prompt": {"lyrics": "x" * 65537}}, "at most 65536 characters"),
    ("prompt.tags", {"prompt": {"tags": "funk\0"}}, "no control characters"),
    ("prompt.tags", {"prompt": {"tags": "funk\x1b[31m"}}, "no control characters"),
    ("prompt.lyrics", {"prompt": {"lyrics": "la\x85la"}}, "no control characters"),
    ("prompt.lyric_options.on_line_error", {"prompt": {"tags": "x", "lyric_options": {"on_line_error": 9}}}, "LINE_ERROR_POLICY_FAIL"),
    ("prompt.lyric_options.lyric_rules", {"prompt": {"tags": "x", "lyric_options": {"lyric_rules": 9}}}, "LYRIC_RULES_REFERENCE"),
    ("request_id", {"request_id": "a b"}, "1 to 128 characters"),
    ("request_id", {"request_id": "ä"}, "1 to 128 characters"),
    ("request_id", {"request_id": "x" * 129}, "1 to 128 characters"),
    ("request_id", {"request_id": "name\n"}, "1 to 128 characters"),
    ("priority", {"priority": 9}, "PRIORITY_NORMAL"),
    *[
        ("text_to_music.duration_seconds", {"text_to_music": {"duration_seconds": value}}, "1 to 240")
        for value in (0, 0.999, -5, 240.001, 10_000, NAN, INFINITY)
    ],
    *[("sampling.infer_step", {"sampling": {"infer_step": value}}, "1 to 200") for value in (0, 201)],
    *[("sampling.guidance_scale", {"sampling": {"guidance_scale": value}}, "0 to 200") for value in (-0.1, 200.1, NAN, INFINITY)],
    *[("sampling.omega_scale", {"sampling": {"omega_scale": value}}, "-100 to 100") for value in (-100.1, 101, NAN, -INFINITY)],
    *[("sampling.guidance_interval", {"sampling": {"guidance_interval": value}}, "0 to 1") for value in (-0.1, 1.1, NAN)],
    *[("sampling.guidance_interval_decay", {"sampling": {"guidance_interval_decay": value}}, "0 to 1") for value in (-0.1, 1.1, NAN)],
    *[("sampling.min_guidance_scale", {"sampling": {"min_guidance_scale": value}}, "0 to 200") for value in (-1, 201, NAN)],
    *[("sampling.guidance_scale_text", {"sampling": {"guidance_scale_text": value}}, "0 to 10") for value in (-1, 10.5, NAN)],
    *[("sampling.guidance_scale_lyric", {"sampling": {"guidance_scale_lyric": value}}, "0 to 10") for value in (-1, 10.5, NAN)],
    ("sampling.min_guidance_scale", {"sampling": {"guidance_scale": 2, "guidance_interval_decay": 0.5}}, "at most guidance_scale (2)"),
    ("sampling.scheduler_type", {"sampling": {"scheduler_type": 9}}, "SCHEDULER_TYPE_HEUN"),
    ("sampling.cfg_type", {"sampling": {"cfg_type": 9}}, "CFG_TYPE_APG"),
    ("sampling.oss_steps[1]", {"sampling": {"oss_steps": [1, 1001]}}, "1 to 1000"),
    ("sampling.oss_steps[0]", {"sampling": {"oss_steps": [0, 5]}}, "1 to 1000"),
    ("sampling.oss_steps", {"sampling": {"oss_steps": [5, 3]}}, "ascending"),
    ("sampling.oss_steps", {"sampling": {"oss_steps": [3, 3]}}, "ascending"),
    ("sampling.oss_steps", {"sampling": {"oss_steps": range(1, 202)}}, "at most 200 steps"),
    ("sampling.oss_steps", {"sampling": {"oss_steps": [3, 5], "scheduler_type": sampling_pb2.SCHEDULER_TYPE_HEUN}}, "heun"),
    ("seeds[1]", {"seeds": [1, 2**32]}, "0 to 4294967295"),
    ("seeds", {"seeds": [1, 2, 3], "num_variants": 2}, "at most num_variants (2) seeds"),
    ("seeds", {"seeds": range(17)}, "at most 16"),
    ("num_variants", {"num_variants": 0}, "1 to 16"),
    ("num_variants", {"num_variants": 17}, "1 to 16"),
    ("num_variants", {"num_variants": 2**32 - 1}, "1 to 16"),
    ("output.format", {"output": {"format": 99}}, "AUDIO_FORMAT_FLAC"),
    ("output.sample_rate", {"output": {"sample_rate": 0}}, "44100 or 48000"),
    ("output.sample_rate", {"output": {"sample_rate": 46000}}, "44100 or 48000"),
    ("output.sample_rate", {"output": {"sample_rate": 44100, "format": music_pb2.AUDIO_FORMAT_OGG_OPUS}}, "48000 with"),
    ("adapters[1].name", {"adapters": [{"name": "rap"}, {"name": "rap"}]}, "a name once"),
    ("adapters[0].name", {"adapters": [{"name": ""}]}, "1 to 128 characters"),
    ("adapters[0].name", {"adapters": [{"name": "x" * 129}]}, "1 to 128 characters"),
    ("adapters[0].scale", {"adapters": [{"name": "rap", "scale": 3.5}]}, "-3 to 3"),
    ("adapters[0].scale", {"adapters": [{"name": "rap", "scale": NAN}]}, "-3 to 3"),
    ("adapters", {"adapters": [{"name": f"a{index}"} for index in range(9)]}, "at most 8"),
]


@pytest.mark.parametrize(("field", "fields", "allowed"), BAD)
def test_a_bad_field_is_named_with_what_is_allowed(field: str, fields: dict[str, Any], allowed: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        planned(**fields)
    ((found, description),) = caught.value.violations
    assert found == field
    assert allowed in description


def test_all_violations_come_in_one_error() -> None:
    with pytest.raises(InvalidRequest) as caught:
        planned(
            prompt={},
            sampling={"infer_step": 0, "guidance_scale": NAN},
            text_to_music={"duration_seconds": 0},
            seeds=[2**33],
            output={"format": 77},
        )
    assert [field for field, _ in caught.value.violations] == [
        "prompt",
        "sampling.infer_step",
        "sampling.guidance_scale",
        "seeds[0]",
        "text_to_music.duration_seconds",
        "output.format",
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"text_to_music": {"duration_seconds": 1}},
        {"text_to_music": {"duration_seconds": 240}},
        {"sampling": {"infer_step": 200, "omega_scale": -100}},
        {"sampling": {"oss_steps": range(801, 1001)}},
        {"sampling": {"guidance_scale": 2}},
        {"sampling": {"guidance_scale": 1, "guidance_interval_decay": 1}},
        {"seeds": [0, 2**32 - 1], "num_variants": 16},
        {"request_id": "x" * 128},
        {"prompt": {"lyrics": "[verse]\r\n\tla"}},
        {"prompt": {"tags": "x" * 4096, "lyrics": "y" * 65536}},
        {"output": {"sample_rate": 44100, "format": music_pb2.AUDIO_FORMAT_FLAC}},
        {"priority": music_pb2.PRIORITY_INTERACTIVE},
    ],
)
def test_the_ends_of_each_range_are_allowed(fields: dict[str, Any]) -> None:
    planned(**fields)


EDIT = {"source": ASSET, "target": {"tags": "jazz"}}


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({}, (1, 60)),
        ({"sampling": {"infer_step": 7, "scheduler_type": sampling_pb2.SCHEDULER_TYPE_HEUN}}, (1, 7)),
        ({"sampling": {"oss_steps": [3, 9, 40]}}, (1, 3)),
        ({"repaint": REPAINT | {"retake_variance": 0.25}, "sampling": {"infer_step": 10}}, (8, 10)),
        ({"edit": EDIT | {"edit_n_min": 0.6}, "sampling": {"infer_step": 10}}, (7, 10)),
        ({"audio_to_audio": {"source": ASSET} | {"ref_audio_strength": 0.7}, "sampling": {"infer_step": 10}}, (1, 3)),
        ({"extend": {"source": ASSET} | {"right_seconds": 5}}, (1, 60)),
    ],
)
def test_previews_come_after_the_steps_that_are_run(fields: dict[str, Any], steps: tuple[int, int]) -> None:
    preview = planned(output={"preview": {"at_steps": [steps[1], steps[0]]}}, **fields).preview
    assert preview == Preview(steps, None)
    for step in (steps[0] - 1, steps[1] + 1):
        with pytest.raises(InvalidRequest) as refused:
            planned(output={"preview": {"at_steps": [step]}}, **fields)
        ((field, text),) = refused.value.violations
        assert field == "output.preview.at_steps[0]"
        assert f"{step} is not allowed" in text
        assert f"{steps[0]} to {steps[1]}" in text


def window(start: float, end: float) -> dict[str, Any]:
    return {"at_steps": [1], "window": {"start_seconds": start, "end_seconds": end}}


@pytest.mark.parametrize(
    ("preview", "field"),
    [
        ({}, "at_steps"),
        ({"at_steps": range(1, 18)}, "at_steps"),
        ({"at_steps": [2, 2]}, "at_steps"),
        (window(-1.0, 3.0), "window.start_seconds"),
        (window(NAN, 3), "window.start_seconds"),
        (window(2, 2.05), "window.end_seconds"),
        (window(2, INFINITY), "window.end_seconds"),
        (window(0, 60.5), "window.end_seconds"),
    ],
)
def test_a_preview_that_cannot_be_is_refused_by_name(preview: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        planned(output={"preview": preview})
    assert {name for name, _ in refused.value.violations} == {f"output.preview.{field}"}


def test_no_preview_is_possible_where_no_step_is_run() -> None:
    for task in ({"audio_to_audio": {"source": ASSET} | {"ref_audio_strength": 1}}, {"repaint": REPAINT | {"retake_variance": 0}}):
        with pytest.raises(InvalidRequest, match="no step is run"):
            planned(output={"preview": {"at_steps": [1]}}, **task)


def test_a_window_is_kept_as_it_is() -> None:
    assert planned(output={"preview": window(2, 60)}).preview == Preview((1,), (2, 60))
    assert planned().preview is None


def test_line_breaks_become_line_feeds() -> None:
    result = planned(prompt={"tags": "a\rb", "lyrics": "one\r\ntwo\n\rthree"})
    assert result.tags == "a\nb"
    assert result.lyrics == "one\ntwo\n\nthree"


def test_given_seeds_are_kept_and_the_rest_is_drawn() -> None:
    result = planned(seeds=[7, 7], num_variants=4)
    assert result.seeds[:2] == (7, 7)
    assert len(set(result.seeds)) == 3
    assert all(0 <= seed < 2**32 for seed in result.seeds)


def test_the_number_of_variants_is_that_of_the_seeds_or_one() -> None:
    assert len(planned().seeds) == 1
    assert planned(seeds=[1, 2, 3]).seeds == (1, 2, 3)


def test_seeds_come_from_the_source_alone() -> None:
    assert planned(seed=1, num_variants=3).seeds == planned(seed=1, num_variants=3).seeds
    assert planned(seed=1, num_variants=3).seeds != planned(seed=2, num_variants=3).seeds


def test_the_callers_name_wins() -> None:
    assert planned(request_id="my.song_1-a").request_id == "my.song_1-a"


def test_planning_leaves_the_request_alone() -> None:
    original = request(sampling={"infer_step": 5}, prompt={"tags": "a\r"})
    copy = music_pb2.GenerateRequest.FromString(original.SerializeToString())
    plan(original, random.Random(0), "x")
    assert original == copy


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({}, encoder_pb2.NULL_CONDITION_WEAKENED),
        ({"use_erg_tag": False}, encoder_pb2.NULL_CONDITION_WEAKENED_LYRICS),
        ({"use_erg_lyric": False}, encoder_pb2.NULL_CONDITION_ZEROS),
        ({"use_erg_lyric": False, "use_erg_tag": False}, encoder_pb2.NULL_CONDITION_ZEROS),
        ({"guidance_scale": 0}, encoder_pb2.NULL_CONDITION_UNSPECIFIED),
        ({"guidance_scale": 1}, encoder_pb2.NULL_CONDITION_UNSPECIFIED),
        ({"guidance_scale": 1, "guidance_scale_text": 5, "guidance_scale_lyric": 2}, encoder_pb2.NULL_CONDITION_UNSPECIFIED),
        ({"guidance_scale": 0.5}, encoder_pb2.NULL_CONDITION_WEAKENED),
    ],
)
def test_the_null_condition_follows_guidance_and_erg(sampling: dict[str, Any], expected: int) -> None:
    assert planned(sampling=sampling).null_condition == expected


NEGATIVE = {"tags": "funk", "negative_tags": "rock\r\npop"}
EDIT = {"source": {"asset": "assets/1"}, "target": {"tags": "jazz", "negative_tags": "metal"}}


def test_negative_tags_take_the_place_of_weakened_ones() -> None:
    result = planned(prompt=NEGATIVE)
    assert result.negative_tags == "rock\npop"
    assert result.null_condition == encoder_pb2.NULL_CONDITION_WEAKENED_LYRICS
    assert not result.sampling.use_erg_tag
    assert encode_request(result).negative_tags == "rock\npop"
    assert not encode_request(planned()).HasField("negative_tags")


def test_each_prompt_of_an_edit_has_its_own_negative_tags() -> None:
    result = planned(edit=EDIT, sampling={"guidance_interval": 0})  # an edit guides every step
    assert isinstance(result.task, Edit)
    assert not encode_request(result).HasField("negative_tags")
    assert encode_target_request(result, result.task).negative_tags == "metal"
    assert result.null_condition == encoder_pb2.NULL_CONDITION_MASKED


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": NEGATIVE, "sampling": {"guidance_scale": 1}}, "prompt.negative_tags"),
        ({"prompt": NEGATIVE, "sampling": {"guidance_scale": 0}}, "prompt.negative_tags"),
        ({"prompt": NEGATIVE, "sampling": {"guidance_interval": 0}}, "prompt.negative_tags"),
        ({"prompt": NEGATIVE, "sampling": {"use_erg_tag": True}}, "sampling.use_erg_tag"),
        ({"prompt": {"tags": "funk", "negative_tags": "a" * 4097}}, "prompt.negative_tags"),
        ({"edit": EDIT, "sampling": {"guidance_scale": 1}}, "edit.target.negative_tags"),
    ],
)
def test_negative_tags_that_nothing_would_hear_are_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        planned(**fields)
    assert [name for name, _ in caught.value.violations] == [field]


def test_an_adapter_without_a_scale_has_scale_1() -> None:
    result = planned(adapters=[{"name": "rap"}, {"name": "jazz", "scale": -3}])
    assert [(adapter.name, adapter.scale) for adapter in result.adapters] == [("rap", 1), ("jazz", -3)]


def test_the_checkpoint_fills_what_the_request_leaves_open() -> None:
    own = sampling_pb2.SamplingParams(
        infer_step=30, guidance_scale=2, cfg_type=sampling_pb2.CFG_TYPE_CFG, omega_scale=0, use_erg_lyric=False
    )
    asked = request(sampling={"guidance_scale": 0, "use_erg_diffusion": False, "cfg_type": sampling_pb2.CFG_TYPE_APG})
    sampling = plan(asked, random.Random(0), "x", own).sampling
    assert (sampling.infer_step, sampling.omega_scale, sampling.use_erg_lyric) == (30, 0, False)
    assert (sampling.guidance_scale, sampling.use_erg_diffusion, sampling.cfg_type) == (0, False, sampling_pb2.CFG_TYPE_APG)
    assert (sampling.guidance_interval, sampling.use_erg_tag) == (0.5, True)  # nobody says anything: the contract's


def test_a_default_of_the_checkpoint_that_is_out_of_range_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"sampling.infer_step.*1 to 200"):
        plan(request(), random.Random(0), "x", sampling_pb2.SamplingParams(infer_step=201))
