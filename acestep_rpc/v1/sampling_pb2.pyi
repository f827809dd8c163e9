from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SchedulerType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCHEDULER_TYPE_UNSPECIFIED: _ClassVar[SchedulerType]
    SCHEDULER_TYPE_EULER: _ClassVar[SchedulerType]
    SCHEDULER_TYPE_HEUN: _ClassVar[SchedulerType]
    SCHEDULER_TYPE_PINGPONG: _ClassVar[SchedulerType]

class CfgType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CFG_TYPE_UNSPECIFIED: _ClassVar[CfgType]
    CFG_TYPE_CFG: _ClassVar[CfgType]
    CFG_TYPE_APG: _ClassVar[CfgType]
    CFG_TYPE_CFG_STAR: _ClassVar[CfgType]
SCHEDULER_TYPE_UNSPECIFIED: SchedulerType
SCHEDULER_TYPE_EULER: SchedulerType
SCHEDULER_TYPE_HEUN: SchedulerType
SCHEDULER_TYPE_PINGPONG: SchedulerType
CFG_TYPE_UNSPECIFIED: CfgType
CFG_TYPE_CFG: CfgType
CFG_TYPE_APG: CfgType
CFG_TYPE_CFG_STAR: CfgType

class SamplingParams(_message.Message):
    __slots__ = ("infer_step", "guidance_scale", "scheduler_type", "cfg_type", "omega_scale", "guidance_interval", "guidance_interval_decay", "min_guidance_scale", "guidance_scale_text", "guidance_scale_lyric", "use_erg_tag", "use_erg_lyric", "use_erg_diffusion", "oss_steps")
    INFER_STEP_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    SCHEDULER_TYPE_FIELD_NUMBER: _ClassVar[int]
    CFG_TYPE_FIELD_NUMBER: _ClassVar[int]
    OMEGA_SCALE_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_INTERVAL_DECAY_FIELD_NUMBER: _ClassVar[int]
    MIN_GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_TEXT_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_LYRIC_FIELD_NUMBER: _ClassVar[int]
    USE_ERG_TAG_FIELD_NUMBER: _ClassVar[int]
    USE_ERG_LYRIC_FIELD_NUMBER: _ClassVar[int]
    USE_ERG_DIFFUSION_FIELD_NUMBER: _ClassVar[int]
    OSS_STEPS_FIELD_NUMBER: _ClassVar[int]
    infer_step: int
    guidance_scale: float
    scheduler_type: SchedulerType
    cfg_type: CfgType
    omega_scale: float
    guidance_interval: float
    guidance_interval_decay: float
    min_guidance_scale: float
    guidance_scale_text: float
    guidance_scale_lyric: float
    use_erg_tag: bool
    use_erg_lyric: bool
    use_erg_diffusion: bool
    oss_steps: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, infer_step: _Optional[int] = ..., guidance_scale: _Optional[float] = ..., scheduler_type: _Optional[_Union[SchedulerType, str]] = ..., cfg_type: _Optional[_Union[CfgType, str]] = ..., omega_scale: _Optional[float] = ..., guidance_interval: _Optional[float] = ..., guidance_interval_decay: _Optional[float] = ..., min_guidance_scale: _Optional[float] = ..., guidance_scale_text: _Optional[float] = ..., guidance_scale_lyric: _Optional[float] = ..., use_erg_tag: _Optional[bool] = ..., use_erg_lyric: _Optional[bool] = ..., use_erg_diffusion: _Optional[bool] = ..., oss_steps: _Optional[_Iterable[int]] = ...) -> None: ...

class AdapterSelection(_message.Message):
    __slots__ = ("name", "scale", "use_trained_scale")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    USE_TRAINED_SCALE_FIELD_NUMBER: _ClassVar[int]
    name: str
    scale: float
    use_trained_scale: bool
    def __init__(self, name: _Optional[str] = ..., scale: _Optional[float] = ..., use_trained_scale: _Optional[bool] = ...) -> None: ...
