from acestep_rpc.v1 import sampling_pb2 as _sampling_pb2
from acestep_rpc.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LineErrorPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LINE_ERROR_POLICY_UNSPECIFIED: _ClassVar[LineErrorPolicy]
    LINE_ERROR_POLICY_FAIL: _ClassVar[LineErrorPolicy]
    LINE_ERROR_POLICY_SKIP: _ClassVar[LineErrorPolicy]

class LyricRules(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LYRIC_RULES_UNSPECIFIED: _ClassVar[LyricRules]
    LYRIC_RULES_REFERENCE: _ClassVar[LyricRules]
    LYRIC_RULES_REVISED: _ClassVar[LyricRules]

class NullCondition(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NULL_CONDITION_UNSPECIFIED: _ClassVar[NullCondition]
    NULL_CONDITION_ZEROS: _ClassVar[NullCondition]
    NULL_CONDITION_WEAKENED_LYRICS: _ClassVar[NullCondition]
    NULL_CONDITION_WEAKENED: _ClassVar[NullCondition]
    NULL_CONDITION_MASKED: _ClassVar[NullCondition]
LINE_ERROR_POLICY_UNSPECIFIED: LineErrorPolicy
LINE_ERROR_POLICY_FAIL: LineErrorPolicy
LINE_ERROR_POLICY_SKIP: LineErrorPolicy
LYRIC_RULES_UNSPECIFIED: LyricRules
LYRIC_RULES_REFERENCE: LyricRules
LYRIC_RULES_REVISED: LyricRules
NULL_CONDITION_UNSPECIFIED: NullCondition
NULL_CONDITION_ZEROS: NullCondition
NULL_CONDITION_WEAKENED_LYRICS: NullCondition
NULL_CONDITION_WEAKENED: NullCondition
NULL_CONDITION_MASKED: NullCondition

class LyricOptions(_message.Message):
    __slots__ = ("language", "on_line_error", "lyric_rules", "tag_normalization")
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    ON_LINE_ERROR_FIELD_NUMBER: _ClassVar[int]
    LYRIC_RULES_FIELD_NUMBER: _ClassVar[int]
    TAG_NORMALIZATION_FIELD_NUMBER: _ClassVar[int]
    language: str
    on_line_error: LineErrorPolicy
    lyric_rules: LyricRules
    tag_normalization: bool
    def __init__(self, language: _Optional[str] = ..., on_line_error: _Optional[_Union[LineErrorPolicy, str]] = ..., lyric_rules: _Optional[_Union[LyricRules, str]] = ..., tag_normalization: _Optional[bool] = ...) -> None: ...

class EncodePromptRequest(_message.Message):
    __slots__ = ("tags", "lyrics", "lyric_options", "null_condition", "negative_tags", "adapters")
    TAGS_FIELD_NUMBER: _ClassVar[int]
    LYRICS_FIELD_NUMBER: _ClassVar[int]
    LYRIC_OPTIONS_FIELD_NUMBER: _ClassVar[int]
    NULL_CONDITION_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_TAGS_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    tags: str
    lyrics: str
    lyric_options: LyricOptions
    null_condition: NullCondition
    negative_tags: str
    adapters: _containers.RepeatedCompositeFieldContainer[_sampling_pb2.AdapterSelection]
    def __init__(self, tags: _Optional[str] = ..., lyrics: _Optional[str] = ..., lyric_options: _Optional[_Union[LyricOptions, _Mapping]] = ..., null_condition: _Optional[_Union[NullCondition, str]] = ..., negative_tags: _Optional[str] = ..., adapters: _Optional[_Iterable[_Union[_sampling_pb2.AdapterSelection, _Mapping]]] = ...) -> None: ...

class Conditioning(_message.Message):
    __slots__ = ("text_hidden_states", "lyric_hidden_states", "lyric_attention_mask", "null_text_hidden_states", "null_lyric_hidden_states", "null_lyric_attention_mask")
    TEXT_HIDDEN_STATES_FIELD_NUMBER: _ClassVar[int]
    LYRIC_HIDDEN_STATES_FIELD_NUMBER: _ClassVar[int]
    LYRIC_ATTENTION_MASK_FIELD_NUMBER: _ClassVar[int]
    NULL_TEXT_HIDDEN_STATES_FIELD_NUMBER: _ClassVar[int]
    NULL_LYRIC_HIDDEN_STATES_FIELD_NUMBER: _ClassVar[int]
    NULL_LYRIC_ATTENTION_MASK_FIELD_NUMBER: _ClassVar[int]
    text_hidden_states: _tensor_pb2.Tensor
    lyric_hidden_states: _tensor_pb2.Tensor
    lyric_attention_mask: _tensor_pb2.Tensor
    null_text_hidden_states: _tensor_pb2.Tensor
    null_lyric_hidden_states: _tensor_pb2.Tensor
    null_lyric_attention_mask: _tensor_pb2.Tensor
    def __init__(self, text_hidden_states: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., lyric_hidden_states: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., lyric_attention_mask: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., null_text_hidden_states: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., null_lyric_hidden_states: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., null_lyric_attention_mask: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class LyricLine(_message.Message):
    __slots__ = ("line_number", "language", "normalized_text", "token_count", "unknown_characters", "warnings", "language_reason", "detected_language", "language_score", "syllables")
    LINE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    NORMALIZED_TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_CHARACTERS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_REASON_FIELD_NUMBER: _ClassVar[int]
    DETECTED_LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_SCORE_FIELD_NUMBER: _ClassVar[int]
    SYLLABLES_FIELD_NUMBER: _ClassVar[int]
    line_number: int
    language: str
    normalized_text: str
    token_count: int
    unknown_characters: _containers.RepeatedScalarFieldContainer[str]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    language_reason: str
    detected_language: str
    language_score: float
    syllables: int
    def __init__(self, line_number: _Optional[int] = ..., language: _Optional[str] = ..., normalized_text: _Optional[str] = ..., token_count: _Optional[int] = ..., unknown_characters: _Optional[_Iterable[str]] = ..., warnings: _Optional[_Iterable[str]] = ..., language_reason: _Optional[str] = ..., detected_language: _Optional[str] = ..., language_score: _Optional[float] = ..., syllables: _Optional[int] = ...) -> None: ...

class EncodePromptResponse(_message.Message):
    __slots__ = ("conditioning", "lines", "tags", "tag_warnings", "lyric_rules")
    CONDITIONING_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    TAG_WARNINGS_FIELD_NUMBER: _ClassVar[int]
    LYRIC_RULES_FIELD_NUMBER: _ClassVar[int]
    conditioning: Conditioning
    lines: _containers.RepeatedCompositeFieldContainer[LyricLine]
    tags: str
    tag_warnings: _containers.RepeatedScalarFieldContainer[str]
    lyric_rules: LyricRules
    def __init__(self, conditioning: _Optional[_Union[Conditioning, _Mapping]] = ..., lines: _Optional[_Iterable[_Union[LyricLine, _Mapping]]] = ..., tags: _Optional[str] = ..., tag_warnings: _Optional[_Iterable[str]] = ..., lyric_rules: _Optional[_Union[LyricRules, str]] = ...) -> None: ...
