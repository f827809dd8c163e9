"""Metrics, one-line JSON logs and the request id; `observe_call` puts them, and a span, around one call."""

import asyncio
import contextlib
import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any, Protocol

from prometheus_client import Counter, Gauge, Histogram

from acestep_rpc import tracing
from acestep_rpc.errors import AcestepError, StageError, Unimplemented

REQUEST_ID_KEY = "x-request-id"
"""Metadata key that carries the request id from service to service."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the request that the running task works for; empty outside of one."""

tenant: ContextVar[str] = ContextVar("tenant", default="")
"""Whom the running task works for; empty where callers do not say who they are."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300, 600)

REQUESTS = Counter("acestep_requests", "Calls finished, by status code.", ["service", "method", "code"])
REQUEST_SECONDS = Histogram("acestep_request_seconds", "Time from the start of a call to its end.", ["service", "method"], buckets=_SECONDS)
STAGE_SECONDS = Histogram("acestep_stage_seconds", "Time one request spent in one stage.", ["stage"], buckets=_SECONDS)
QUEUE_SECONDS = Histogram("acestep_stage_queue_seconds", "Time from a request's arrival to its first work.", ["stage"], buckets=_SECONDS)
STEP_SECONDS = Histogram(
    "acestep_step_seconds", "Time of one forward of the transformer, by the upper end of its rows x frames.", ["bucket"], buckets=_SECONDS
)
BATCH_ROWS = Histogram("acestep_batch_rows", "Rows in one forward of the transformer.", buckets=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64))
BATCH_FILL = Histogram(
    "acestep_batch_fill_ratio",
    "Rows x frames of one forward over the budget; above 1 for a song that exceeds it alone.",
    buckets=(0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 2, 5, 10),
)
REAL_TIME_FACTOR = Histogram(
    "acestep_real_time_factor",
    "Seconds of audio made in one second.",
    ["stage"],
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 2, 4, 8, 16, 32, 64, 128, 256),
)

FIRST_AUDIO_SECONDS = Histogram(
    "acestep_first_audio_seconds", "Time from a call's arrival to the first piece of a finished song.", buckets=_SECONDS
)
FIRST_PREVIEW_SECONDS = Histogram("acestep_first_preview_seconds", "Time from a call's arrival to its first preview.", buckets=_SECONDS)
PREVIEWS = Counter("acestep_previews", "Previews of unfinished songs, by what became of them.", ["outcome"])

BACKLOG_SECONDS = Gauge("acestep_backlog_seconds", "Predicted seconds of work accepted and not finished.", ["stage"])
COST_ERROR = Histogram(
    "acestep_cost_error_ratio",
    "Predicted over measured seconds of a piece of work.",
    ["stage"],
    buckets=(0.1, 0.25, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 4, 10),
)
ETA_ERROR = Histogram(
    "acestep_eta_error_seconds", "Distance of a request's end from the estimate that it was accepted with.", buckets=_SECONDS
)
CANCELLED_DEVICE_SECONDS = Counter("acestep_cancelled_device_seconds", "Device time of requests that did not come to their end.")
CACHE_LOOKUPS = Counter("acestep_cache_lookups", "Requests that a cache was asked for, by what it answered.", ["cache", "outcome"])
POOL_REPLICAS = Gauge("acestep_pool_replicas", "Replicas of a stage that the orchestrator knows, by state.", ["stage", "state"])
POOL_BACKLOG_SECONDS = Gauge("acestep_pool_backlog_seconds", "Predicted seconds of work of all replicas of a stage.", ["stage"])
STAGE_RETRIES = Counter("acestep_stage_retries", "Calls to a stage that were made again, by reason.", ["stage", "reason"])
REFUSED = Counter("acestep_refused", "Requests refused for want of room or time, by reason.", ["reason"])
DEADLINE_MISSED = Counter("acestep_deadline_missed", "Accepted requests that were not done at their deadline.")

JOBS = Counter("acestep_job_attempts", "Attempts at jobs that ended, by outcome.", ["outcome"])
WEBHOOKS = Counter("acestep_webhook_calls", "Calls on completion of jobs, by outcome.", ["outcome"])

TENANT_REQUESTS = Counter("acestep_tenant_requests", "Calls of known tenants finished, by status code.", ["tenant", "code"])
TENANT_AUDIO_SECONDS = Counter("acestep_tenant_audio_seconds", "Seconds of songs made for known tenants.", ["tenant"])
MAX_TENANT_LABELS = 200
"""Tenants that metrics name; the ones after them are counted together, as "(other)"."""
_tenant_labels: set[str] = set()

_logger = logging.getLogger("acestep")


def is_request_id(text: str) -> bool:
    """Whether text can name a request: 1 to 128 characters of [A-Za-z0-9._-]."""
    return _REQUEST_ID.fullmatch(text) is not None


def new_request_id() -> str:
    """Draw a request id."""
    return uuid.uuid4().hex


def tenant_label() -> str:
    """The running task's tenant as metrics name it."""
    name = tenant.get()
    if len(_tenant_labels) < MAX_TENANT_LABELS:
        _tenant_labels.add(name)
    return name if name in _tenant_labels else "(other)"


