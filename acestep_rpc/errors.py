"""The errors that cross a service boundary, in both directions.

    AcestepError
    |-- InvalidRequest      INVALID_ARGUMENT     a field is out of its range          BadRequest
    |-- NotFound            NOT_FOUND            no such asset, adapter, job          ResourceInfo
    |-- Unauthenticated     UNAUTHENTICATED      no credentials, or bad ones
    |-- PermissionDenied    PERMISSION_DENIED    credentials that are not for this        ErrorInfo
    |-- AlreadyExists       ALREADY_EXISTS       request id reused with another body  ErrorInfo
    |-- ShapeTooLarge       FAILED_PRECONDITION  the device cannot hold it            ErrorInfo with the limit
    |-- NotFinished         FAILED_PRECONDITION  the job has not ended yet            ErrorInfo
    |-- AttemptsExhausted   ABORTED              the job's servers vanished each time ErrorInfo
    |-- Overloaded          RESOURCE_EXHAUSTED   queue full, deadline unattainable    ErrorInfo, RetryInfo
    |-- QuotaExceeded       RESOURCE_EXHAUSTED   tenant over quota                    QuotaFailure, RetryInfo
    |-- StageUnavailable    UNAVAILABLE          no replica, or it drains             RetryInfo
    |-- DeadlineExceeded    DEADLINE_EXCEEDED    time is up
    |-- RequestCancelled    CANCELLED            the caller went away
    |-- Unimplemented       UNIMPLEMENTED        not built yet                        ErrorInfo
    `-- StageError          INTERNAL             anything else                        request id only

Code raises these; the server's interceptor turns them into a google.rpc.Status, and clients turn that back. Servicers never abort.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

DOMAIN = "acestep"
_LONGEST_QUOTA_WAIT_SECONDS = 60.0


class AcestepError(Exception):
    """Base of every error that crosses a service boundary."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def details(self) -> Sequence[Message]:
        """google.rpc detail messages for the wire."""
        return ()

    @property
    def pushback_milliseconds(self) -> int | None:
        """How long a client's automatic retry waits; negative: there shall be none; None: it is its own affair."""
        return None


class InvalidRequest(AcestepError):
    """One or more fields are out of their range.

    Args:
        field: Path of the field in the request, as "sampling.infer_step".
        value: What was sent.
        allowed: What may be sent, as "1 to 200".
    """

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, field: str, value: object, allowed: str) -> None:
        shown = repr(value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        self.violations: list[tuple[str, str]] = [(field, f"{shown} is not allowed; allowed: {allowed}")]
        super().__init__(f"{field}: {self.violations[0][1]}")

    @classmethod
    def from_violations(cls, violations: Sequence[tuple[str, str]]) -> "InvalidRequest":
        """Join several (field, description) pairs into one error."""
        error = cls.__new__(cls)
        error.violations = list(violations)
        Exception.__init__(error, "; ".join(f"{field}: {description}" for field, description in violations))
        return error

    def details(self) -> Sequence[Message]:
        """One BadRequest with every violation."""
        return (
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
                    for field, description in self.violations
                ]
            ),
        )


class NotFound(AcestepError):
    """A named thing does not exist.

    Args:
        resource_type: "asset", "adapter", "operation", ...
        name: Its name as sent.
    """

    code = grpc.StatusCode.NOT_FOUND

    def __init__(self, resource_type: str, name: str) -> None:
        self.resource_type = resource_type
        self.name = name
        super().__init__(f"no {resource_type} is named {name!r}")

    def details(self) -> Sequence[Message]:
        """One ResourceInfo."""
        return (error_details_pb2.ResourceInfo(resource_type=self.resource_type, resource_name=self.name),)


class _WithReason(AcestepError):
    """An error with an ErrorInfo: a stable reason and facts as strings."""

    reason: ClassVar[str] = ""

    def __init__(self, message: str, **metadata: str) -> None:
        self.metadata = metadata
        super().__init__(message)

    def details(self) -> Sequence[Message]:
        return (error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata),)


class PermissionDenied(_WithReason):
    """The credentials are good, and not for this."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class AlreadyExists(_WithReason):
    """A request id was used before with another body."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "REQUEST_ID_REUSED"


class ShapeTooLarge(_WithReason):
    """The device cannot hold the request; the metadata names the limit."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "SHAPE_TOO_LARGE"


class NotFinished(_WithReason):
    """What was asked for waits for the end of a job."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "NOT_FINISHED"


class AttemptsExhausted(_WithReason):
    """A job was given up: each server that worked for it vanished."""

    code = grpc.StatusCode.ABORTED
    reason = "ATTEMPTS_EXHAUSTED"


class Unimplemented(_WithReason):
    """The contract knows it, this version does not do it yet."""

    code = grpc.StatusCode.UNIMPLEMENTED
    reason = "UNIMPLEMENTED"


class _WithRetry(AcestepError):
    """An error that goes away with time.

    Args:
        message: What is the matter.
        retry_after_seconds: When to try again, > 0.
    """

    def __init__(self, message: str, retry_after_seconds: float = 1.0) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)

    def details(self) -> Sequence[Message]:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromMilliseconds(round(self.retry_after_seconds * 1000))
        return (info,)


