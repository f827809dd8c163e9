"""Values of the controls to a GenerateRequest. Limits are the server's: only what cannot be put into a message is refused here."""

import random
from collections.abc import Callable, Mapping
from typing import Any

from acestep_client.requests import CFG_TYPES, FORMATS, LYRIC_RULES, SCHEDULERS, source
from acestep_rpc.errors import InvalidRequest
from acestep_rpc.v1 import encoder_pb2, music_pb2, sampling_pb2
from clients.web.typed_lists import adapter_list, time_ranges, whole_numbers

NO_ADAPTER = "none"
RANDOM_SECONDS = (30.0, 240.0)
"""Length of a song whose length is left to chance."""
REGIONS = "repaint.regions"
FIRST_START, FIRST_END, MORE_REGIONS = f"{REGIONS}[0].start_seconds", f"{REGIONS}[0].end_seconds", f"{REGIONS}.more"
MORE_ADAPTERS, TRAINED_SCALE = "adapters.more", "adapters.use_trained_scale"
DURATION = "text_to_music.duration_seconds"

Values = Mapping[str, Any]
"""Of controls, by request field."""


def build_request(task: str, values: Values, defaults: sampling_pb2.SamplingParams) -> music_pb2.GenerateRequest:
    """The request that the page describes.

    Args:
        task: Name in the request's oneof, as "repaint".
        values: Of all controls.
        defaults: What the server samples with by itself. Equal values are left out, so that a task that has no place for one of the
            checkpoint's defaults is not refused for it.
    Raises:
        InvalidRequest: A text is not what its control wants.
    """
    request = music_pb2.GenerateRequest(
        prompt=_prompt(values),
        sampling=_sampling(values, defaults),
        output=music_pb2.OutputSpec(format=FORMATS[values["output.format"]], sample_rate=int(values["output.sample_rate"])),
        adapters=_adapters(values),
        seeds=whole_numbers("seeds", values["seeds"]),
        num_variants=int(values["num_variants"]),
        priority=music_pb2.PRIORITY_INTERACTIVE if values.get("priority") == "interactive" else music_pb2.PRIORITY_UNSPECIFIED,
        keep_results=True,
    )
    if len(request.seeds) > request.num_variants:
        request.num_variants = len(request.seeds)
    _TASKS[task](request, values)
    return request


def lyric_options(values: Values) -> encoder_pb2.LyricOptions:
    """How lyrics are read."""
    rules = values["prompt.lyric_options.lyric_rules"]
    return encoder_pb2.LyricOptions(
        language=values["prompt.lyric_options.language"] or None,
        on_line_error=encoder_pb2.LINE_ERROR_POLICY_SKIP if values["prompt.lyric_options.on_line_error"] else None,
        lyric_rules=LYRIC_RULES[rules] if rules else None,
        tag_normalization=values["prompt.lyric_options.tag_normalization"] or None,
    )


def _prompt(values: Values) -> music_pb2.Prompt:
    return music_pb2.Prompt(
        tags=values["prompt.tags"],
        lyrics=values["prompt.lyrics"],
        lyric_options=lyric_options(values),
        negative_tags=values["prompt.negative_tags"].strip() or None,
    )


def _sampling(values: Values, defaults: sampling_pb2.SamplingParams) -> sampling_pb2.SamplingParams:
    own = {field.partition(".")[2]: value for field, value in values.items() if field.startswith("sampling.")}
    own["infer_step"] = int(own["infer_step"])
    own["scheduler_type"], own["cfg_type"] = SCHEDULERS[own["scheduler_type"]], CFG_TYPES[own["cfg_type"]]
    own["oss_steps"] = whole_numbers("sampling.oss_steps", own["oss_steps"])
    return sampling_pb2.SamplingParams(**{name: value for name, value in own.items() if value != getattr(defaults, name)})


def _adapters(values: Values) -> list[sampling_pb2.AdapterSelection]:
    chosen = adapter_list("adapters", values[MORE_ADAPTERS])
    if (name := values["adapters"]) and name != NO_ADAPTER:
        chosen.insert(0, (name, values["adapters.scale"]))
    trained = values[TRAINED_SCALE]
    return [sampling_pb2.AdapterSelection(name=name, scale=scale, use_trained_scale=trained) for name, scale in chosen]


def _source(task: str, values: Values) -> music_pb2.AudioSource | None:
    name = values[f"{task}.source"]
    return source(name) if name else None


def _text_to_music(request: music_pb2.GenerateRequest, values: Values) -> None:
    seconds = values[DURATION]
    if seconds <= 0:
        seconds = round(random.uniform(*RANDOM_SECONDS), 1)  # noqa: S311  # no secret
    request.text_to_music.duration_seconds = seconds


def _retake(request: music_pb2.GenerateRequest, values: Values) -> None:
    if not request.seeds:
        raise InvalidRequest("seeds", "", "the seeds of the song that is taken again")
    request.retake.duration_seconds = values[DURATION]
    request.retake.retake_variances.append(values["retake.retake_variances"])
    request.retake.retake_seeds.extend(whole_numbers("retake.retake_seeds", values["retake.retake_seeds"]))


def _repaint(request: music_pb2.GenerateRequest, values: Values) -> None:
    ranges = [(values[FIRST_START], values[FIRST_END]), *time_ranges(MORE_REGIONS, values[MORE_REGIONS])]
    request.repaint.CopyFrom(
        music_pb2.Repaint(
            source=_source("repaint", values),
            regions=[music_pb2.TimeRange(start_seconds=start, end_seconds=end) for start, end in sorted(ranges)],
            retake_variance=values["repaint.retake_variance"],
            retake_seeds=whole_numbers("repaint.retake_seeds", values["repaint.retake_seeds"]),
            context_seconds=values["repaint.context_seconds"],
            feather_seconds=values["repaint.feather_seconds"],
            splice_source=values["repaint.splice_source"],
        )
    )


def _extend(request: music_pb2.GenerateRequest, values: Values) -> None:
    request.extend.CopyFrom(
        music_pb2.Extend(
            source=_source("extend", values),
            left_seconds=values["extend.left_seconds"],
            right_seconds=values["extend.right_seconds"],
            retake_seeds=whole_numbers("extend.retake_seeds", values["extend.retake_seeds"]),
        )
    )


def _edit(request: music_pb2.GenerateRequest, values: Values) -> None:
    target = _prompt(values)
    target.tags = values["edit.target.tags"] or target.tags  # empty: unchanged
    target.lyrics = values["edit.target.lyrics"] or target.lyrics
    request.edit.CopyFrom(
        music_pb2.Edit(
            source=_source("edit", values),
            target=target,
            edit_n_min=values["edit.edit_n_min"],
            edit_n_max=values["edit.edit_n_max"],
            edit_n_avg=int(values["edit.edit_n_avg"]),
            retake_seeds=whole_numbers("edit.retake_seeds", values["edit.retake_seeds"]),
        )
    )


def _audio_to_audio(request: music_pb2.GenerateRequest, values: Values) -> None:
    strength = values["audio_to_audio.ref_audio_strength"]
    request.audio_to_audio.CopyFrom(music_pb2.AudioToAudio(source=_source("audio_to_audio", values), ref_audio_strength=strength))


_TASKS: dict[str, Callable[[music_pb2.GenerateRequest, Values], None]] = {
    "text_to_music": _text_to_music,
    "retake": _retake,
    "repaint": _repaint,
    "extend": _extend,
    "edit": _edit,
    "audio_to_audio": _audio_to_audio,
}
