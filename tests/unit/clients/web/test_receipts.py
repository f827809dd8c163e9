import random

import pytest

from acestep_rpc.receipt import to_dict
from acestep_rpc.v1 import encoder_pb2, music_pb2, sampling_pb2, stage_pb2
from clients.web.receipts import TASKS, UnreadableFile, read_parameter_file, settings_of
from clients.web.requests import build_request
from orchestrator.limits import LIMITS
from orchestrator.plan import plan, sampling_with_defaults
from orchestrator.receipt import Timecosts, write_receipt

SERVER = sampling_with_defaults(sampling_pb2.SamplingParams())
# What the controls of a page show that nobody has touched.
PAGE = {
    "prompt.tags": "funk", "prompt.lyrics": "", "prompt.negative_tags": "", "prompt.lyric_options.language": "",
    "prompt.lyric_options.lyric_rules": "", "prompt.lyric_options.on_line_error": False, "prompt.lyric_options.tag_normalization": False,
    "output.format": "wav", "output.sample_rate": "48000", "adapters": "none", "adapters.scale": 1.0, "adapters.more": "",
    "adapters.use_trained_scale": False, "seeds": "", "num_variants": 1, "text_to_music.duration_seconds": -1,
    "sampling.infer_step": 60, "sampling.guidance_scale": 15.0, "sampling.scheduler_type": "euler", "sampling.cfg_type": "apg",
    "sampling.omega_scale": 10.0, "sampling.guidance_interval": 0.5, "sampling.guidance_interval_decay": 0.0,
    "sampling.min_guidance_scale": 3.0, "sampling.guidance_scale_text": 0.0, "sampling.guidance_scale_lyric": 0.0,
    "sampling.use_erg_tag": True, "sampling.use_erg_lyric": False, "sampling.use_erg_diffusion": True, "sampling.oss_steps": "",
    "retake.retake_variances": 0.2, "retake.retake_seeds": "", "repaint.source": None, "repaint.regions[0].start_seconds": 0,
    "repaint.regions[0].end_seconds": 30, "repaint.regions.more": "", "repaint.retake_variance": 0.2, "repaint.retake_seeds": "",
    "repaint.splice_source": True, "repaint.feather_seconds": 0.0, "repaint.context_seconds": None, "edit.source": None,
    "edit.target.tags": "",
    "edit.target.lyrics": "", "edit.edit_n_min": 0.6, "edit.edit_n_max": 1.0, "edit.edit_n_avg": 1, "edit.retake_seeds": "",
    "extend.source": None,
    "extend.left_seconds": 0.0, "extend.right_seconds": 30.0, "extend.retake_seeds": "", "audio_to_audio.source": None,
    "audio_to_audio.ref_audio_strength": 0.5,
}  # fmt: skip
SOURCE = music_pb2.AudioSource(result="operations/x/results/0")
REQUESTS = {
    "text2music": {"text_to_music": music_pb2.TextToMusic(duration_seconds=33.25)},
    "retake": {"retake": music_pb2.Retake(duration_seconds=12, retake_variances=[0.3], retake_seeds=[5])},
    "repaint": {
        "repaint": music_pb2.Repaint(
            source=SOURCE,
            regions=[music_pb2.TimeRange(start_seconds=start, end_seconds=end) for start, end in ((1.5, 4), (6, 9))],
            retake_variance=0.4, retake_seeds=[6], context_seconds=10, feather_seconds=0.5, splice_source=False,
        )
    },
    "extend": {"extend": music_pb2.Extend(source=SOURCE, left_seconds=3, right_seconds=4.5, retake_seeds=[7])},
    "edit": {
        "edit": music_pb2.Edit(
            source=SOURCE, target=music_pb2.Prompt(tags="jazz", lyrics="[verse]\nbye", lyric_options={"language": "en"},
            negative_tags="rock"),
            edit_n_min=0.2, edit_n_max=0.4, edit_n_avg=3, retake_seeds=[8],
        )
    },
    "audio2audio": {"audio_to_audio": music_pb2.AudioToAudio(source=SOURCE, ref_audio_strength=0.7)},
}  # fmt: skip


def planned(request: music_pb2.GenerateRequest):
    return plan(request, random.Random(0), "planned", None)


@pytest.mark.parametrize("task", REQUESTS)
def test_the_receipt_of_a_song_sets_the_controls_to_its_request(task):
    sampling = sampling_pb2.SamplingParams(infer_step=17, guidance_scale=3.5, omega_scale=-2, use_erg_tag=False, min_guidance_scale=1)
    if task != "edit":
        sampling.cfg_type, sampling.guidance_interval_decay = sampling_pb2.CFG_TYPE_CFG_STAR, 0.25
    request = music_pb2.GenerateRequest(
        prompt=music_pb2.Prompt(
            tags="funk, bass", lyrics="[verse]\nhello",
            lyric_options={"language": "en", "on_line_error": encoder_pb2.LINE_ERROR_POLICY_SKIP,
            "lyric_rules": encoder_pb2.LYRIC_RULES_REVISED},
            negative_tags="rock",
        ),
        sampling=sampling,
        output=music_pb2.OutputSpec(format=music_pb2.AUDIO_FORMAT_FLAC, sample_rate=44100),
        adapters=[sampling_pb2.AdapterSelection(name="rap", scale=0.5), sampling_pb2.AdapterSelection(name="choir", scale=-1)],
        seeds=[42], keep_results=True, **REQUESTS[task],
    )  # fmt: skip
    if task == "edit":
        request.edit.target.lyric_options.CopyFrom(request.prompt.lyric_options)
    made = planned(request)
    stages = [stage_pb2.DescribeResponse(stage="encoder", features={"lyric_rules": "LYRIC_RULES_REVISED"})]
    seconds = 33.25 if task == "text2music" else 12
    receipt = to_dict(write_receipt(made, 0, seconds, seconds, stages, Timecosts(1, 1, 1)))
    if task == "repaint":
        assert "splice" not in receipt
    settings = settings_of(receipt)
    assert settings.task == TASKS[task]
    again = planned(build_request(settings.task, PAGE | settings.values, SERVER))
    assert again == made


