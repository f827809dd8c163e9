from acestep_rpc.v1 import encoder_pb2 as _encoder_pb2
from acestep_rpc.v1 import music_pb2 as _music_pb2
from acestep_rpc.v1 import sampling_pb2 as _sampling_pb2
from acestep_rpc.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TextToMusicSampling(_message.Message):
    __slots__ = ("duration_seconds",)
    DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    duration_seconds: float
    def __init__(self, duration_seconds: _Optional[float] = ...) -> None: ...

class RetakeSampling(_message.Message):
    __slots__ = ("duration_seconds", "retake_variances", "retake_seeds")
    DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RETAKE_VARIANCES_FIELD_NUMBER: _ClassVar[int]
    RETAKE_SEEDS_FIELD_NUMBER: _ClassVar[int]
    duration_seconds: float
    retake_variances: _containers.RepeatedScalarFieldContainer[float]
    retake_seeds: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, duration_seconds: _Optional[float] = ..., retake_variances: _Optional[_Iterable[float]] = ..., retake_seeds: _Optional[_Iterable[int]] = ...) -> None: ...

class SamplingRegion(_message.Message):
    __slots__ = ("start_seconds", "end_seconds")
    START_SECONDS_FIELD_NUMBER: _ClassVar[int]
    END_SECONDS_FIELD_NUMBER: _ClassVar[int]
    start_seconds: float
    end_seconds: float
    def __init__(self, start_seconds: _Optional[float] = ..., end_seconds: _Optional[float] = ...) -> None: ...

class RepaintSampling(_message.Message):
    __slots__ = ("source", "regions", "retake_variance", "retake_seeds", "feather_seconds", "context_seconds")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    RETAKE_VARIANCE_FIELD_NUMBER: _ClassVar[int]
    RETAKE_SEEDS_FIELD_NUMBER: _ClassVar[int]
    FEATHER_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    source: _tensor_pb2.Tensor
    regions: _containers.RepeatedCompositeFieldContainer[SamplingRegion]
    retake_variance: float
    retake_seeds: _containers.RepeatedScalarFieldContainer[int]
    feather_seconds: float
    context_seconds: float
    def __init__(self, source: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., regions: _Optional[_Iterable[_Union[SamplingRegion, _Mapping]]] = ..., retake_variance: _Optional[float] = ..., retake_seeds: _Optional[_Iterable[int]] = ..., feather_seconds: _Optional[float] = ..., context_seconds: _Optional[float] = ...) -> None: ...

class ExtendSampling(_message.Message):
    __slots__ = ("source", "left_seconds", "right_seconds", "retake_seeds")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LEFT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RIGHT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RETAKE_SEEDS_FIELD_NUMBER: _ClassVar[int]
    source: _tensor_pb2.Tensor
    left_seconds: float
    right_seconds: float
    retake_seeds: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, source: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., left_seconds: _Optional[float] = ..., right_seconds: _Optional[float] = ..., retake_seeds: _Optional[_Iterable[int]] = ...) -> None: ...

class EditSampling(_message.Message):
    __slots__ = ("source", "target", "edit_n_min", "edit_n_max", "edit_n_avg", "retake_seeds")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    EDIT_N_MIN_FIELD_NUMBER: _ClassVar[int]
    EDIT_N_MAX_FIELD_NUMBER: _ClassVar[int]
    EDIT_N_AVG_FIELD_NUMBER: _ClassVar[int]
    RETAKE_SEEDS_FIELD_NUMBER: _ClassVar[int]
    source: _tensor_pb2.Tensor
    target: _encoder_pb2.Conditioning
    edit_n_min: float
    edit_n_max: float
    edit_n_avg: int
    retake_seeds: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, source: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., target: _Optional[_Union[_encoder_pb2.Conditioning, _Mapping]] = ..., edit_n_min: _Optional[float] = ..., edit_n_max: _Optional[float] = ..., edit_n_avg: _Optional[int] = ..., retake_seeds: _Optional[_Iterable[int]] = ...) -> None: ...

class AudioToAudioSampling(_message.Message):
    __slots__ = ("source", "ref_audio_strength")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REF_AUDIO_STRENGTH_FIELD_NUMBER: _ClassVar[int]
    source: _tensor_pb2.Tensor
    ref_audio_strength: float
    def __init__(self, source: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., ref_audio_strength: _Optional[float] = ...) -> None: ...

