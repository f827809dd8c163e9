import datetime

from acestep_rpc.v1 import encoder_pb2 as _encoder_pb2
from acestep_rpc.v1 import sampling_pb2 as _sampling_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.api import httpbody_pb2 as _httpbody_pb2
from google.longrunning import operations_pb2 as _operations_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AudioFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AUDIO_FORMAT_UNSPECIFIED: _ClassVar[AudioFormat]
    AUDIO_FORMAT_WAV_PCM16: _ClassVar[AudioFormat]
    AUDIO_FORMAT_WAV_PCM24: _ClassVar[AudioFormat]
    AUDIO_FORMAT_WAV_FLOAT32: _ClassVar[AudioFormat]
    AUDIO_FORMAT_FLAC: _ClassVar[AudioFormat]
    AUDIO_FORMAT_MP3: _ClassVar[AudioFormat]
    AUDIO_FORMAT_OGG_VORBIS: _ClassVar[AudioFormat]
    AUDIO_FORMAT_OGG_OPUS: _ClassVar[AudioFormat]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_BATCH: _ClassVar[Priority]
    PRIORITY_NORMAL: _ClassVar[Priority]
    PRIORITY_INTERACTIVE: _ClassVar[Priority]

class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STAGE_UNSPECIFIED: _ClassVar[Stage]
    STAGE_QUEUED: _ClassVar[Stage]
    STAGE_ENCODE: _ClassVar[Stage]
    STAGE_SOURCE: _ClassVar[Stage]
    STAGE_SAMPLE: _ClassVar[Stage]
    STAGE_DECODE: _ClassVar[Stage]

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_QUEUED: _ClassVar[JobState]
    JOB_STATE_RUNNING: _ClassVar[JobState]
    JOB_STATE_SUCCEEDED: _ClassVar[JobState]
    JOB_STATE_FAILED: _ClassVar[JobState]
    JOB_STATE_CANCELLED: _ClassVar[JobState]
AUDIO_FORMAT_UNSPECIFIED: AudioFormat
AUDIO_FORMAT_WAV_PCM16: AudioFormat
AUDIO_FORMAT_WAV_PCM24: AudioFormat
AUDIO_FORMAT_WAV_FLOAT32: AudioFormat
AUDIO_FORMAT_FLAC: AudioFormat
AUDIO_FORMAT_MP3: AudioFormat
AUDIO_FORMAT_OGG_VORBIS: AudioFormat
AUDIO_FORMAT_OGG_OPUS: AudioFormat
PRIORITY_UNSPECIFIED: Priority
PRIORITY_BATCH: Priority
PRIORITY_NORMAL: Priority
PRIORITY_INTERACTIVE: Priority
STAGE_UNSPECIFIED: Stage
STAGE_QUEUED: Stage
STAGE_ENCODE: Stage
STAGE_SOURCE: Stage
STAGE_SAMPLE: Stage
STAGE_DECODE: Stage
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_QUEUED: JobState
JOB_STATE_RUNNING: JobState
JOB_STATE_SUCCEEDED: JobState
JOB_STATE_FAILED: JobState
JOB_STATE_CANCELLED: JobState

class Prompt(_message.Message):
    __slots__ = ("tags", "lyrics", "lyric_options", "negative_tags")
    TAGS_FIELD_NUMBER: _ClassVar[int]
    LYRICS_FIELD_NUMBER: _ClassVar[int]
    LYRIC_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_TAGS_FIELD_NUMBER: _ClassVar[int]
    tags: str
    lyrics: str
    lyric_options: _encoder_pb2.LyricOptions
    negative_tags: str
    def __init__(self, tags: _Optional[str] = ..., lyrics: _Optional[str] = ..., lyric_options: _Optional[_Union[_encoder_pb2.LyricOptions, _Mapping]] = ..., negative_tags: _Optional[str] = ...) -> None: ...