def log(event: str, *, level: int = logging.INFO, exception: BaseException | None = None, **fields: object) -> None:
    """Write one line about something that happened.

    Args:
        event: What happened, a short constant.
        level: As in logging.
        exception: Its traceback goes into the line.
        **fields: Facts that JSON can hold; anything else is written as str.
    """
    _logger.log(level, event, exc_info=exception, extra={"fields": fields})


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, level, service, request_id, tenant, event and the fields given to `log`."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a line break."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "service": self._service,
            "event": record.getMessage(),
        }
        if request_id.get():
            line["request_id"] = request_id.get()
        if tenant.get():
            line["tenant"] = tenant.get()
        if trace_id := tracing.trace_id():
            line["trace_id"] = trace_id
        line.update(getattr(record, "fields", {"logger": record.name}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(service: str) -> None:
    """Send the log of this process, libraries' records too, to stderr as JSON lines. For programs only: libraries never call it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class CallContext(Protocol):
    """What a call is asked for its id and its deadline."""

    def invocation_metadata(self) -> Iterable[Any] | None:
        """Pairs of key and value."""

    def time_remaining(self) -> float | None:
        """Seconds to the deadline; None without one."""


@contextlib.contextmanager
def observe_call(service: str, method: str, context: CallContext, at_edge: bool = False) -> Iterator[None]:
    """Give the call its request id, time it, count it, log it once, and let only AcestepErrors and cancellation out.

    Args:
        service: Full name, as "acestep_rpc.v1.VaeService".
        method: As "DecodeLatents".
        context: The servicer context. A good id in its metadata is kept, otherwise one is drawn.
        at_edge: The call came over a network. If its tenant becomes known in the body, it is counted for it.
    Raises:
        Unimplemented: The body raised NotImplementedError, as the generated base classes do.
        StageError: The body raised something that is no AcestepError. Its message holds the request id and nothing else.
    """
    tenant_token = tenant.set(tenant.get())
    token = request_id.set(_given_request_id(context) or new_request_id())
    start = time.monotonic()
    code, level, cause = "OK", logging.INFO, None
    message: str | None = None
    span = contextlib.ExitStack()
    call = span.enter_context(tracing.call_span(service, method, context.invocation_metadata() or (), request_id.get()))
    try:
        try:
            yield
        except AcestepError as error:
            code, message = error.code.name, str(error)
            raise
        except NotImplementedError as error:
            unimplemented = Unimplemented(f"{service}/{method} is not built yet")
            code, message = unimplemented.code.name, str(unimplemented)
            raise unimplemented from error
        except (asyncio.CancelledError, GeneratorExit):
            remaining = context.time_remaining()
            code = "CANCELLED" if remaining is None or remaining > 0 else "DEADLINE_EXCEEDED"
            raise
        except Exception as error:
            code, message, level, cause = "INTERNAL", f"{type(error).__name__}: {error}", logging.ERROR, error
            raise StageError(f"internal error in request {request_id.get()}") from error
    finally:
        seconds = time.monotonic() - start
        REQUESTS.labels(service, method, code).inc()
        REQUEST_SECONDS.labels(service, method).observe(seconds)
        if at_edge and tenant.get():
            TENANT_REQUESTS.labels(tenant_label(), code).inc()
        problem = {} if message is None else {"error": message}
        log("request", level=level, exception=cause, method=f"{service}/{method}", code=code, seconds=round(seconds, 6), **problem)
        tracing.end_call(call, code, message)
        span.close()
        request_id.reset(token)
        tenant.reset(tenant_token)


def _given_request_id(context: CallContext) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and is_request_id(value):
            return value
    return ""
