"""The orchestrator counts the forwards that the diffusion stage then makes."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acestep_rpc.torch_tensor import pack
from acestep_rpc.v1 import encoder_pb2, music_pb2, sampling_pb2, stage_pb2
from acestep_rpc.work import totals_left
from diffusion_svc.sampler import Sampler
from diffusion_svc.servicer import read_request
from orchestrator.plan import plan
from orchestrator.predictions import predict_plan, song_forwards
from orchestrator.stage_requests import sample_request
from tests import tiny

MODEL = tiny.transformer(num_layers=1)
SOURCE_FRAMES = 60
TOKENS = 9
FRAME = 4096 / 44100


def conditioning(seed: int) -> encoder_pb2.Conditioning:
    states = tiny.conditions(seed)
    return encoder_pb2.Conditioning(
        text_hidden_states=pack(states.text),
        lyric_hidden_states=pack(states.lyrics),
        lyric_attention_mask=pack(states.lyric_mask),
        null_text_hidden_states=pack(states.null_text),
        null_lyric_hidden_states=pack(states.null_lyrics),
    )


def random_request(randoms: random.Random) -> music_pb2.GenerateRequest:
    source = {"asset": "assets/" + 64 * "0"}
    start = randoms.uniform(0, 4)
    tasks: dict[str, dict[str, Any]] = {
        "text_to_music": {"duration_seconds": randoms.uniform(1, 9)},
        "retake": {"duration_seconds": randoms.uniform(1, 9), "retake_variances": [0.3]},
        "repaint": {
            "source": source,
            "regions": randoms.choice(
                ([{"start_seconds": start, "end_seconds": start + 1}], [{"start_seconds": 0, "end_seconds": SOURCE_FRAMES * FRAME}])
            ),
            "retake_variance": randoms.uniform(0, 1),
            "context_seconds": randoms.choice((None, randoms.uniform(0, 3))),
        },
        "extend": {"source": source, "left_seconds": randoms.uniform(0, 3), "right_seconds": randoms.uniform(0, 3)},
        "edit": {
            "source": source,
            "target": {"tags": "jazz"},
            "edit_n_min": randoms.uniform(0, 0.5),
            "edit_n_max": randoms.uniform(0.5, 1),
            "edit_n_avg": randoms.randint(1, 3),
        },
        "audio_to_audio": {"source": source, "ref_audio_strength": randoms.choice((0, 1, randoms.random()))},
    }
    name = randoms.choice(list(tasks))
    sampling: dict[str, Any] = {
        "infer_step": randoms.randint(1, 12),
        "guidance_scale": randoms.choice((0, 1, 5)),
        "guidance_interval": randoms.random(),
    }
    if name not in ("repaint", "extend", "edit"):
        sampling["scheduler_type"] = randoms.choice(sampling_pb2.SchedulerType.values())
    if name != "edit":
        sampling["cfg_type"] = randoms.choice(sampling_pb2.CfgType.values())
        if randoms.random() < 0.3:
            sampling |= {"guidance_scale_text": 5, "guidance_scale_lyric": 2}
    if name not in ("edit", "audio_to_audio") and randoms.random() < 0.2:
        sampling["oss_steps"] = [2, 3, 7]
        sampling["scheduler_type"] = sampling_pb2.SCHEDULER_TYPE_EULER
    task = {name: {key: value for key, value in tasks[name].items() if value is not None}}
    return music_pb2.GenerateRequest(prompt={"tags": "funk", "lyrics": "[verse]\nla"}, sampling=sampling, **task)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_forwards_are_counted_as_the_diffusion_stage_makes_them(seed: int) -> None:
    planned = plan(random_request(random.Random(seed)), random.Random(0), "a")
    source = pack(torch.zeros(8, 16, SOURCE_FRAMES))
    message = sample_request(planned, conditioning(1), source, conditioning(2))
    request = read_request(message, MODEL.config)
    (song,) = Sampler(MODEL).start(request)
    frames, forwards = song_forwards(planned, SOURCE_FRAMES, TOKENS)
    assert frames == request.task.num_frames
    assert totals_left(forwards) == song.work_left


def descriptions() -> list[stage_pb2.DescribeResponse]:
    costs = {
        "encoder": {
            "encode": {"prompts": 1.0, "text_tokens": 0.5},
            "text_tokens": {"characters": 0.25},
            "lyric_tokens": {"characters": 0.5},
        },
        "diffusion": {"forward": {"forwards": 2.0, "row_frames": 0.01}},
        "vae": {"decode": {"songs": 3.0, "frames": 0.1}},
    }
    return [
        stage_pb2.DescribeResponse(
            stage=stage, limits={"forward_row_frames": 1000}, costs=[{"name": name, "coefficients": value} for name, value in own.items()]
        )
        for stage, own in costs.items()
    ]


def test_a_song_alone_pays_for_its_forwards_and_one_in_company_for_its_share() -> None:
    sampling = {"infer_step": 10, "guidance_scale": 1.0}
    request = music_pb2.GenerateRequest(prompt={"tags": "funk"}, text_to_music={"duration_seconds": 10}, sampling=sampling)
    prediction = predict_plan(plan(request, random.Random(0), "a"), 0, descriptions())
    assert prediction is not None
    frames = 107
    assert prediction.alone == pytest.approx((1 + 0.5 * 1, 10 * 2 + 10 * frames * 0.01, 3 + 0.1 * frames))
    assert prediction.load == pytest.approx((1.5, 10 * frames / 1000 * 2 + 10 * frames * 0.01, 3 + 0.1 * frames))
    assert prediction.device_seconds == sum(prediction.load)


def test_a_stage_without_prices_makes_no_prediction() -> None:
    planned = plan(music_pb2.GenerateRequest(prompt={"tags": "funk"}), random.Random(0), "a")
    silent = descriptions()
    del silent[2].costs[:]
    assert predict_plan(planned, 0, silent) is None


def test_previews_are_work_of_the_codec_that_the_song_does_not_wait_for() -> None:
    stages = descriptions()
    stages[2].limits["decode_margin_seconds"] = 1.0
    window = {"start_seconds": 2, "end_seconds": 4}
    predictions = []
    for output in ({}, {"preview": {"at_steps": [1, 5, 9], "window": window}}):
        request = music_pb2.GenerateRequest(prompt={"tags": "funk"}, text_to_music={"duration_seconds": 10}, seeds=[1, 2], output=output)
        predictions.append(predict_plan(plan(request, random.Random(0), "a"), 0, stages))
    plain, previewed = predictions
    assert plain is not None
    assert previewed is not None
    assert previewed.alone == plain.alone
    frames = 54 - 10  # of 1 to 5 seconds
    assert previewed.load[2] - plain.load[2] == pytest.approx(6 * (3 + 0.1 * frames))