class Overloaded(_WithRetry):
    """Too much work, or a deadline that cannot be met."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def details(self) -> Sequence[Message]:
        """An ErrorInfo and a RetryInfo."""
        return (error_details_pb2.ErrorInfo(reason="OVERLOADED", domain=DOMAIN), *super().details())

    @property
    def pushback_milliseconds(self) -> int:
        """As the RetryInfo says."""
        return round(self.retry_after_seconds * 1000)


class QuotaExceeded(AcestepError):
    """A tenant has used up what it may.

    Args:
        quota: Which one, as "requests_per_minute".
        message: What is the matter.
        retry_after_seconds: When to try again; None: waiting does not help.
    """

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, quota: str, message: str, retry_after_seconds: float | None = None) -> None:
        self.quota = quota
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)

    def details(self) -> Sequence[Message]:
        """A QuotaFailure, and a RetryInfo where a wait helps."""
        violation = error_details_pb2.QuotaFailure.Violation(subject=self.quota, description=str(self))
        failure = error_details_pb2.QuotaFailure(violations=[violation])
        if self.retry_after_seconds is None:
            return (failure,)
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromMilliseconds(math.ceil(self.retry_after_seconds * 1000))
        return failure, info

    @property
    def pushback_milliseconds(self) -> int:
        """As the RetryInfo says; what is free again tomorrow, or never, is not worth a silent wait."""
        seconds = self.retry_after_seconds
        return math.ceil(seconds * 1000) if seconds is not None and seconds <= _LONGEST_QUOTA_WAIT_SECONDS else -1


class StageUnavailable(_WithRetry):
    """No replica of a stage answers. The only error that is worth an immediate retry elsewhere."""

    code = grpc.StatusCode.UNAVAILABLE


class Unauthenticated(AcestepError):
    """The caller did not say who it is, or cannot prove it. Always the same words: they tell nobody which tenants exist."""

    code = grpc.StatusCode.UNAUTHENTICATED

    def __init__(self, message: str = "credentials are missing or not valid") -> None:
        super().__init__(message)


class DeadlineExceeded(AcestepError):
    """The time that the caller gave is up."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class RequestCancelled(AcestepError):
    """The caller went away."""

    code = grpc.StatusCode.CANCELLED


class StageError(AcestepError):
    """A stage failed for a reason that is not the caller's."""

    code = grpc.StatusCode.INTERNAL


def to_status(error: AcestepError) -> status_pb2.Status:
    """The wire form: code, message, details."""
    status = status_pb2.Status(code=error.code.value[0], message=str(error))
    for detail in error.details():
        status.details.add().Pack(detail)
    return status


_SIMPLE: dict[grpc.StatusCode, type[AcestepError]] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: RequestCancelled,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
}
_REASONS: tuple[type[_WithReason], ...] = (
    PermissionDenied,
    AlreadyExists,
    NotFinished,
    ShapeTooLarge,
    AttemptsExhausted,
    Unimplemented,
)
_WITH_REASON = {(cls.code, cls.reason): cls for cls in _REASONS} | {(cls.code, ""): cls for cls in _REASONS}
_WITH_RETRY: dict[grpc.StatusCode, type[_WithRetry]] = {cls.code: cls for cls in (Overloaded, StageUnavailable)}


def from_rpc_error(error: grpc.aio.AioRpcError) -> AcestepError:
    """The exception that the server raised, as far as the wire tells; StageError for what has no class here."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what AioRpcError has
    return _from_wire(error.code(), error.details() or error.code().name, status.details if status is not None else ())


def from_status(status: status_pb2.Status) -> AcestepError:
    """The exception that `to_status` was given, as far as the wire form tells."""
    (code,) = (code for code in grpc.StatusCode if code.value[0] == status.code)
    return _from_wire(code, status.message, status.details)


def _from_wire(code: grpc.StatusCode, message: str, details: Sequence[any_pb2.Any]) -> AcestepError:
    found: dict[str, Message] = {}
    for packed in details:
        for kind in (
            error_details_pb2.BadRequest,
            error_details_pb2.ResourceInfo,
            error_details_pb2.ErrorInfo,
            error_details_pb2.RetryInfo,
            error_details_pb2.QuotaFailure,
        ):
            if packed.Is(kind.DESCRIPTOR):
                detail = kind()
                packed.Unpack(detail)
                found[kind.DESCRIPTOR.name] = detail
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        bad = found.get("BadRequest", error_details_pb2.BadRequest())
        assert isinstance(bad, error_details_pb2.BadRequest)
        violations = [(violation.field, violation.description) for violation in bad.field_violations]
        return InvalidRequest.from_violations(violations or [("request", message)])
    if code is grpc.StatusCode.NOT_FOUND:
        info = found.get("ResourceInfo", error_details_pb2.ResourceInfo())
        assert isinstance(info, error_details_pb2.ResourceInfo)
        return NotFound(info.resource_type or "resource", info.resource_name or message)
    reason = found.get("ErrorInfo", error_details_pb2.ErrorInfo())
    assert isinstance(reason, error_details_pb2.ErrorInfo)
    if with_reason := _WITH_REASON.get((code, reason.reason)):
        return with_reason(message, **dict(reason.metadata))
    retry = found.get("RetryInfo", error_details_pb2.RetryInfo())
    assert isinstance(retry, error_details_pb2.RetryInfo)
    quota = found.get("QuotaFailure")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and isinstance(quota, error_details_pb2.QuotaFailure):
        subject = quota.violations[0].subject if quota.violations else ""
        return QuotaExceeded(subject, message, retry.retry_delay.ToMilliseconds() / 1000 if "RetryInfo" in found else None)
    if code in _WITH_RETRY:
        return _WITH_RETRY[code](message, retry.retry_delay.ToMilliseconds() / 1000 or 1.0)
    return _SIMPLE.get(code, StageError)(message)
