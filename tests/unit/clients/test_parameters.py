"""Requests from receipts and from the reference's parameter files."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest

from acestep_client.parameters import UnusableParameters, read_parameters, recipe_of, set_source
from acestep_rpc.receipt import to_dict
from acestep_rpc.v1 import encoder_pb2, music_pb2, sampling_pb2, stage_pb2
from clients.cli.like import changed
from orchestrator.audio import open_writer
from orchestrator.plan import Plan, plan
from orchestrator.receipt import Timecosts, write_receipt
from orchestrator.tasks import Edit

ASSET = {"asset": "assets/" + "1" * 64}
EVERYTHING = {
    "prompt": {
        "tags": "funk",
        "lyrics": "[verse]\nla",
        "lyric_options": {
            "language": "en",
            "lyric_rules": encoder_pb2.LYRIC_RULES_REFERENCE,
            "on_line_error": 2,
            "tag_normalization": True,
        },
        "negative_tags": "noise",
    },
    "sampling": {"infer_step": 12, "scheduler_type": 3, "cfg_type": 3, "guidance_scale": 7.5, "omega_scale": -3, "use_erg_lyric": False},
    "adapters": [{"name": "rap", "scale": -0.5, "use_trained_scale": True}, {"name": "old"}],
    "output": {"format": music_pb2.AUDIO_FORMAT_OGG_OPUS, "sample_rate": 48000},
    "seeds": [2**32 - 1],
}
TASKS = {
    "text_to_music": {"duration_seconds": 12.5},
    "retake": {"duration_seconds": 3, "retake_variances": [0.25], "retake_seeds": [5]},
    "repaint": {
        "source": ASSET,
        "regions": [{"start_seconds": 1, "end_seconds": 2}, {"start_seconds": 3, "end_seconds": 4.5}],
        "retake_variance": 0.75,
        "retake_seeds": [5],
        "context_seconds": 2,
        "feather_seconds": 0.25,
        "splice_source": False,
    },
    "extend": {"source": {"result": "operations/a/results/0"}, "left_seconds": 2, "right_seconds": 3.5, "retake_seeds": [5]},
    "edit": {
        "source": ASSET,
        "target": {"tags": "jazz", "lyrics": "[verse]\nlo", "negative_tags": "rain"},
        "edit_n_min": 0.25,
        "edit_n_max": 0.75,
        "edit_n_avg": 3,
        "retake_seeds": [5],
    },
    "audio_to_audio": {"source": ASSET, "ref_audio_strength": 0.25},
}


def planned(request: music_pb2.GenerateRequest) -> Plan:
    return plan(request, random.Random(0), "drawn")


def receipt_of(made: Plan) -> dict:
    encoder = stage_pb2.DescribeResponse(stage="encoder", features={"lyric_rules": "LYRIC_RULES_REVISED"})
    return to_dict(write_receipt(made, 0, getattr(made.task, "duration_seconds", 9.0), 9.0, [encoder], Timecosts(1, 2, 3)))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("fields", [EVERYTHING, {"prompt": {"tags": "funk"}}], ids=["everything", "defaults"])
def test_the_request_of_a_receipt_has_the_plan_of_the_song(task: str, fields: dict) -> None:
    if task in ("repaint", "extend", "edit") and fields is EVERYTHING:
        fields = fields | {"sampling": fields["sampling"] | {"scheduler_type": 1, "cfg_type": 2}}  # theirs
    made = planned(music_pb2.GenerateRequest(**fields, **{task: TASKS[task]}))
    again = planned(recipe_of(receipt_of(made)).request)
    for field in dataclasses.fields(Plan):
        if field.name in ("request_id", "lyric_options"):
            continue
        assert _comparable(getattr(again, field.name)) == _comparable(getattr(made, field.name)), field.name
    assert again.lyric_options.language == made.lyric_options.language
    assert again.lyric_options.tag_normalization == made.lyric_options.tag_normalization
    assert receipt_of(again) == receipt_of(made)


def _comparable(value: Any) -> Any:
    """Lyric options that say a default and those that leave it out are told apart by nobody but protobuf; receipts have them resolved."""
    return dataclasses.replace(value, lyric_options=None) if isinstance(value, Edit) else value


REFERENCE = {
    "lora_name_or_path": "none",
    "task": "text2music",
    "prompt": "funk",
    "lyrics": "[verse]\nla",
    "audio_duration": 170.63997916666668,
    "infer_step": 60,
    "guidance_scale": 15,
    "scheduler_type": "euler",
    "cfg_type": "apg",
    "omega_scale": 10,
    "guidance_interval": 0.5,
    "guidance_interval_decay": 0,
    "min_guidance_scale": 3,
    "use_erg_tag": True,
    "use_erg_lyric": False,
    "use_erg_diffusion": True,
    "oss_steps": [],
    "timecosts": {"preprocess": 0.03, "diffusion": 12.9, "latent2audio": 1.8},
    "actual_seeds": [3299954530],
    "retake_seeds": [1832147391],
    "retake_variance": 0.5,
}


def test_files_of_the_reference_are_read_by_its_rules_whatever_their_age() -> None:
    request = recipe_of(REFERENCE).request
    made = planned(request)
    assert (made.seeds, made.sampling.infer_step, made.tags) == ((3299954530,), 60, "funk")
    assert request.text_to_music.duration_seconds == REFERENCE["audio_duration"]
    assert request.prompt.lyric_options.lyric_rules == encoder_pb2.LYRIC_RULES_REFERENCE
    assert request.output.format == music_pb2.AUDIO_FORMAT_WAV_PCM16
    old = {name: REFERENCE[name] for name in ("prompt", "lyrics", "audio_duration", "infer_step", "actual_seeds")}
    assert recipe_of(old).request.text_to_music == request.text_to_music
    words = REFERENCE | {
        "actual_seeds": "1, 2",
        "oss_steps": "16, 29",
        "format": "mp3",
        "lora_name_or_path": "ACE-Step/rap",
        "lora_weight": 0.5,
    }
    request = recipe_of(words).request
    assert (list(request.seeds), list(request.sampling.oss_steps)) == ([1, 2], [16, 29])
    assert (request.adapters[0].name, request.adapters[0].scale) == ("rap", 0.5)
    assert request.output.format == music_pb2.AUDIO_FORMAT_MP3


def test_tasks_of_the_reference_name_a_file_that_is_still_to_be_found() -> None:
    source = {"src_audio_path": "/tmp/a.wav"}
    recipe = recipe_of(REFERENCE | source | {"task": "repaint", "repaint_start": 1, "repaint_end": 30})
    assert (recipe.source_name, recipe.is_stored) == ("/tmp/a.wav", False)
    set_source(recipe.request, "assets/2")
    assert recipe.request.repaint.source.asset == "assets/2"
    assert not recipe.request.repaint.splice_source  # the reference has none
    extend = recipe_of(REFERENCE | source | {"task": "extend", "repaint_start": -10, "repaint_end": 200.63997916666668}).request.extend
    assert (extend.left_seconds, round(extend.right_seconds, 6)) == (10, 30)
    cover = recipe_of(REFERENCE | {"audio2audio_enable": True, "ref_audio_strength": 0.25, "ref_audio_input": "b.wav"})
    assert (cover.request.audio_to_audio.ref_audio_strength, cover.source_name) == (0.25, "b.wav")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt": None}, "prompt is missing"),
        ({"prompt": 3}, "prompt: 3 is not text"),
        ({"audio_duration": "long"}, "audio_duration: 'long' is not a number"),
        ({"infer_step": 1.5}, "infer_step: 1.5 is not a whole number"),
        ({"infer_step": True}, "infer_step: True is not a whole number"),
        ({"use_erg_tag": 1}, "use_erg_tag: 1 is not true or false"),
        ({"cfg_type": "none"}, "cfg_type: 'none' is none of apg, cfg, cfg_star"),
        ({"task": "sing"}, "task: 'sing' is none of"),
        ({"task": "edit"}, "do not keep the tags and lyrics of the source"),
        ({"actual_seeds": "a"}, "actual_seeds: 'a' is no list"),
        ({"adapters": [{"nome": "a"}]}, "adapters: "),
    ],
)
def test_what_cannot_be_used_is_named(fields: dict, said: str) -> None:
    with pytest.raises(UnusableParameters, match=said):
        recipe_of(REFERENCE | fields)


@pytest.mark.parametrize("audio_format", [number for number in music_pb2.AudioFormat.values() if number])
def test_the_receipt_is_found_in_every_format(audio_format: music_pb2.AudioFormat, tmp_path: Path) -> None:
    import numpy as np

    receipt = json.dumps({"prompt": "x" * 5000})
    writer = open_writer(audio_format, 48000, 4800, receipt)
    (tmp_path / "song").write_bytes(writer.write(np.zeros((2, 4800), np.float32)) + writer.close())
    assert read_parameters(tmp_path / "song") == json.loads(receipt)


@pytest.mark.parametrize(
    "content", [b"RIFF\x04\0\0\0WAVE", b"fLaC\0\0\0\0", b"[1]", b"", b"{", b"\xff\xfb\0\0", b"RIFF\x04\0\0\0WAVELIST\xff\xff\xff\xff"]
)
def test_files_that_say_nothing_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(content)
    with pytest.raises(UnusableParameters, match="song.wav"):
        read_parameters(tmp_path / "song.wav")


def test_flags_take_the_place_of_what_they_name() -> None:
    base = recipe_of(REFERENCE | {"lora_name_or_path": "rap", "oss_steps": [1, 2]}).request
    given = music_pb2.GenerateRequest(
        prompt=music_pb2.Prompt(tags="jazz"),
        seeds=[9],
        adapters=[sampling_pb2.AdapterSelection(name="old")],
        sampling=sampling_pb2.SamplingParams(oss_steps=[3]),
    )
    merged = changed(base, given)
    assert (merged.prompt.tags, merged.prompt.lyrics) == ("jazz", "[verse]\nla")
    assert (list(merged.seeds), [adapter.name for adapter in merged.adapters], list(merged.sampling.oss_steps)) == ([9], ["old"], [3])
    assert merged.sampling.infer_step == 60
    assert changed(base, music_pb2.GenerateRequest()) == base
