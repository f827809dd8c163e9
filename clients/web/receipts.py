"""Receipts, and parameter files of the reference, back to the controls that they describe."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acestep_client.requests import CFG_TYPES, FORMATS, SCHEDULERS
from clients.web.requests import (
    DURATION,
    FIRST_END,
    FIRST_START,
    MORE_ADAPTERS,
    MORE_REGIONS,
    NO_ADAPTER,
    TRAINED_SCALE,
)

TASKS = {
    "text2music": "text_to_music",
    "retake": "retake",
    "repaint": "repaint",
    "extend": "extend",
    "edit": "edit",
    "audio2audio": "audio_to_audio",
}
"""Names of tasks in receipts, and in requests."""

_MAX_BYTES = 4 << 20
_OWN = "stages"  # a field that our receipts have and parameter files of the reference have not
_OLDER_DEFAULTS = {"guidance_scale_text": 0.0, "guidance_scale_lyric": 0.0, "ref_audio_strength": 0.5, "audio2audio_enable": False}
_NUMBERS = {
    f"sampling.{name}": name
    for name in (
        "infer_step", "guidance_scale", "omega_scale", "guidance_interval", "guidance_interval_decay", "min_guidance_scale",
        "guidance_scale_text", "guidance_scale_lyric",
    )
}  # fmt: skip
_SWITCHES = {f"sampling.use_erg_{name}": f"use_erg_{name}" for name in ("tag", "lyric", "diffusion")}


class UnreadableFile(ValueError):
    """A file is not what a parameter file is; the message is for the user."""


@dataclass
class Settings:
    """What a receipt says of the controls."""

    task: str
    values: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    """What an author should know."""


def read_parameter_file(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UnreadableFile: It is too large, no JSON, or no object.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UnreadableFile(f"{path.name} is larger than {_MAX_BYTES >> 20} MiB: parameter files are small")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableFile(f"{path.name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UnreadableFile(f"{path.name} holds no object of parameters")
    return content


def settings_of(receipt: Mapping[str, Any]) -> Settings:
    """Every control that a receipt, or a parameter file of the reference, says something of.

    Raises:
        UnreadableFile: A field has a value that no control can have.
    """
    given = _OLDER_DEFAULTS | {name: value for name, value in receipt.items() if value is not None}
    task = str(given.get("task") or "text2music")
    if given["audio2audio_enable"] and task == "text2music":
        task = "audio2audio"
    if task not in TASKS:
        raise UnreadableFile(f"task {task!r} is none of {', '.join(TASKS)}")
    settings = Settings(TASKS[task], {})
    reader = _Reader(given)
    values = settings.values
    values |= reader.all(reader.text, {"prompt.tags": "prompt", "prompt.lyrics": "lyrics"})
    values |= reader.all(reader.number, _NUMBERS | {DURATION: "audio_duration", "output.sample_rate": "sample_rate"})
    values |= reader.all(reader.switch, _SWITCHES)
    values |= reader.all(reader.whole_list, {"sampling.oss_steps": "oss_steps", "seeds": "actual_seeds"})
    values["prompt.negative_tags"] = reader.text("negative_prompt") if "negative_prompt" in given else ""
    if "sampling.scheduler_type" not in values and "scheduler_type" in given:
        values["sampling.scheduler_type"] = reader.word("scheduler_type", SCHEDULERS)
    if "cfg_type" in given:
        values["sampling.cfg_type"] = reader.word("cfg_type", CFG_TYPES)
    if "actual_seeds" in given:
        values["num_variants"] = max(len(given["actual_seeds"]), 1)
    values |= _format(given, reader) | _adapters(given, reader) | _lyric_options(given)
    values |= _task_values(settings.task, given, reader)
    _note_what_is_lost(settings, given)
    if "output.sample_rate" in values:
        values["output.sample_rate"] = str(values["output.sample_rate"])
    return settings


class _Reader:
    """Fields of a receipt, checked for their kind."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given

    def all(self, read: Any, names: Mapping[str, str]) -> dict[str, Any]:
        """Values of those fields that are there, by control."""
        return {control: read(name) for control, name in names.items() if name in self._given}

    def text(self, name: str) -> str:
        return self._checked(name, str, "a text")  # type: ignore[no-any-return]

    def switch(self, name: str) -> bool:
        return self._checked(name, bool, "true or false")  # type: ignore[no-any-return]

    def number(self, name: str) -> float:
        value = self._checked(name, int | float, "a number")
        if isinstance(value, bool) or value != value:
            raise UnreadableFile(f"{name}: {value!r} is not a number")
        return value  # type: ignore[no-any-return]

    def whole_list(self, name: str) -> str:
        """Numbers as people type them."""
        value = self._given[name]
        if isinstance(value, str):
            return value
        if not isinstance(value, Sequence) or not all(isinstance(item, int) and not isinstance(item, bool) for item in value):
            raise UnreadableFile(f"{name}: {value!r} is not a list of whole numbers")
        return ", ".join(map(str, value))

    def word(self, name: str, known: Mapping[str, Any]) -> str:
        value = self._given[name]
        if value not in known:
            raise UnreadableFile(f"{name}: {value!r} is none of {', '.join(known)}")
        return str(value)

    def _checked(self, name: str, kind: Any, what: str) -> Any:
        value = self._given[name]
        if not isinstance(value, kind):
            raise UnreadableFile(f"{name}: {value!r} is not {what}")
        return value


