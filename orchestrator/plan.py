"""A request becomes a plan: every default, every limit and every seed. Pure: the one source of what the server accepts and publishes."""

import random
from dataclasses import dataclass

from acestep_rpc.telemetry import is_request_id
from acestep_rpc.v1 import encoder_pb2, music_pb2, sampling_pb2
from orchestrator.limits import LIMITS, SAMPLE_RATES, Problems
from orchestrator.preview_spec import Preview, read_preview
from orchestrator.tasks import (
    MAX_LYRICS_CHARACTERS,
    MAX_TAGS_CHARACTERS,
    Edit,
    Task,
    fix_task,
    read_negative_tags,
    read_task,
    task_name,
    unsuited,
)

MAX_OSS_STEPS = 200
MAX_ADAPTERS = 8
MAX_NAME_CHARACTERS = 128


_SWITCHES = {"use_erg_tag": True, "use_erg_lyric": True, "use_erg_diffusion": True}
SCHEDULER_TYPES = (sampling_pb2.SCHEDULER_TYPE_EULER, sampling_pb2.SCHEDULER_TYPE_HEUN, sampling_pb2.SCHEDULER_TYPE_PINGPONG)
CFG_TYPES = (sampling_pb2.CFG_TYPE_APG, sampling_pb2.CFG_TYPE_CFG, sampling_pb2.CFG_TYPE_CFG_STAR)
FORMATS = (
    music_pb2.AUDIO_FORMAT_WAV_PCM16,
    music_pb2.AUDIO_FORMAT_WAV_PCM24,
    music_pb2.AUDIO_FORMAT_WAV_FLOAT32,
    music_pb2.AUDIO_FORMAT_FLAC,
    music_pb2.AUDIO_FORMAT_MP3,
    music_pb2.AUDIO_FORMAT_OGG_VORBIS,
    music_pb2.AUDIO_FORMAT_OGG_OPUS,
)


@dataclass(frozen=True)
class Plan:
    """A request with nothing left to decide.

    Args:
        request_id: Name of the request.
        tags: Line breaks are line feeds.
        lyrics: Line breaks are line feeds.
        negative_tags: Line breaks are line feeds; None: none.
        lyric_options: As sent.
        null_condition: What the encoder prepares for the guidance.
        sampling: Every field set.
        task: What is done, one entry a song where it has lists.
        seeds: One per variant.
        adapters: Each with its scale.
        audio_format: Never unspecified.
        sample_rate: In Hz.
        keep_results: Keep the songs on the server.
        priority: Its class, never unspecified.
        preview: What is heard before the songs are done; None: nothing.
    """

    request_id: str
    tags: str
    lyrics: str
    negative_tags: str | None
    lyric_options: encoder_pb2.LyricOptions
    null_condition: encoder_pb2.NullCondition
    sampling: sampling_pb2.SamplingParams
    task: Task
    seeds: tuple[int, ...]
    adapters: tuple[sampling_pb2.AdapterSelection, ...]
    audio_format: music_pb2.AudioFormat
    sample_rate: int
    keep_results: bool
    priority: music_pb2.Priority = music_pb2.PRIORITY_NORMAL
    preview: Preview | None = None


