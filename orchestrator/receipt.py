"""What made a song, so that it can be made again. Field names are those of the reference's parameter files where they have one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import struct_pb2

import acestep_rpc
from acestep_rpc.v1 import encoder_pb2, music_pb2, sampling_pb2, stage_pb2
from orchestrator.corrections import corrections
from orchestrator.lyric_diff import diff_lyrics
from orchestrator.plan import Plan
from orchestrator.splice import Splice
from orchestrator.tasks import AudioToAudio, Edit, Extend, Repaint, Retake, TextToMusic

RUN_FIELDS = ("request_id", "variant_index", "corrections", "timecosts", "kept_snr_db")
"""What tells of the request and its run and not of the song (that is corrected only beside others), or is known only at its end."""

_EXTENSIONS = {
    music_pb2.AUDIO_FORMAT_WAV_PCM16: "wav",
    music_pb2.AUDIO_FORMAT_WAV_PCM24: "wav",
    music_pb2.AUDIO_FORMAT_WAV_FLOAT32: "wav",
    music_pb2.AUDIO_FORMAT_FLAC: "flac",
    music_pb2.AUDIO_FORMAT_MP3: "mp3",
    music_pb2.AUDIO_FORMAT_OGG_VORBIS: "ogg",
    music_pb2.AUDIO_FORMAT_OGG_OPUS: "opus",
}


@dataclass(frozen=True)
class Timecosts:
    """Seconds: encoding, sampling (all variants together), decoding and writing (this variant)."""

    preprocess: float
    diffusion: float
    latent2audio: float


def write_receipt(
    plan: Plan,
    variant_index: int,
    audio_duration: float,
    duration_seconds: float,
    descriptions: Sequence[stage_pb2.DescribeResponse],
    timecosts: Timecosts,
    splice: Splice | None = None,
) -> struct_pb2.Struct:
    """The receipt of one song.

    Args:
        plan: What was made.
        variant_index: Which song of it.
        audio_duration: Length asked for.
        duration_seconds: Its exact length.
        descriptions: Of the stages that made it.
        timecosts: What it took.
        splice: What put the source back into it, if anything did.
    """
    sampling = plan.sampling
    fields: dict[str, Any] = {
        "request_id": plan.request_id,
        "variant_index": variant_index,
        "seed": plan.seeds[variant_index],
        "actual_seeds": [plan.seeds[variant_index]],
        "prompt": plan.tags,
        "lyrics": plan.lyrics,
        **_lyric_fields(plan.lyric_options, descriptions[0]),
        "negative_prompt": plan.negative_tags,
        "audio_duration": audio_duration,
        "duration_seconds": duration_seconds,
        "format": _EXTENSIONS[plan.audio_format],
        "audio_format": format_name(plan.audio_format),
        "sample_rate": plan.sample_rate,
        "infer_step": sampling.infer_step,
        "guidance_scale": sampling.guidance_scale,
        "scheduler_type": _short(sampling_pb2.SchedulerType.Name(sampling.scheduler_type), "SCHEDULER_TYPE_"),
        "cfg_type": _short(sampling_pb2.CfgType.Name(sampling.cfg_type), "CFG_TYPE_"),
        "omega_scale": sampling.omega_scale,
        "guidance_interval": sampling.guidance_interval,
        "guidance_interval_decay": sampling.guidance_interval_decay,
        "min_guidance_scale": sampling.min_guidance_scale,
        "guidance_scale_text": sampling.guidance_scale_text,
        "guidance_scale_lyric": sampling.guidance_scale_lyric,
        "use_erg_tag": sampling.use_erg_tag,
        "use_erg_lyric": sampling.use_erg_lyric,
        "use_erg_diffusion": sampling.use_erg_diffusion,
        "oss_steps": list(sampling.oss_steps),
        **_adapter_fields(plan),
        "corrections": corrections(plan, audio_duration),
        "timecosts": {name: round(seconds, 4) for name, seconds in vars(timecosts).items()},
        "stages": {description.stage: _stage(description) for description in descriptions},
        "version": acestep_rpc.__version__,
        **_task_fields(plan, variant_index, descriptions[0]),
    }
    if splice is not None:
        fields |= {"splice": splice.describe(), "kept_snr_db": splice.kept_snr_db()}
    receipt = struct_pb2.Struct()
    receipt.update(fields)
    return receipt


def _lyric_fields(options: encoder_pb2.LyricOptions, encoder: stage_pb2.DescribeResponse) -> dict[str, Any]:
    """How lyrics were read."""
    rules = encoder_pb2.LyricRules.Name(options.lyric_rules) if options.lyric_rules else encoder.features["lyric_rules"]
    policy = options.on_line_error or encoder_pb2.LINE_ERROR_POLICY_FAIL
    return {
        "lyric_rules": _short(rules, "LYRIC_RULES_"),
        "lyric_language": options.language if options.HasField("language") else None,
        "on_line_error": _short(encoder_pb2.LineErrorPolicy.Name(policy), "LINE_ERROR_POLICY_"),
        "tag_normalization": options.tag_normalization,
    }


def _adapter_fields(plan: Plan) -> dict[str, Any]:
    """The reference knows one adapter; more are named in a list beside it."""
    if not plan.adapters:
        return {"lora_name_or_path": "none", "lora_weight": 1.0}
    adapters = [{"name": adapter.name, "scale": adapter.scale, "use_trained_scale": adapter.use_trained_scale} for adapter in plan.adapters]
    return {"lora_name_or_path": plan.adapters[0].name, "lora_weight": plan.adapters[0].scale, "adapters": adapters}


def _task_fields(plan: Plan, variant_index: int, encoder: stage_pb2.DescribeResponse) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    task = plan.task
    match task:
        case TextToMusic():
            fields = {"task": "text2music"}
        case Retake():
            fields = {"task": "retake", "retake_variance": task.retake_variances[variant_index]}
        case Repaint():
            regions = [list(region) for region in task.regions]
            fields = {"task": "repaint", "retake_variance": task.retake_variance, "repaint_regions": regions}
            fields |= {"feather_seconds": task.feather_seconds, "context_seconds": task.context_seconds}
            fields |= {"repaint_start": task.regions[0][0], "repaint_end": task.regions[-1][1]}
        case Extend():
            fields = {"task": "extend", "left_seconds": task.left_seconds, "right_seconds": task.right_seconds}
        case Edit():
            fields = {"task": "edit", "edit_target_prompt": task.tags, "edit_target_lyrics": task.lyrics}
            fields["lyric_changes"] = [_lyric_change(change) for change in diff_lyrics(plan.lyrics, task.lyrics)]
            fields["edit_target_negative_prompt"] = task.negative_tags
            fields |= {f"edit_target_{name}": value for name, value in _lyric_fields(task.lyric_options, encoder).items()}
            fields |= {"edit_n_min": task.edit_n_min, "edit_n_max": task.edit_n_max, "edit_n_avg": task.edit_n_avg}
        case AudioToAudio():
            fields = {"task": "audio2audio", "audio2audio_enable": True, "ref_audio_strength": task.ref_audio_strength}
            fields |= {"ref_audio_input": task.source}
    if isinstance(task, Repaint | Extend | Edit):
        fields["src_audio_path"] = task.source
    if isinstance(task, Retake | Repaint | Extend | Edit):
        fields["retake_seeds"] = [task.retake_seeds[variant_index]]
    return fields


def _lyric_change(change: music_pb2.LyricChange) -> dict[str, Any]:
    fields: dict[str, Any] = {"old_line_number": change.old_line_number, "old_lines": list(change.old_lines)}
    return fields | {"new_line_number": change.new_line_number, "new_lines": list(change.new_lines)}


def without_run(receipt: struct_pb2.Struct) -> struct_pb2.Struct:
    """The receipt that goes inside the file: without what differs from run to run, so that the same song is the same file."""
    kept = struct_pb2.Struct()
    kept.update({name: value for name, value in receipt.items() if name not in RUN_FIELDS})
    return kept


def format_name(audio_format: music_pb2.AudioFormat) -> str:
    """As "wav_pcm16"."""
    return _short(music_pb2.AudioFormat.Name(audio_format), "AUDIO_FORMAT_")


def _short(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower()


def _stage(description: stage_pb2.DescribeResponse) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "model_digest": description.model_digest,
        "dtype": description.dtype,
        "device": description.device,
        "versions": dict(description.versions),
    }
    if "vocoder" in description.features:
        fields["vocoder"] = description.features["vocoder"]
    return fields