def _format(given: Mapping[str, Any], reader: _Reader) -> dict[str, Any]:
    own = {"wav_pcm16": "wav", "wav_pcm24": "wav24", "wav_float32": "wav32f", "ogg_vorbis": "ogg", "ogg_opus": "opus"}
    name = given.get("audio_format")
    if name is not None:
        return {"output.format": own.get(name, name) if own.get(name, name) in FORMATS else "wav"}
    return {"output.format": reader.word("format", FORMATS)} if "format" in given else {}


def _adapters(given: Mapping[str, Any], reader: _Reader) -> dict[str, Any]:
    if "lora_name_or_path" not in given:
        return {}
    listed = [adapter for adapter in given.get("adapters", ()) if isinstance(adapter, Mapping)]
    more = ", ".join(f"{adapter.get('name')}:{adapter.get('scale', 1):g}" for adapter in listed[1:])
    values: dict[str, Any] = {"adapters": reader.text("lora_name_or_path") or NO_ADAPTER, MORE_ADAPTERS: more}
    values |= {"adapters.scale": reader.number("lora_weight") if "lora_weight" in given else 1.0}
    return values | {TRAINED_SCALE: any(adapter.get("use_trained_scale") for adapter in listed)}


def _lyric_options(given: Mapping[str, Any]) -> dict[str, Any]:
    rules = given.get("lyric_rules")
    return {
        "prompt.lyric_options.language": str(given.get("lyric_language") or ""),
        "prompt.lyric_options.lyric_rules": rules if rules in ("reference", "revised") else "" if _OWN in given else "reference",
        "prompt.lyric_options.on_line_error": given.get("on_line_error") == "skip",
        "prompt.lyric_options.tag_normalization": bool(given.get("tag_normalization")),
    }


def _task_values(task: str, given: Mapping[str, Any], reader: _Reader) -> dict[str, Any]:
    seeds = reader.whole_list("retake_seeds") if "retake_seeds" in given else ""
    match task:
        case "retake":
            return reader.all(reader.number, {"retake.retake_variances": "retake_variance"}) | {"retake.retake_seeds": seeds}
        case "repaint":
            return _repaint_values(given, reader) | {"repaint.retake_seeds": seeds}
        case "extend":
            return _extend_values(given, reader) | {"extend.retake_seeds": seeds}
        case "edit":
            values = reader.all(reader.text, {"edit.target.tags": "edit_target_prompt", "edit.target.lyrics": "edit_target_lyrics"})
            numbers = {f"edit.edit_{name}": f"edit_{name}" for name in ("n_min", "n_max", "n_avg")}
            return values | reader.all(reader.number, numbers) | _source(task, given.get("src_audio_path")) | {"edit.retake_seeds": seeds}
        case "audio_to_audio":
            strength = {"audio_to_audio.ref_audio_strength": reader.number("ref_audio_strength")}
            return strength | _source(task, given.get("ref_audio_input"))
    return {}


def _repaint_values(given: Mapping[str, Any], reader: _Reader) -> dict[str, Any]:
    names = {"repaint.retake_variance": "retake_variance", "repaint.feather_seconds": "feather_seconds"}
    names |= {FIRST_START: "repaint_start", FIRST_END: "repaint_end"}
    values = reader.all(reader.number, names)
    if regions := given.get("repaint_regions"):
        values[FIRST_START], values[FIRST_END] = regions[0]
        values[MORE_REGIONS] = ", ".join(f"{start:g}-{end:g}" for start, end in regions[1:])
    values["repaint.context_seconds"] = reader.number("context_seconds") if "context_seconds" in given else None
    if _OWN in given:
        values["repaint.splice_source"] = "splice" in given
    return values | _source("repaint", given.get("src_audio_path"))


def _extend_values(given: Mapping[str, Any], reader: _Reader) -> dict[str, Any]:
    if "left_seconds" in given:
        values = reader.all(reader.number, {"extend.left_seconds": "left_seconds", "extend.right_seconds": "right_seconds"})
    else:  # the reference extends by a repaint from -left to length + right
        start, end, length = (reader.number(name) if name in given else 0.0 for name in ("repaint_start", "repaint_end", "audio_duration"))
        values = {"extend.left_seconds": max(0.0, -start), "extend.right_seconds": max(0.0, end - length)}
    return values | _source("extend", given.get("src_audio_path"))


def _source(task: str, name: Any) -> dict[str, Any]:
    """A source of the server; a path on somebody's disk is none."""
    return {f"{task}.source": name} if isinstance(name, str) and name.startswith(("assets/", "operations/")) else {}


def _note_what_is_lost(settings: Settings, given: Mapping[str, Any]) -> None:
    task = settings.task
    if task not in ("text_to_music", "retake") and f"{task}.source" not in settings.values:
        settings.notes.append("the file names no song of this server to start from: choose or upload it")
    if task == "edit" and _OWN not in given:
        settings.notes.append("the reference keeps an edit's target texts only: say what the source sings in tags and lyrics")
        settings.values.setdefault("edit.target.tags", settings.values.get("prompt.tags", ""))
        settings.values.setdefault("edit.target.lyrics", settings.values.get("prompt.lyrics", ""))