def plan(
    request: music_pb2.GenerateRequest,
    seed_source: random.Random,
    request_id: str,
    checkpoint_defaults: sampling_pb2.SamplingParams | None = None,
) -> Plan:
    """Check a request, fill its defaults, draw the seeds that it leaves open.

    Args:
        request: As it came.
        seed_source: Where seeds come from; random.SystemRandom() on a server.
        request_id: Name for the request if it brings none.
        checkpoint_defaults: Of the checkpoint, for parameters that the request leaves open; None: the contract's for all.
    Raises:
        InvalidRequest: With every violation, not just the first.
    """
    problems = Problems()
    tags = problems.text("prompt.tags", request.prompt.tags, MAX_TAGS_CHARACTERS)
    lyrics = problems.text("prompt.lyrics", request.prompt.lyrics, MAX_LYRICS_CHARACTERS)
    if not tags.strip() and not lyrics.strip():
        problems.add("prompt", "", "tags, lyrics or both")
    problems.enum("prompt.lyric_options.on_line_error", request.prompt.lyric_options.on_line_error, encoder_pb2.LineErrorPolicy)
    problems.enum("prompt.lyric_options.lyric_rules", request.prompt.lyric_options.lyric_rules, encoder_pb2.LyricRules)
    problems.enum("priority", request.priority, music_pb2.Priority)
    if request.request_id and not is_request_id(request.request_id):
        problems.add("request_id", request.request_id, f"1 to {MAX_NAME_CHARACTERS} characters of [A-Za-z0-9._-]")
    if request.keep_results and request.request_id.startswith("."):
        problems.add("request_id", request.request_id, "no dot at its start with keep_results, for it names the results")
    sampling = _sampling(merged_sampling(checkpoint_defaults, request.sampling, task_name(request)), problems)
    negative_tags = read_negative_tags("prompt", request.prompt, sampling, request.HasField("edit"), problems)
    if negative_tags is not None:
        if request.sampling.use_erg_tag:
            problems.add("sampling.use_erg_tag", True, "unset or false with prompt.negative_tags, which take the place of weakened tags")
        sampling.use_erg_tag = False
    seeds = _seeds(request, seed_source, problems)
    task, songs_per_seed = read_task(request, sampling, len(seeds), seed_source, problems)
    audio_format, sample_rate = _output(request.output, problems)
    preview = read_preview(request.output, sampling, task, problems)
    adapters = _adapters(request, problems)
    problems.raise_if_any()
    return Plan(
        request_id=request.request_id or request_id,
        tags=tags,
        lyrics=lyrics,
        negative_tags=negative_tags,
        lyric_options=request.prompt.lyric_options,
        null_condition=_null_condition(sampling, task),
        sampling=sampling,
        task=task,
        seeds=tuple(seed for seed in seeds for _ in range(songs_per_seed)),
        adapters=adapters,
        audio_format=audio_format,
        sample_rate=sample_rate,
        keep_results=request.keep_results,
        priority=request.priority or music_pb2.PRIORITY_NORMAL,
        preview=preview,
    )


def resolved_request(request: music_pb2.GenerateRequest, planned: Plan) -> music_pb2.GenerateRequest:
    """The request with everything set that its plan decided: planned again, on whatever server and day, it gives the same plan.

    Args:
        request: As it came.
        planned: Its plan.
    """
    resolved = music_pb2.GenerateRequest()
    resolved.CopyFrom(request)
    resolved.request_id = planned.request_id
    resolved.sampling.CopyFrom(planned.sampling)
    del resolved.adapters[:]
    resolved.adapters.extend(planned.adapters)
    resolved.output.format, resolved.output.sample_rate = planned.audio_format, planned.sample_rate
    songs_per_seed = fix_task(resolved, planned.task)
    resolved.seeds[:] = planned.seeds[::songs_per_seed]
    resolved.num_variants = len(resolved.seeds)
    return resolved


def is_guided(sampling: sampling_pb2.SamplingParams) -> bool:
    """Whether there is a null branch: guidance_scale 0 and 1 switch guidance off, under double condition too."""
    return sampling.guidance_scale not in (0.0, 1.0)


def sampling_with_defaults(checkpoint_defaults: sampling_pb2.SamplingParams) -> sampling_pb2.SamplingParams:
    """What a request that leaves everything open is sampled with."""
    return _sampling(checkpoint_defaults, Problems())


def merged_sampling(
    checkpoint_defaults: sampling_pb2.SamplingParams | None, given: sampling_pb2.SamplingParams, task: str
) -> sampling_pb2.SamplingParams:
    """The request's parameters over those of the checkpoint's that the task has a place for."""
    merged = sampling_pb2.SamplingParams()
    if checkpoint_defaults is not None:
        merged.MergeFrom(checkpoint_defaults)
        for field in unsuited(task, merged):
            merged.ClearField(field)
    merged.MergeFrom(given)
    return merged


def _sampling(given: sampling_pb2.SamplingParams, problems: Problems) -> sampling_pb2.SamplingParams:
    """Every field set."""
    filled = sampling_pb2.SamplingParams(oss_steps=given.oss_steps)
    for field in LIMITS:
        name = field.removeprefix("sampling.")
        if name == field or name == "oss_steps":
            continue
        number = problems.number(field, getattr(given, name) if given.HasField(name) else None)
        setattr(filled, name, int(number) if name == "infer_step" else number)
    for name, default in _SWITCHES.items():
        setattr(filled, name, getattr(given, name) if given.HasField(name) else default)
    filled.scheduler_type = given.scheduler_type or SCHEDULER_TYPES[0]
    if filled.scheduler_type not in SCHEDULER_TYPES:
        problems.add("sampling.scheduler_type", given.scheduler_type, ", ".join(sampling_pb2.SchedulerType.keys()))
    filled.cfg_type = given.cfg_type or CFG_TYPES[0]
    if filled.cfg_type not in CFG_TYPES:
        problems.add("sampling.cfg_type", given.cfg_type, ", ".join(sampling_pb2.CfgType.keys()))
    if filled.guidance_interval_decay > 0 and is_guided(filled) and filled.min_guidance_scale > filled.guidance_scale:
        allowed = f"at most guidance_scale ({filled.guidance_scale:g}) with guidance_interval_decay above 0"
        problems.add("sampling.min_guidance_scale", filled.min_guidance_scale, allowed)
    _check_oss_steps(filled, problems)
    return filled