class AudioSource(_message.Message):
    __slots__ = ("asset", "result")
    ASSET_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    asset: str
    result: str
    def __init__(self, asset: _Optional[str] = ..., result: _Optional[str] = ...) -> None: ...

class TextToMusic(_message.Message):
    __slots__ = ("duration_seconds",)
    DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    duration_seconds: float
    def __init__(self, duration_seconds: _Optional[float] = ...) -> None: ...

class Retake(_message.Message):
    __slots__ = ("duration_seconds", "retake_variances", "retake_seeds")
    DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RETAKE_VARIANCES_FIELD_NUMBER: _ClassVar[int]
    RETAKE_SEEDS_FIELD_NUMBER: _ClassVar[int]
    duration_seconds: float
    retake_variances: _containers.RepeatedScalarFieldContainer[float]
    retake_seeds: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, duration_seconds: _Optional[float] = ..., retake_variances: _Optional[_Iterable[float]] = ..., retake_seeds: _Optional[_Iterable[int]] = ...) -> None: ...

class TimeRange(_message.Message):
    __slots__ = ("start_seconds", "end_seconds")
    START_SECONDS_FIELD_NUMBER: _ClassVar[int]
    END_SECONDS_FIELD_NUMBER: _ClassVar[int]
    start_seconds: float
    end_seconds: float
    def __init__(self, start_seconds: _Optional[float] = ..., end_seconds: _Optional[float] = ...) -> None: ...

class Repaint(_message.Message):
    __slots__ = ("source", "regions", "retake_variance", "retake_seeds", "context_seconds", "feather_seconds", "splice_source")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    RETAKE_VARIANCE_FIELD_NUMBER: _ClassVar[int]
    RETAKE_SEEDS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FEATHER_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SPLICE_SOURCE_FIELD_NUMBER: _ClassVar[int]
    source: AudioSource
    regions: _containers.RepeatedCompositeFieldContainer[TimeRange]
    retake_variance: float
    retake_seeds: _containers.RepeatedScalarFieldContainer[int]
    context_seconds: float
    feather_seconds: float
    splice_source: bool
    def __init__(self, source: _Optional[_Union[AudioSource, _Mapping]] = ..., regions: _Optional[_Iterable[_Union[TimeRange, _Mapping]]] = ..., retake_variance: _Optional[float] = ..., retake_seeds: _Optional[_Iterable[int]] = ..., context_seconds: _Optional[float] = ..., feather_seconds: _Optional[float] = ..., splice_source: _Optional[bool] = ...) -> None: ...

class Extend(_message.Message):
    __slots__ = ("source", "left_seconds", "right_seconds", "retake_seeds")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LEFT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RIGHT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RETAKE_SEEDS_FIELD_NUMBER: _ClassVar[int]
    source: AudioSource
    left_seconds: float
    right_seconds: float
    retake_seeds: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, source: _Optional[_Union[AudioSource, _Mapping]] = ..., left_seconds: _Optional[float] = ..., right_seconds: _Optional[float] = ..., retake_seeds: _Optional[_Iterable[int]] = ...) -> None: ...

class Edit(_message.Message):
    __slots__ = ("source", "target", "edit_n_min", "edit_n_max", "edit_n_avg", "retake_seeds")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    EDIT_N_MIN_FIELD_NUMBER: _ClassVar[int]
    EDIT_N_MAX_FIELD_NUMBER: _ClassVar[int]
    EDIT_N_AVG_FIELD_NUMBER: _ClassVar[int]
    RETAKE_SEEDS_FIELD_NUMBER: _ClassVar[int]
    source: AudioSource
    target: Prompt
    edit_n_min: float
    edit_n_max: float
    edit_n_avg: int
    retake_seeds: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, source: _Optional[_Union[AudioSource, _Mapping]] = ..., target: _Optional[_Union[Prompt, _Mapping]] = ..., edit_n_min: _Optional[float] = ..., edit_n_max: _Optional[float] = ..., edit_n_avg: _Optional[int] = ..., retake_seeds: _Optional[_Iterable[int]] = ...) -> None: ...

