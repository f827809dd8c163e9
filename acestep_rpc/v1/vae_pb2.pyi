from acestep_rpc.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DecodeLatentsRequest(_message.Message):
    __slots__ = ("latents", "sample_rate")
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_FIELD_NUMBER: _ClassVar[int]
    latents: _tensor_pb2.Tensor
    sample_rate: int
    def __init__(self, latents: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., sample_rate: _Optional[int] = ...) -> None: ...

class DecodeLatentsResponse(_message.Message):
    __slots__ = ("waveform", "start_sample", "total_samples", "sample_rate")
    WAVEFORM_FIELD_NUMBER: _ClassVar[int]
    START_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_FIELD_NUMBER: _ClassVar[int]
    waveform: _tensor_pb2.Tensor
    start_sample: int
    total_samples: int
    sample_rate: int
    def __init__(self, waveform: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., start_sample: _Optional[int] = ..., total_samples: _Optional[int] = ..., sample_rate: _Optional[int] = ...) -> None: ...

class EncodeAudioRequest(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class EncodeAudioResponse(_message.Message):
    __slots__ = ("latents", "duration_seconds", "sample_rate", "channels")
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    latents: _tensor_pb2.Tensor
    duration_seconds: float
    sample_rate: int
    channels: int
    def __init__(self, latents: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., duration_seconds: _Optional[float] = ..., sample_rate: _Optional[int] = ..., channels: _Optional[int] = ...) -> None: ...

class ReadAudioRequest(_message.Message):
    __slots__ = ("data", "sample_rate")
    DATA_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    sample_rate: int
    def __init__(self, data: _Optional[bytes] = ..., sample_rate: _Optional[int] = ...) -> None: ...

class ReadAudioResponse(_message.Message):
    __slots__ = ("waveform", "start_sample", "total_samples", "sample_rate")
    WAVEFORM_FIELD_NUMBER: _ClassVar[int]
    START_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_FIELD_NUMBER: _ClassVar[int]
    waveform: _tensor_pb2.Tensor
    start_sample: int
    total_samples: int
    sample_rate: int
    def __init__(self, waveform: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., start_sample: _Optional[int] = ..., total_samples: _Optional[int] = ..., sample_rate: _Optional[int] = ...) -> None: ...
