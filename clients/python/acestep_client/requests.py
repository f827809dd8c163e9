"""Requests from plain words: what the messages of the contract say, shorter. Limits and defaults are the server's."""

from collections.abc import Mapping, Sequence
from typing import TypedDict, TypeVar, Unpack

from acestep_rpc.v1 import encoder_pb2, music_pb2, sampling_pb2

FORMATS = {
    "wav": music_pb2.AUDIO_FORMAT_WAV_PCM16,
    "wav24": music_pb2.AUDIO_FORMAT_WAV_PCM24,
    "wav32f": music_pb2.AUDIO_FORMAT_WAV_FLOAT32,
    "flac": music_pb2.AUDIO_FORMAT_FLAC,
    "mp3": music_pb2.AUDIO_FORMAT_MP3,
    "ogg": music_pb2.AUDIO_FORMAT_OGG_VORBIS,
    "opus": music_pb2.AUDIO_FORMAT_OGG_OPUS,
}
EXTENSIONS = {name: "wav" if name.startswith("wav") else name for name in FORMATS}
"""Of a file in each format."""
SCHEDULERS = {
    "euler": sampling_pb2.SCHEDULER_TYPE_EULER,
    "heun": sampling_pb2.SCHEDULER_TYPE_HEUN,
    "pingpong": sampling_pb2.SCHEDULER_TYPE_PINGPONG,
}
CFG_TYPES = {"apg": sampling_pb2.CFG_TYPE_APG, "cfg": sampling_pb2.CFG_TYPE_CFG, "cfg_star": sampling_pb2.CFG_TYPE_CFG_STAR}
LYRIC_RULES = {"reference": encoder_pb2.LYRIC_RULES_REFERENCE, "revised": encoder_pb2.LYRIC_RULES_REVISED}
PRIORITIES = {
    "batch": music_pb2.PRIORITY_BATCH,
    "normal": music_pb2.PRIORITY_NORMAL,
    "interactive": music_pb2.PRIORITY_INTERACTIVE,
}

_T = TypeVar("_T")

Task = music_pb2.TextToMusic | music_pb2.Retake | music_pb2.Repaint | music_pb2.Extend | music_pb2.Edit | music_pb2.AudioToAudio


class Sampling(TypedDict, total=False):
    """Fields of SamplingParams; names of schedulers and guidance rules as words."""

    infer_step: int
    guidance_scale: float
    scheduler_type: str
    cfg_type: str
    omega_scale: float
    guidance_interval: float
    guidance_interval_decay: float
    min_guidance_scale: float
    guidance_scale_text: float
    guidance_scale_lyric: float
    use_erg_tag: bool
    use_erg_lyric: bool
    use_erg_diffusion: bool
    oss_steps: Sequence[int]


def song_request(
    tags: str = "",
    lyrics: str = "",
    *,
    task: Task | None = None,
    duration_seconds: float | None = None,
    seeds: Sequence[int] = (),
    num_variants: int | None = None,
    negative_tags: str | None = None,
    lyric_options: encoder_pb2.LyricOptions | None = None,
    adapters: Mapping[str, float] | Sequence[sampling_pb2.AdapterSelection] = (),
    audio_format: str | None = None,
    sample_rate: int | None = None,
    priority: str | None = None,
    keep_results: bool = False,
    request_id: str = "",
    **sampling: Unpack[Sampling],
) -> music_pb2.GenerateRequest:
    """A request; what is left out takes the server's default.

    Args:
        tags: Style, separated by commas: "funk, female vocals, 105 bpm".
        lyrics: With structure tags as "[verse]"; empty: instrumental.
        task: As Repaint(...); None: a new song.
        duration_seconds: Of a new song, 1 to 240.
        seeds: One a variant.
        num_variants: Songs to make, 1 to 16.
        negative_tags: Style to steer away from.
        lyric_options: How lyrics are read.
        adapters: Names and scales.
        audio_format: One of FORMATS; default wav.
        sample_rate: 44100 or 48000.
        priority: One of PRIORITIES.
        keep_results: Keep the songs on the server as sources.
        request_id: Name of the request.
        **sampling: As infer_step=30, scheduler_type="heun".
    Raises:
        ValueError: A word that names no format, scheduler, guidance rule or priority; or a duration beside another task.
    """
    if isinstance(adapters, Mapping):
        adapters = [sampling_pb2.AdapterSelection(name=name, scale=scale) for name, scale in adapters.items()]
    request = music_pb2.GenerateRequest(
        request_id=request_id,
        prompt=music_pb2.Prompt(tags=tags, lyrics=lyrics, lyric_options=lyric_options, negative_tags=negative_tags),
        sampling=sampling_params(**sampling),
        output=music_pb2.OutputSpec(format=_word("audio_format", audio_format or "wav", FORMATS), sample_rate=sample_rate),
        adapters=adapters,
        seeds=seeds,
        num_variants=num_variants,
        priority=_word("priority", priority, PRIORITIES) if priority else None,
        keep_results=keep_results,
    )
    if task is not None:
        if duration_seconds is not None:
            raise ValueError(f"duration_seconds belongs to a new song; {type(task).__name__} says its length itself")
        set_task(request, task)
    else:
        request.text_to_music.CopyFrom(music_pb2.TextToMusic(duration_seconds=duration_seconds))
    return request


def set_task(request: music_pb2.GenerateRequest, task: Task) -> None:
    """Put a task into a request."""
    match task:
        case music_pb2.TextToMusic():
            request.text_to_music.CopyFrom(task)
        case music_pb2.Retake():
            request.retake.CopyFrom(task)
        case music_pb2.Repaint():
            request.repaint.CopyFrom(task)
        case music_pb2.Extend():
            request.extend.CopyFrom(task)
        case music_pb2.Edit():
            request.edit.CopyFrom(task)
        case music_pb2.AudioToAudio():
            request.audio_to_audio.CopyFrom(task)


def sampling_params(**fields: Unpack[Sampling]) -> sampling_pb2.SamplingParams:
    """The message of these fields.

    Raises:
        ValueError: A word that names no scheduler or guidance rule.
    """
    words: dict[str, Mapping[str, int]] = {"scheduler_type": SCHEDULERS, "cfg_type": CFG_TYPES}
    values = {name: _word(name, value, words[name]) if name in words else value for name, value in fields.items()}
    return sampling_pb2.SamplingParams(**values)  # type: ignore[arg-type]  # as the TypedDict says


def source(name: str) -> music_pb2.AudioSource:
    """What a task starts from: "assets/..." of an upload, "operations/.../results/0" of an earlier song."""
    return music_pb2.AudioSource(result=name) if name.startswith("operations/") else music_pb2.AudioSource(asset=name)


def _word(field: str, value: object, known: Mapping[str, _T]) -> _T:
    if value not in known:
        raise ValueError(f"{field}: {value!r} is none of {', '.join(known)}")
    return known[str(value)]