class AudioToAudio(_message.Message):
    __slots__ = ("source", "ref_audio_strength")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REF_AUDIO_STRENGTH_FIELD_NUMBER: _ClassVar[int]
    source: AudioSource
    ref_audio_strength: float
    def __init__(self, source: _Optional[_Union[AudioSource, _Mapping]] = ..., ref_audio_strength: _Optional[float] = ...) -> None: ...

class OutputSpec(_message.Message):
    __slots__ = ("format", "sample_rate", "preview")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    format: AudioFormat
    sample_rate: int
    preview: PreviewSpec
    def __init__(self, format: _Optional[_Union[AudioFormat, str]] = ..., sample_rate: _Optional[int] = ..., preview: _Optional[_Union[PreviewSpec, _Mapping]] = ...) -> None: ...

class PreviewSpec(_message.Message):
    __slots__ = ("at_steps", "window")
    AT_STEPS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    at_steps: _containers.RepeatedScalarFieldContainer[int]
    window: TimeRange
    def __init__(self, at_steps: _Optional[_Iterable[int]] = ..., window: _Optional[_Union[TimeRange, _Mapping]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("request_id", "prompt", "sampling", "output", "adapters", "seeds", "num_variants", "priority", "keep_results", "text_to_music", "retake", "repaint", "extend", "edit", "audio_to_audio")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    NUM_VARIANTS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    KEEP_RESULTS_FIELD_NUMBER: _ClassVar[int]
    TEXT_TO_MUSIC_FIELD_NUMBER: _ClassVar[int]
    RETAKE_FIELD_NUMBER: _ClassVar[int]
    REPAINT_FIELD_NUMBER: _ClassVar[int]
    EXTEND_FIELD_NUMBER: _ClassVar[int]
    EDIT_FIELD_NUMBER: _ClassVar[int]
    AUDIO_TO_AUDIO_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    prompt: Prompt
    sampling: _sampling_pb2.SamplingParams
    output: OutputSpec
    adapters: _containers.RepeatedCompositeFieldContainer[_sampling_pb2.AdapterSelection]
    seeds: _containers.RepeatedScalarFieldContainer[int]
    num_variants: int
    priority: Priority
    keep_results: bool
    text_to_music: TextToMusic
    retake: Retake
    repaint: Repaint
    extend: Extend
    edit: Edit
    audio_to_audio: AudioToAudio
    def __init__(self, request_id: _Optional[str] = ..., prompt: _Optional[_Union[Prompt, _Mapping]] = ..., sampling: _Optional[_Union[_sampling_pb2.SamplingParams, _Mapping]] = ..., output: _Optional[_Union[OutputSpec, _Mapping]] = ..., adapters: _Optional[_Iterable[_Union[_sampling_pb2.AdapterSelection, _Mapping]]] = ..., seeds: _Optional[_Iterable[int]] = ..., num_variants: _Optional[int] = ..., priority: _Optional[_Union[Priority, str]] = ..., keep_results: _Optional[bool] = ..., text_to_music: _Optional[_Union[TextToMusic, _Mapping]] = ..., retake: _Optional[_Union[Retake, _Mapping]] = ..., repaint: _Optional[_Union[Repaint, _Mapping]] = ..., extend: _Optional[_Union[Extend, _Mapping]] = ..., edit: _Optional[_Union[Edit, _Mapping]] = ..., audio_to_audio: _Optional[_Union[AudioToAudio, _Mapping]] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("seeds", "duration_seconds", "estimated_finish_time")
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_FINISH_TIME_FIELD_NUMBER: _ClassVar[int]
    seeds: _containers.RepeatedScalarFieldContainer[int]
    duration_seconds: float
    estimated_finish_time: _timestamp_pb2.Timestamp
    def __init__(self, seeds: _Optional[_Iterable[int]] = ..., duration_seconds: _Optional[float] = ..., estimated_finish_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("stage", "step", "total", "eta")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    ETA_FIELD_NUMBER: _ClassVar[int]
    stage: Stage
    step: int
    total: int
    eta: _duration_pb2.Duration
    def __init__(self, stage: _Optional[_Union[Stage, str]] = ..., step: _Optional[int] = ..., total: _Optional[int] = ..., eta: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class AudioChunk(_message.Message):
    __slots__ = ("variant_index", "offset", "data", "preview_step", "last")
    VARIANT_INDEX_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_STEP_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    variant_index: int
    offset: int
    data: bytes
    preview_step: int
    last: bool
    def __init__(self, variant_index: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., preview_step: _Optional[int] = ..., last: _Optional[bool] = ...) -> None: ...

class Song(_message.Message):
    __slots__ = ("variant_index", "seed", "format", "sample_rate", "channels", "duration_seconds", "size_bytes", "sha256", "name", "receipt")
    VARIANT_INDEX_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    variant_index: int
    seed: int
    format: AudioFormat
    sample_rate: int
    channels: int
    duration_seconds: float
    size_bytes: int
    sha256: str
    name: str
    receipt: _struct_pb2.Struct
    def __init__(self, variant_index: _Optional[int] = ..., seed: _Optional[int] = ..., format: _Optional[_Union[AudioFormat, str]] = ..., sample_rate: _Optional[int] = ..., channels: _Optional[int] = ..., duration_seconds: _Optional[float] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ..., name: _Optional[str] = ..., receipt: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class GenerateResult(_message.Message):
    __slots__ = ("songs", "warnings", "lyric_lines", "lyric_changes")
    SONGS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    LYRIC_LINES_FIELD_NUMBER: _ClassVar[int]
    LYRIC_CHANGES_FIELD_NUMBER: _ClassVar[int]
    songs: _containers.RepeatedCompositeFieldContainer[Song]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    lyric_lines: _containers.RepeatedCompositeFieldContainer[_encoder_pb2.LyricLine]
    lyric_changes: _containers.RepeatedCompositeFieldContainer[LyricChange]
    def __init__(self, songs: _Optional[_Iterable[_Union[Song, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ..., lyric_lines: _Optional[_Iterable[_Union[_encoder_pb2.LyricLine, _Mapping]]] = ..., lyric_changes: _Optional[_Iterable[_Union[LyricChange, _Mapping]]] = ...) -> None: ...

class LyricChange(_message.Message):
    __slots__ = ("old_line_number", "old_lines", "new_line_number", "new_lines")
    OLD_LINE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    OLD_LINES_FIELD_NUMBER: _ClassVar[int]
    NEW_LINE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    NEW_LINES_FIELD_NUMBER: _ClassVar[int]
    old_line_number: int
    old_lines: _containers.RepeatedScalarFieldContainer[str]
    new_line_number: int
    new_lines: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, old_line_number: _Optional[int] = ..., old_lines: _Optional[_Iterable[str]] = ..., new_line_number: _Optional[int] = ..., new_lines: _Optional[_Iterable[str]] = ...) -> None: ...

class GenerateEvent(_message.Message):
    __slots__ = ("sequence", "request_id", "time", "accepted", "progress", "audio_chunk", "completed")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    AUDIO_CHUNK_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    request_id: str
    time: _timestamp_pb2.Timestamp
    accepted: Accepted
    progress: Progress
    audio_chunk: AudioChunk
    completed: GenerateResult
    def __init__(self, sequence: _Optional[int] = ..., request_id: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., accepted: _Optional[_Union[Accepted, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., audio_chunk: _Optional[_Union[AudioChunk, _Mapping]] = ..., completed: _Optional[_Union[GenerateResult, _Mapping]] = ...) -> None: ...

class SubmitGenerationRequest(_message.Message):
    __slots__ = ("generation", "webhook_url", "webhook_secret")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    WEBHOOK_URL_FIELD_NUMBER: _ClassVar[int]
    WEBHOOK_SECRET_FIELD_NUMBER: _ClassVar[int]
    generation: GenerateRequest
    webhook_url: str
    webhook_secret: str
    def __init__(self, generation: _Optional[_Union[GenerateRequest, _Mapping]] = ..., webhook_url: _Optional[str] = ..., webhook_secret: _Optional[str] = ...) -> None: ...

class GenerationMetadata(_message.Message):
    __slots__ = ("state", "attempt", "create_time", "start_time", "end_time", "last_sequence")
    STATE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    state: JobState
    attempt: int
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    last_sequence: int
    def __init__(self, state: _Optional[_Union[JobState, str]] = ..., attempt: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_sequence: _Optional[int] = ...) -> None: ...

class WatchGenerationRequest(_message.Message):
    __slots__ = ("name", "from_sequence", "skip_audio")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FROM_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SKIP_AUDIO_FIELD_NUMBER: _ClassVar[int]
    name: str
    from_sequence: int
    skip_audio: bool
    def __init__(self, name: _Optional[str] = ..., from_sequence: _Optional[int] = ..., skip_audio: _Optional[bool] = ...) -> None: ...

class WatchGenerationResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: GenerateEvent
    def __init__(self, event: _Optional[_Union[GenerateEvent, _Mapping]] = ...) -> None: ...

class EstimateGenerationRequest(_message.Message):
    __slots__ = ("generation",)
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    generation: GenerateRequest
    def __init__(self, generation: _Optional[_Union[GenerateRequest, _Mapping]] = ...) -> None: ...

class EstimateGenerationResponse(_message.Message):
    __slots__ = ("device_time", "queue_time", "estimated_finish_time")
    DEVICE_TIME_FIELD_NUMBER: _ClassVar[int]
    QUEUE_TIME_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_FINISH_TIME_FIELD_NUMBER: _ClassVar[int]
    device_time: _duration_pb2.Duration
    queue_time: _duration_pb2.Duration
    estimated_finish_time: _timestamp_pb2.Timestamp
    def __init__(self, device_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., queue_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., estimated_finish_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class UploadAudioRequest(_message.Message):
    __slots__ = ("data", "sha256")
    DATA_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    sha256: str
    def __init__(self, data: _Optional[bytes] = ..., sha256: _Optional[str] = ...) -> None: ...

class UploadFileRequest(_message.Message):
    __slots__ = ("file", "sha256")
    FILE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    file: _httpbody_pb2.HttpBody
    sha256: str
    def __init__(self, file: _Optional[_Union[_httpbody_pb2.HttpBody, _Mapping]] = ..., sha256: _Optional[str] = ...) -> None: ...

class UploadAudioResponse(_message.Message):
    __slots__ = ("name", "duration_seconds", "sample_rate", "channels")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    duration_seconds: float
    sample_rate: int
    channels: int
    def __init__(self, name: _Optional[str] = ..., duration_seconds: _Optional[float] = ..., sample_rate: _Optional[int] = ..., channels: _Optional[int] = ...) -> None: ...

class UploadFileResponse(_message.Message):
    __slots__ = ("audio",)
    AUDIO_FIELD_NUMBER: _ClassVar[int]
    audio: UploadAudioResponse
    def __init__(self, audio: _Optional[_Union[UploadAudioResponse, _Mapping]] = ...) -> None: ...

class DownloadAudioRequest(_message.Message):
    __slots__ = ("name", "offset")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    name: str
    offset: int
    def __init__(self, name: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class DownloadAudioResponse(_message.Message):
    __slots__ = ("offset", "data", "size_bytes")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    size_bytes: int
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class DownloadFileRequest(_message.Message):
    __slots__ = ("name", "offset")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    name: str
    offset: int
    def __init__(self, name: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class GetCapabilitiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ParameterLimit(_message.Message):
    __slots__ = ("field", "minimum", "maximum", "default_value")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VALUE_FIELD_NUMBER: _ClassVar[int]
    field: str
    minimum: float
    maximum: float
    default_value: float
    def __init__(self, field: _Optional[str] = ..., minimum: _Optional[float] = ..., maximum: _Optional[float] = ..., default_value: _Optional[float] = ...) -> None: ...

class StageInfo(_message.Message):
    __slots__ = ("stage", "model_digest", "dtype", "device", "versions", "vocoder")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    STAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    VOCODER_FIELD_NUMBER: _ClassVar[int]
    stage: str
    model_digest: str
    dtype: str
    device: str
    versions: _containers.ScalarMap[str, str]
    vocoder: str
    def __init__(self, stage: _Optional[str] = ..., model_digest: _Optional[str] = ..., dtype: _Optional[str] = ..., device: _Optional[str] = ..., versions: _Optional[_Mapping[str, str]] = ..., vocoder: _Optional[str] = ...) -> None: ...

class GetCapabilitiesResponse(_message.Message):
    __slots__ = ("parameters", "tasks", "schedulers", "cfg_types", "formats", "lyric_languages", "adapters", "structure_tags", "max_prompt_tokens", "max_lyric_tokens", "stages", "version", "sampling_defaults", "transliterated_lyric_languages", "lyric_rules")
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    SCHEDULERS_FIELD_NUMBER: _ClassVar[int]
    CFG_TYPES_FIELD_NUMBER: _ClassVar[int]
    FORMATS_FIELD_NUMBER: _ClassVar[int]
    LYRIC_LANGUAGES_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    STRUCTURE_TAGS_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_LYRIC_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_DEFAULTS_FIELD_NUMBER: _ClassVar[int]
    TRANSLITERATED_LYRIC_LANGUAGES_FIELD_NUMBER: _ClassVar[int]
    LYRIC_RULES_FIELD_NUMBER: _ClassVar[int]
    parameters: _containers.RepeatedCompositeFieldContainer[ParameterLimit]
    tasks: _containers.RepeatedScalarFieldContainer[str]
    schedulers: _containers.RepeatedScalarFieldContainer[_sampling_pb2.SchedulerType]
    cfg_types: _containers.RepeatedScalarFieldContainer[_sampling_pb2.CfgType]
    formats: _containers.RepeatedScalarFieldContainer[AudioFormat]
    lyric_languages: _containers.RepeatedScalarFieldContainer[str]
    adapters: _containers.RepeatedScalarFieldContainer[str]
    structure_tags: _containers.RepeatedScalarFieldContainer[str]
    max_prompt_tokens: int
    max_lyric_tokens: int
    stages: _containers.RepeatedCompositeFieldContainer[StageInfo]
    version: str
    sampling_defaults: _sampling_pb2.SamplingParams
    transliterated_lyric_languages: _containers.RepeatedScalarFieldContainer[str]
    lyric_rules: _encoder_pb2.LyricRules
    def __init__(self, parameters: _Optional[_Iterable[_Union[ParameterLimit, _Mapping]]] = ..., tasks: _Optional[_Iterable[str]] = ..., schedulers: _Optional[_Iterable[_Union[_sampling_pb2.SchedulerType, str]]] = ..., cfg_types: _Optional[_Iterable[_Union[_sampling_pb2.CfgType, str]]] = ..., formats: _Optional[_Iterable[_Union[AudioFormat, str]]] = ..., lyric_languages: _Optional[_Iterable[str]] = ..., adapters: _Optional[_Iterable[str]] = ..., structure_tags: _Optional[_Iterable[str]] = ..., max_prompt_tokens: _Optional[int] = ..., max_lyric_tokens: _Optional[int] = ..., stages: _Optional[_Iterable[_Union[StageInfo, _Mapping]]] = ..., version: _Optional[str] = ..., sampling_defaults: _Optional[_Union[_sampling_pb2.SamplingParams, _Mapping]] = ..., transliterated_lyric_languages: _Optional[_Iterable[str]] = ..., lyric_rules: _Optional[_Union[_encoder_pb2.LyricRules, str]] = ...) -> None: ...
