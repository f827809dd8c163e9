"""A job as the database has it, and as callers see it. Pure."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from google.longrunning import operations_pb2
from google.protobuf import json_format, timestamp_pb2
from google.rpc import status_pb2

from acestep_rpc.errors import NotFound
from acestep_rpc.v1 import music_pb2

PREFIX = "operations/"
UNFINISHED = (music_pb2.JOB_STATE_QUEUED, music_pb2.JOB_STATE_RUNNING)


@dataclass(frozen=True)
class Job:
    """One row of the table of jobs, which explains the columns; times are in seconds since 1970."""

    tenant: str
    id: str
    body_sha256: str
    request: bytes
    priority: music_pb2.Priority
    cost_seconds: float
    source_id: str | None
    audio_seconds: float
    webhook_url: str | None
    webhook_secret: str | None
    state: music_pb2.JobState
    attempt: int
    failed_attempts: int
    lease_owner: str | None
    lease_expires: float | None
    not_before: float
    created: float
    started: float | None
    finished: float | None
    last_sequence: int
    size_bytes: int
    result: bytes | None
    error: bytes | None

    @property
    def done(self) -> bool:
        """Whether it ended, however."""
        return self.state not in UNFINISHED


class Entry(NamedTuple):
    """An event as the database has it: the data of an audio chunk is in the store, and only its size is known."""

    event: music_pb2.GenerateEvent
    audio_bytes: int


def entry(event: music_pb2.GenerateEvent) -> Entry:
    """The event without audio data."""
    kept = music_pb2.GenerateEvent()
    kept.MergeFrom(event)
    audio_bytes = len(event.audio_chunk.data)
    if audio_bytes:
        kept.audio_chunk.ClearField("data")
    return Entry(kept, audio_bytes)


def body_sha256(request: music_pb2.SubmitGenerationRequest) -> str:
    """What tells apart two requests of one id."""
    return hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()


def job_id(name: str) -> str:
    """The id in an operation's name.

    Raises:
        NotFound: It is no name of an operation.
    """
    given = name.removeprefix(PREFIX)
    if given == name or "/" in given:
        raise NotFound("operation", name)
    return given


def to_operation(job: Job) -> operations_pb2.Operation:
    """The job as google.longrunning has it."""
    metadata = music_pb2.GenerationMetadata(
        state=job.state,
        attempt=job.attempt,
        create_time=_timestamp(job.created),
        start_time=_timestamp(job.started),
        end_time=_timestamp(job.finished),
        last_sequence=job.last_sequence,
    )
    operation = operations_pb2.Operation(name=PREFIX + job.id, done=job.done)
    operation.metadata.Pack(metadata, deterministic=True)
    if job.result is not None:
        operation.response.Pack(music_pb2.GenerateResult.FromString(job.result), deterministic=True)  # the same from every server
    elif job.error is not None:
        operation.error.CopyFrom(status_pb2.Status.FromString(job.error))
    return operation


def webhook_body(job: Job) -> bytes:
    """What a webhook says of a job that ended: JSON with its type and the operation."""
    outcome = music_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_").lower()
    operation: dict[str, Any] = json_format.MessageToDict(to_operation(job), preserving_proto_field_name=True)
    ended = _timestamp(job.finished)
    assert ended is not None
    body = {"type": f"generation.{outcome}", "timestamp": ended.ToJsonString(), "data": operation}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _timestamp(seconds: float | None) -> timestamp_pb2.Timestamp | None:
    if seconds is None:
        return None
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromMilliseconds(round(seconds * 1000))
    return timestamp
