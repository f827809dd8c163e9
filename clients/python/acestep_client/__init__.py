"""Client of acestep-serving: songs over gRPC, with asyncio or without."""

from acestep_client.arriving import Preview
from acestep_client.blocking import Client
from acestep_client.client import AsyncClient
from acestep_client.errors import (
    AcestepError,
    AlreadyExists,
    AttemptsExhausted,
    BrokenTransfer,
    DeadlineExceeded,
    InvalidRequest,
    NotFinished,
    NotFound,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    RequestCancelled,
    ShapeTooLarge,
    StageError,
    StageUnavailable,
    Unauthenticated,
    Unimplemented,
)
from acestep_client.jobs import Job
from acestep_client.requests import sampling_params, song_request, source
from acestep_client.songs import Result, Song
from acestep_rpc.tls import ClientTls
from acestep_rpc.v1.encoder_pb2 import LyricOptions
from acestep_rpc.v1.music_pb2 import (
    AudioToAudio,
    Edit,
    Extend,
    GenerateEvent,
    GenerateRequest,
    Progress,
    Prompt,
    Repaint,
    Retake,
    Stage,
    TextToMusic,
    TimeRange,
)
from acestep_rpc.v1.sampling_pb2 import AdapterSelection, SamplingParams

__all__ = [
    "AcestepError",
    "AdapterSelection",
    "AlreadyExists",
    "AsyncClient",
    "AttemptsExhausted",
    "AudioToAudio",
    "BrokenTransfer",
    "Client",
    "ClientTls",
    "DeadlineExceeded",
    "Edit",
    "Extend",
    "GenerateEvent",
    "GenerateRequest",
    "InvalidRequest",
    "Job",
    "LyricOptions",
    "NotFinished",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "Preview",
    "Progress",
    "Prompt",
    "QuotaExceeded",
    "Repaint",
    "RequestCancelled",
    "Result",
    "Retake",
    "SamplingParams",
    "ShapeTooLarge",
    "Song",
    "Stage",
    "StageError",
    "StageUnavailable",
    "TextToMusic",
    "TimeRange",
    "Unauthenticated",
    "Unimplemented",
    "sampling_params",
    "song_request",
    "source",
]
