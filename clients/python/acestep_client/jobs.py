"""Jobs of a server: where they stand and what came of them."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from google.longrunning import operations_pb2
from google.protobuf import timestamp_pb2

from acestep_rpc.errors import AcestepError, NotFinished, from_status
from acestep_rpc.v1 import music_pb2

PREFIX = "operations/"


@dataclass(frozen=True)
class Job:
    """A job as it stood when the server answered.

    Attributes:
        operation: The server's answer.
        metadata: Of the operation: state, attempts, times, last event.
    """

    operation: operations_pb2.Operation = field(repr=False)
    metadata: music_pb2.GenerationMetadata = field(repr=False)

    @classmethod
    def of(cls, operation: operations_pb2.Operation) -> "Job":
        """Of a server's answer."""
        metadata = music_pb2.GenerationMetadata()
        operation.metadata.Unpack(metadata)
        return cls(operation, metadata)

    def __repr__(self) -> str:
        return f"Job({self.name!r}, {self.state})"

    @property
    def name(self) -> str:
        """As "operations/my-song"."""
        return str(self.operation.name)

    @property
    def state(self) -> str:
        """As "queued", "running", "succeeded", "failed", "cancelled"."""
        return music_pb2.JobState.Name(self.metadata.state).removeprefix("JOB_STATE_").lower()

    @property
    def done(self) -> bool:
        """It has ended, in whatever way."""
        return bool(self.operation.done)

    @property
    def error(self) -> AcestepError | None:
        """What it failed with."""
        return from_status(self.operation.error) if self.operation.HasField("error") else None

    @property
    def create_time(self) -> datetime | None:
        """When it was submitted, UTC."""
        return _time(self.metadata, "create_time")

    @property
    def start_time(self) -> datetime | None:
        """When it was first started, UTC."""
        return _time(self.metadata, "start_time")

    @property
    def end_time(self) -> datetime | None:
        """When it ended, UTC."""
        return _time(self.metadata, "end_time")

    def outcome(self) -> music_pb2.GenerateResult:
        """What came of it.

        Raises:
            NotFinished: It has not ended yet.
            AcestepError: It failed with this.
        """
        if not self.done:
            raise NotFinished(f"{self.name} has not ended yet", name=self.name)
        if self.error is not None:
            raise self.error
        result = music_pb2.GenerateResult()
        self.operation.response.Unpack(result)
        return result


def job_name(job: Job | str) -> str:
    """The full name; its prefix may be left out."""
    name = job.name if isinstance(job, Job) else job
    return name if name.startswith(PREFIX) else PREFIX + name


def _time(metadata: music_pb2.GenerationMetadata, name: str) -> datetime | None:
    if not metadata.HasField(name):
        return None
    time: timestamp_pb2.Timestamp = getattr(metadata, name)
    return time.ToDatetime(UTC)
