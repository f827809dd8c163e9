"""Requests from what stands beside or inside a song: its receipt, or a parameter file of the reference.

The receipt is the comment of the file: LIST/INFO/ICMT in wav, a Vorbis comment in flac, ogg and opus, an ID3v2 comment in mp3.
"""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep_client.requests import CFG_TYPES, LYRIC_RULES, SCHEDULERS, Task, set_task, source
from acestep_rpc.v1 import encoder_pb2, music_pb2, sampling_pb2

_AUDIO_FORMATS = {
    music_pb2.AudioFormat.Name(number).removeprefix("AUDIO_FORMAT_").lower(): number for number in music_pb2.AudioFormat.values()
}
_REFERENCE_FORMATS = {
    "wav": music_pb2.AUDIO_FORMAT_WAV_PCM16,
    "flac": music_pb2.AUDIO_FORMAT_FLAC,
    "mp3": music_pb2.AUDIO_FORMAT_MP3,
    "ogg": music_pb2.AUDIO_FORMAT_OGG_VORBIS,
}
_NUMBERS = (
    "guidance_scale",
    "omega_scale",
    "guidance_interval",
    "guidance_interval_decay",
    "min_guidance_scale",
    "guidance_scale_text",
    "guidance_scale_lyric",
)
_SWITCHES = ("use_erg_tag", "use_erg_lyric", "use_erg_diffusion")
_STORED = ("assets/", "operations/")


class UnusableParameters(ValueError):
    """A file that does not say how its song was made; the message names what is missing or wrong."""


@dataclass(frozen=True)
class Recipe:
    """How a song was made.

    Attributes:
        parameters: As they were read.
        request: That makes it again; its task's source, if it has one, is as `source_name` says.
        source_name: What the song was made from: "assets/<SHA-256 of the file>", "operations/.../results/0", or a path of whoever wrote a
            reference's file. Empty: from nothing.
    """

    parameters: Mapping[str, Any]
    request: music_pb2.GenerateRequest
    source_name: str = ""

    @property
    def is_stored(self) -> bool:
        """The source has a name on servers; whether a server has it, it will say."""
        return self.source_name.startswith(_STORED)


def set_source(request: music_pb2.GenerateRequest, name: str) -> None:
    """Put another source under the task of a request."""
    task = getattr(request, str(request.WhichOneof("task")))
    task.source.CopyFrom(source(name))


def read_recipe(path: str | Path) -> Recipe:
    """How the song of a file was made: of a parameter file (JSON) or of the song itself.

    Raises:
        UnusableParameters: Nothing in the file says it.
        OSError: It cannot be read.
    """
    return recipe_of(read_parameters(path))


def read_parameters(path: str | Path) -> dict[str, Any]:
    """What a parameter file, or the receipt inside a song, says.

    Raises:
        UnusableParameters: Neither JSON nor a song with a receipt.
        OSError: It cannot be read.
        ModuleNotFoundError: A song other than wav needs soundfile, of the extra "client".
    """
    path = Path(path)
    with path.open("rb") as file:
        beginning = file.read(12)
    if beginning[:4] == b"RIFF" and beginning[8:] == b"WAVE":
        text = _wav_comment(path.read_bytes())
    elif beginning[:4] in (b"fLaC", b"OggS") or beginning[:3] == b"ID3" or beginning[:1] == b"\xff":
        text = _comment(path)
    else:
        text = path.read_bytes().decode("utf-8-sig", "replace")
    try:
        parameters = json.loads(text)
    except ValueError:
        raise UnusableParameters(f"{path}: no receipt in it, and it is no parameter file") from None
    if not isinstance(parameters, dict):
        raise UnusableParameters(f"{path}: JSON, but no parameters of a song")
    return parameters


def recipe_of(parameters: Mapping[str, Any]) -> Recipe:
    """The request that these parameters describe.

    Raises:
        UnusableParameters: A field is missing or not what it should be.
    """
    read = _Reader(parameters)
    ours = "stages" in parameters
    """Else a file of the reference."""
    options = _lyric_options(read, "") if ours else encoder_pb2.LyricOptions(lyric_rules=encoder_pb2.LYRIC_RULES_REFERENCE)
    task, source_name = _task(read, ours)
    request = music_pb2.GenerateRequest(
        prompt=music_pb2.Prompt(
            tags=read.text("prompt"),
            lyrics=read.text("lyrics", ""),
            lyric_options=options,
            negative_tags=read.text_or_none("negative_prompt"),
        ),
        sampling=_sampling(read),
        output=music_pb2.OutputSpec(format=_format(read), sample_rate=read.whole("sample_rate", 48000)),
        adapters=_adapters(read),
        seeds=read.wholes("actual_seeds"),
    )
    set_task(request, task)
    if source_name.startswith(_STORED):
        set_source(request, source_name)
    return Recipe(parameters, request, source_name)