def _check_oss_steps(sampling: sampling_pb2.SamplingParams, problems: Problems) -> None:
    steps = list(sampling.oss_steps)
    if not steps:
        return
    problems.each("sampling.oss_steps", steps)
    if len(steps) > MAX_OSS_STEPS:
        problems.add("sampling.oss_steps", f"{len(steps)} steps", f"at most {MAX_OSS_STEPS} steps")
    if steps != sorted(set(steps)):
        problems.add("sampling.oss_steps", steps, "steps in ascending order, none twice")
    if sampling.scheduler_type == sampling_pb2.SCHEDULER_TYPE_HEUN:
        problems.add("sampling.oss_steps", steps, "none with scheduler_type heun")


def _seeds(request: music_pb2.GenerateRequest, seed_source: random.Random, problems: Problems) -> tuple[int, ...]:
    given = list(request.seeds)
    limit = LIMITS["num_variants"]
    problems.each("seeds", given)
    if len(given) > limit.maximum:
        problems.add("seeds", f"{len(given)} seeds", f"at most {limit.maximum}")
        return ()
    number = problems.number("num_variants", request.num_variants if request.HasField("num_variants") else max(len(given), 1))
    if not limit.minimum <= number <= limit.maximum:
        return ()
    if len(given) > number:
        problems.add("seeds", f"{len(given)} seeds", f"at most num_variants ({number}) seeds")
    drawn = [seed_source.randrange(2**32) for _ in range(int(number) - len(given))]
    return (*given, *drawn)


def _output(output: music_pb2.OutputSpec, problems: Problems) -> tuple[music_pb2.AudioFormat, int]:
    audio_format = output.format or FORMATS[0]
    if audio_format not in FORMATS:
        problems.add("output.format", output.format, ", ".join(music_pb2.AudioFormat.keys()))
    sample_rate = output.sample_rate if output.HasField("sample_rate") else SAMPLE_RATES[-1]
    if sample_rate not in SAMPLE_RATES:
        problems.add("output.sample_rate", sample_rate, " or ".join(map(str, SAMPLE_RATES)))
    elif audio_format == music_pb2.AUDIO_FORMAT_OGG_OPUS and sample_rate != 48000:
        problems.add("output.sample_rate", sample_rate, "48000 with AUDIO_FORMAT_OGG_OPUS")
    return audio_format, sample_rate


def _adapters(request: music_pb2.GenerateRequest, problems: Problems) -> tuple[sampling_pb2.AdapterSelection, ...]:
    names, selections = [adapter.name for adapter in request.adapters], []
    if len(names) > MAX_ADAPTERS:
        problems.add("adapters", f"{len(names)} adapters", f"at most {MAX_ADAPTERS}")
    for index, adapter in enumerate(request.adapters):
        if not 1 <= len(adapter.name) <= MAX_NAME_CHARACTERS:
            problems.add(f"adapters[{index}].name", adapter.name, f"1 to {MAX_NAME_CHARACTERS} characters")
        if adapter.name in names[:index]:
            problems.add(f"adapters[{index}].name", adapter.name, "a name once")
        limit = LIMITS["adapters.scale"]
        scale = adapter.scale if adapter.HasField("scale") else limit.default
        assert scale is not None
        if not limit.minimum <= scale <= limit.maximum:  # NaN is in no range
            problems.add(f"adapters[{index}].scale", scale, str(limit))
        selections.append(sampling_pb2.AdapterSelection(name=adapter.name, scale=scale, use_trained_scale=adapter.use_trained_scale))
    return tuple(selections)


def _null_condition(sampling: sampling_pb2.SamplingParams, task: Task) -> encoder_pb2.NullCondition:
    if not is_guided(sampling):
        return encoder_pb2.NULL_CONDITION_UNSPECIFIED
    if isinstance(task, Edit):
        return encoder_pb2.NULL_CONDITION_MASKED
    if not sampling.use_erg_lyric:  # use_erg_tag alone has no effect
        return encoder_pb2.NULL_CONDITION_ZEROS
    return encoder_pb2.NULL_CONDITION_WEAKENED if sampling.use_erg_tag else encoder_pb2.NULL_CONDITION_WEAKENED_LYRICS
