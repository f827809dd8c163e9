from acestep_rpc.v1 import encoder_pb2 as _encoder_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Singability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SINGABILITY_UNSPECIFIED: _ClassVar[Singability]
    SINGABILITY_FITS: _ClassVar[Singability]
    SINGABILITY_TOO_DENSE: _ClassVar[Singability]
    SINGABILITY_TOO_SPARSE: _ClassVar[Singability]
SINGABILITY_UNSPECIFIED: Singability
SINGABILITY_FITS: Singability
SINGABILITY_TOO_DENSE: Singability
SINGABILITY_TOO_SPARSE: Singability

class PreviewRequest(_message.Message):
    __slots__ = ("lyrics", "lyric_options", "duration_seconds")
    LYRICS_FIELD_NUMBER: _ClassVar[int]
    LYRIC_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    lyrics: str
    lyric_options: _encoder_pb2.LyricOptions
    duration_seconds: float
    def __init__(self, lyrics: _Optional[str] = ..., lyric_options: _Optional[_Union[_encoder_pb2.LyricOptions, _Mapping]] = ..., duration_seconds: _Optional[float] = ...) -> None: ...

class PreviewResponse(_message.Message):
    __slots__ = ("lines", "token_count", "syllables", "syllables_per_second", "singability", "lyric_rules")
    LINES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    SYLLABLES_FIELD_NUMBER: _ClassVar[int]
    SYLLABLES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    SINGABILITY_FIELD_NUMBER: _ClassVar[int]
    LYRIC_RULES_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[_encoder_pb2.LyricLine]
    token_count: int
    syllables: int
    syllables_per_second: float
    singability: Singability
    lyric_rules: _encoder_pb2.LyricRules
    def __init__(self, lines: _Optional[_Iterable[_Union[_encoder_pb2.LyricLine, _Mapping]]] = ..., token_count: _Optional[int] = ..., syllables: _Optional[int] = ..., syllables_per_second: _Optional[float] = ..., singability: _Optional[_Union[Singability, str]] = ..., lyric_rules: _Optional[_Union[_encoder_pb2.LyricRules, str]] = ...) -> None: ...