class SampleRequest(_message.Message):
    __slots__ = ("conditioning", "params", "seeds", "adapters", "priority", "tenant", "text_to_music", "retake", "repaint", "extend", "edit", "audio_to_audio", "preview_steps", "preview_window")
    CONDITIONING_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TEXT_TO_MUSIC_FIELD_NUMBER: _ClassVar[int]
    RETAKE_FIELD_NUMBER: _ClassVar[int]
    REPAINT_FIELD_NUMBER: _ClassVar[int]
    EXTEND_FIELD_NUMBER: _ClassVar[int]
    EDIT_FIELD_NUMBER: _ClassVar[int]
    AUDIO_TO_AUDIO_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_STEPS_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_WINDOW_FIELD_NUMBER: _ClassVar[int]
    conditioning: _encoder_pb2.Conditioning
    params: _sampling_pb2.SamplingParams
    seeds: _containers.RepeatedScalarFieldContainer[int]
    adapters: _containers.RepeatedCompositeFieldContainer[_sampling_pb2.AdapterSelection]
    priority: _music_pb2.Priority
    tenant: str
    text_to_music: TextToMusicSampling
    retake: RetakeSampling
    repaint: RepaintSampling
    extend: ExtendSampling
    edit: EditSampling
    audio_to_audio: AudioToAudioSampling
    preview_steps: _containers.RepeatedScalarFieldContainer[int]
    preview_window: PreviewWindow
    def __init__(self, conditioning: _Optional[_Union[_encoder_pb2.Conditioning, _Mapping]] = ..., params: _Optional[_Union[_sampling_pb2.SamplingParams, _Mapping]] = ..., seeds: _Optional[_Iterable[int]] = ..., adapters: _Optional[_Iterable[_Union[_sampling_pb2.AdapterSelection, _Mapping]]] = ..., priority: _Optional[_Union[_music_pb2.Priority, str]] = ..., tenant: _Optional[str] = ..., text_to_music: _Optional[_Union[TextToMusicSampling, _Mapping]] = ..., retake: _Optional[_Union[RetakeSampling, _Mapping]] = ..., repaint: _Optional[_Union[RepaintSampling, _Mapping]] = ..., extend: _Optional[_Union[ExtendSampling, _Mapping]] = ..., edit: _Optional[_Union[EditSampling, _Mapping]] = ..., audio_to_audio: _Optional[_Union[AudioToAudioSampling, _Mapping]] = ..., preview_steps: _Optional[_Iterable[int]] = ..., preview_window: _Optional[_Union[PreviewWindow, _Mapping]] = ...) -> None: ...

class PreviewWindow(_message.Message):
    __slots__ = ("start_seconds", "end_seconds")
    START_SECONDS_FIELD_NUMBER: _ClassVar[int]
    END_SECONDS_FIELD_NUMBER: _ClassVar[int]
    start_seconds: float
    end_seconds: float
    def __init__(self, start_seconds: _Optional[float] = ..., end_seconds: _Optional[float] = ...) -> None: ...

class SampleProgress(_message.Message):
    __slots__ = ("step", "total_steps", "batch_rows")
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOTAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    step: int
    total_steps: int
    batch_rows: int
    def __init__(self, step: _Optional[int] = ..., total_steps: _Optional[int] = ..., batch_rows: _Optional[int] = ...) -> None: ...

class SampleResult(_message.Message):
    __slots__ = ("latents", "device_seconds", "evaluated_rows")
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    EVALUATED_ROWS_FIELD_NUMBER: _ClassVar[int]
    latents: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    device_seconds: float
    evaluated_rows: int
    def __init__(self, latents: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., device_seconds: _Optional[float] = ..., evaluated_rows: _Optional[int] = ...) -> None: ...

class SamplePreview(_message.Message):
    __slots__ = ("variant_index", "step", "latents", "start_seconds")
    VARIANT_INDEX_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    START_SECONDS_FIELD_NUMBER: _ClassVar[int]
    variant_index: int
    step: int
    latents: _tensor_pb2.Tensor
    start_seconds: float
    def __init__(self, variant_index: _Optional[int] = ..., step: _Optional[int] = ..., latents: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., start_seconds: _Optional[float] = ...) -> None: ...

class SampleResponse(_message.Message):
    __slots__ = ("progress", "result", "preview")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    progress: SampleProgress
    result: SampleResult
    preview: SamplePreview
    def __init__(self, progress: _Optional[_Union[SampleProgress, _Mapping]] = ..., result: _Optional[_Union[SampleResult, _Mapping]] = ..., preview: _Optional[_Union[SamplePreview, _Mapping]] = ...) -> None: ...