def test_every_field_of_the_reference_is_read():
    file = {
        "format": "mp3", "lora_name_or_path": "rap", "lora_weight": 0.4, "task": "text2music", "prompt": "a", "lyrics": "b",
        "audio_duration": 61.5,
        "infer_step": 27, "guidance_scale": 7, "scheduler_type": "pingpong", "cfg_type": "cfg_star", "omega_scale": 4,
        "guidance_interval": 0.3,
        "guidance_interval_decay": 0.2, "min_guidance_scale": 1, "use_erg_tag": False, "use_erg_lyric": True, "use_erg_diffusion": False,
        "oss_steps": [16, 29], "timecosts": {}, "actual_seeds": [3, 4], "retake_seeds": [1], "retake_variance": 0.5,
        "guidance_scale_text": 5,
        "guidance_scale_lyric": 1.5, "repaint_start": 0, "repaint_end": 0, "edit_n_min": 0, "edit_n_max": 1, "src_audio_path": None,
        "edit_target_prompt": None, "edit_target_lyrics": None, "audio2audio_enable": False, "ref_audio_strength": 0.5,
        "ref_audio_input": None,
        "audio_path": "./outputs/x.mp3",
    }  # fmt: skip
    request = build_request("text_to_music", PAGE | settings_of(file).values, SERVER)
    assert (request.prompt.tags, request.prompt.lyrics, request.text_to_music.duration_seconds) == ("a", "b", 61.5)
    assert (list(request.seeds), request.num_variants, list(request.sampling.oss_steps)) == ([3, 4], 2, [16, 29])
    assert request.output.format == music_pb2.AUDIO_FORMAT_MP3
    assert [(adapter.name, adapter.scale) for adapter in request.adapters] == [("rap", 0.4)]
    sampling = planned(request).sampling
    for name in ("infer_step", "guidance_scale", "omega_scale", "guidance_interval", "guidance_interval_decay", "min_guidance_scale",
                 "guidance_scale_text", "guidance_scale_lyric", "use_erg_tag", "use_erg_lyric", "use_erg_diffusion"):  # fmt: skip
        assert getattr(sampling, name) == file[name], name
    assert (sampling.scheduler_type, sampling.cfg_type) == (sampling_pb2.SCHEDULER_TYPE_PINGPONG, sampling_pb2.CFG_TYPE_CFG_STAR)


def test_tasks_of_the_reference_keep_their_values_and_say_what_they_lack():
    extension = settings_of(
        {"task": "extend", "audio_duration": 60, "repaint_start": -10, "repaint_end": 75.5, "src_audio_path": "/tmp/a.wav"}
    )
    assert (extension.values["extend.left_seconds"], extension.values["extend.right_seconds"]) == (10, 15.5)
    assert "choose or upload" in extension.notes[0]
    edit = settings_of({"task": "edit", "prompt": "jazz", "lyrics": "new", "edit_n_min": 0.6, "edit_n_max": 1.0})
    assert (edit.values["edit.target.tags"], edit.values["edit.target.lyrics"]) == ("jazz", "new")
    cover = settings_of({"audio2audio_enable": True, "ref_audio_strength": 0.3, "prompt": "x"})
    assert (cover.task, cover.values["audio_to_audio.ref_audio_strength"]) == ("audio_to_audio", 0.3)
    older = settings_of({"prompt": "x", "infer_step": 60})
    assert (older.values["sampling.guidance_scale_text"], older.task) == (0, "text_to_music")


@pytest.mark.parametrize(
    "content",
    [
        "[1]",
        "nonsense",
        '{"task": "dance"}',
        '{"infer_step": "many"}',
        '{"actual_seeds": [1.5]}',
        '{"cfg_type": "none"}',
        '{"use_erg_tag": 3}',
    ],
)
def test_what_is_no_parameter_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "song_input_params.json"
    path.write_text(content)
    with pytest.raises(UnreadableFile):
        settings_of(read_parameter_file(path))


def test_only_changed_values_are_sent_so_that_tasks_are_not_refused_for_defaults_of_the_checkpoint():
    checkpoint = sampling_with_defaults(sampling_pb2.SamplingParams(cfg_type=sampling_pb2.CFG_TYPE_CFG, infer_step=30))
    page = PAGE | {
        "sampling.cfg_type": "cfg",
        "sampling.infer_step": 30,
        "edit.source": "operations/x/results/0",
        "edit.target.tags": "jazz",
    }
    request = build_request("edit", page, checkpoint)
    assert not request.sampling.cfg_type
    plan(request, random.Random(0), "planned", checkpoint)


def test_a_length_of_0_or_less_is_drawn_inside_the_limits():
    limit = LIMITS["text_to_music.duration_seconds"]
    lengths = {build_request("text_to_music", PAGE, SERVER).text_to_music.duration_seconds for _ in range(20)}
    assert len(lengths) > 1
    assert min(lengths) >= 30
    assert max(lengths) <= limit.maximum
