from acestep_rpc.v1 import encoder_pb2 as _encoder_pb2
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

class SampleRequest(_message.Message):
    __slots__ = ("conditioning", "params", "seeds", "adapters", "text_to_music")
    CONDITIONING_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    TEXT_TO_MUSIC_FIELD_NUMBER: _ClassVar[int]
    conditioning: _encoder_pb2.Conditioning
    params: _sampling_pb2.SamplingParams
    seeds: _containers.RepeatedScalarFieldContainer[int]
    adapters: _containers.RepeatedCompositeFieldContainer[_sampling_pb2.AdapterSelection]
    text_to_music: TextToMusicSampling
    def __init__(self, conditioning: _Optional[_Union[_encoder_pb2.Conditioning, _Mapping]] = ..., params: _Optional[_Union[_sampling_pb2.SamplingParams, _Mapping]] = ..., seeds: _Optional[_Iterable[int]] = ..., adapters: _Optional[_Iterable[_Union[_sampling_pb2.AdapterSelection, _Mapping]]] = ..., text_to_music: _Optional[_Union[TextToMusicSampling, _Mapping]] = ...) -> None: ...

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

class SampleResponse(_message.Message):
    __slots__ = ("progress", "result")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    progress: SampleProgress
    result: SampleResult
    def __init__(self, progress: _Optional[_Union[SampleProgress, _Mapping]] = ..., result: _Optional[_Union[SampleResult, _Mapping]] = ...) -> None: ...