def _task(read: "_Reader", ours: bool) -> tuple[Task, str]:
    """What was done, and what it started from."""
    kind = read.text("task", "text2music")
    if kind == "text2music" and read.switch("audio2audio_enable", False):
        kind = "audio2audio"
    seeds = read.wholes("retake_seeds")
    variance = read.number("retake_variance", 0.5)
    match kind:
        case "text2music":
            return music_pb2.TextToMusic(duration_seconds=read.number("audio_duration")), ""
        case "retake":
            return music_pb2.Retake(duration_seconds=read.number("audio_duration"), retake_variances=[variance], retake_seeds=seeds), ""
        case "repaint":
            regions = read.pairs("repaint_regions") or [(read.number("repaint_start"), read.number("repaint_end"))]
            repaint = music_pb2.Repaint(
                regions=[music_pb2.TimeRange(start_seconds=start, end_seconds=end) for start, end in regions],
                retake_variance=variance,
                retake_seeds=seeds,
                feather_seconds=read.number("feather_seconds", 0.0),
                context_seconds=read.number_or_none("context_seconds"),
                splice_source=read.has("splice"),
            )
            return repaint, read.text("src_audio_path")
        case "extend":
            if ours:
                left, right = read.number("left_seconds"), read.number("right_seconds")
            else:  # the reference repaints from before the start to behind the end
                left = max(0.0, -read.number("repaint_start"))
                right = max(0.0, read.number("repaint_end") - read.number("audio_duration"))
            return music_pb2.Extend(left_seconds=left, right_seconds=right, retake_seeds=seeds), read.text("src_audio_path")
        case "edit":
            if not ours:
                raise UnusableParameters("task: files of the reference's edits do not keep the tags and lyrics of the source")
            edit = music_pb2.Edit(
                target=music_pb2.Prompt(
                    tags=read.text("edit_target_prompt"),
                    lyrics=read.text("edit_target_lyrics", ""),
                    lyric_options=_lyric_options(read, "edit_target_"),
                    negative_tags=read.text_or_none("edit_target_negative_prompt"),
                ),
                edit_n_min=read.number("edit_n_min"),
                edit_n_max=read.number("edit_n_max"),
                edit_n_avg=read.whole("edit_n_avg", 1),
                retake_seeds=seeds,
            )
            return edit, read.text("src_audio_path")
        case "audio2audio":
            strength = read.number("ref_audio_strength", 0.5)
            return music_pb2.AudioToAudio(ref_audio_strength=strength), read.text("ref_audio_input")
    raise UnusableParameters(f"task: {kind!r} is none of text2music, retake, repaint, extend, edit, audio2audio")


def _sampling(read: "_Reader") -> sampling_pb2.SamplingParams:
    sampling = sampling_pb2.SamplingParams(
        scheduler_type=read.word("scheduler_type", "euler", SCHEDULERS),
        cfg_type=read.word("cfg_type", "apg", CFG_TYPES),
        oss_steps=read.wholes("oss_steps"),
    )
    if read.has("infer_step"):
        sampling.infer_step = read.whole("infer_step", 0)
    for name in _NUMBERS:
        if read.has(name):
            setattr(sampling, name, read.number(name))
    for name in _SWITCHES:
        if read.has(name):
            setattr(sampling, name, read.switch(name, True))
    return sampling


def _lyric_options(read: "_Reader", prefix: str) -> encoder_pb2.LyricOptions:
    policies = {"fail": encoder_pb2.LINE_ERROR_POLICY_FAIL, "skip": encoder_pb2.LINE_ERROR_POLICY_SKIP}
    return encoder_pb2.LyricOptions(
        language=read.text_or_none(f"{prefix}lyric_language"),
        lyric_rules=read.word(f"{prefix}lyric_rules", "revised", LYRIC_RULES),
        on_line_error=read.word(f"{prefix}on_line_error", "fail", policies),
        tag_normalization=read.switch(f"{prefix}tag_normalization", False),
    )


def _format(read: "_Reader") -> music_pb2.AudioFormat:
    """Ours names it exactly; the reference has four."""
    exact = read.has("audio_format")
    found: music_pb2.AudioFormat = (
        read.word("audio_format", "", _AUDIO_FORMATS) if exact else read.word("format", "wav", _REFERENCE_FORMATS)
    )
    return found


def _adapters(read: "_Reader") -> list[sampling_pb2.AdapterSelection]:
    """The reference names a folder or a hub repository: the last part is the name in a store."""
    if read.has("adapters"):
        try:
            return [sampling_pb2.AdapterSelection(**adapter) for adapter in read.parameters["adapters"]]
        except (TypeError, ValueError) as error:
            raise UnusableParameters(f"adapters: {error}") from None
    name = read.text("lora_name_or_path", "none")
    if name in ("", "none"):
        return []
    return [sampling_pb2.AdapterSelection(name=name.rstrip("/").rpartition("/")[2], scale=read.number("lora_weight", 1.0))]


class _Reader:
    """Fields of a parameter file, each of the type that it must have."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self.parameters = parameters

    def has(self, name: str) -> bool:
        return self.parameters.get(name) is not None

    def text(self, name: str, default: str | None = None) -> str:
        return str(self._value(name, default, lambda value: isinstance(value, str), "text"))

    def text_or_none(self, name: str) -> str | None:
        return self.text(name) if self.has(name) else None

    def number(self, name: str, default: float | None = None) -> float:
        return float(self._value(name, default, _is_number, "a number"))

    def number_or_none(self, name: str) -> float | None:
        return self.number(name) if self.has(name) else None

    def whole(self, name: str, default: int) -> int:
        return int(self._value(name, default, lambda value: _is_number(value) and value == int(value) >= 0, "a whole number"))

    def switch(self, name: str, default: bool) -> bool:
        return bool(self._value(name, default, lambda value: isinstance(value, bool), "true or false"))

    def wholes(self, name: str) -> list[int]:
        """A list, or text with commas, as the reference's page stores seeds."""
        value = self.parameters.get(name) or []
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, Sequence) else [value]
        try:
            return [int(part) for part in parts]
        except (TypeError, ValueError):
            raise UnusableParameters(f"{name}: {value!r} is no list of whole numbers") from None

    def pairs(self, name: str) -> list[tuple[float, float]]:
        try:
            return [(float(start), float(end)) for start, end in self.parameters.get(name) or []]
        except (TypeError, ValueError):
            raise UnusableParameters(f"{name}: {self.parameters[name]!r} is no list of pairs") from None

    def word(self, name: str, default: str, known: Mapping[str, Any]) -> Any:
        word = self.text(name, default)
        if word not in known:
            raise UnusableParameters(f"{name}: {word!r} is none of {', '.join(known)}")
        return known[word]

    def _value(self, name: str, default: Any, fits: Callable[[Any], bool], kind: str) -> Any:
        value = self.parameters.get(name)
        if value is None:
            if default is None:
                raise UnusableParameters(f"{name} is missing")
            return default
        if not fits(value):
            raise UnusableParameters(f"{name}: {value!r} is not {kind}")
        return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _wav_comment(data: bytes) -> str:
    """LIST/INFO/ICMT of a RIFF file. libsndfile reads no more than 2 kB of it."""
    for name, content in _chunks(data[12:]):
        if name == b"LIST" and content[:4] == b"INFO":
            for inner, text in _chunks(content[4:]):
                if inner == b"ICMT":
                    return text.rstrip(b"\0").decode("utf-8", "replace")
    return ""


def _chunks(data: bytes) -> "list[tuple[bytes, bytes]]":
    chunks, position = [], 0
    while position + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, position)
        chunks.append((name, data[position + 8 : position + 8 + size]))
        position += 8 + size + size % 2
    return chunks


def _comment(path: Path) -> str:
    try:
        import soundfile
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error.name} is not installed; run: pip install 'acestep-serving[client]'", name=error.name) from error
    try:
        with soundfile.SoundFile(path) as file:
            return str(file.comment)
    except soundfile.SoundFileError as error:
        raise UnusableParameters(f"{path}: {error}") from error
