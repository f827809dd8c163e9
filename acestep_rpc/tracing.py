"""Traces across the services, with OpenTelemetry: a span for each call and each attempt at a job, its context in the metadata (W3C).

Off until `configure_tracing` finds an endpoint; then every span costs nothing.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_CALLERS_DOING = (
    "OK",
    "CANCELLED",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "FAILED_PRECONDITION",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
)

_tracer = trace.get_tracer("acestep_rpc")


def configure_tracing(service: str) -> None:
    """Send the spans of this process to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names; not set: send none.

    All other variables (OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS, OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME and so on) mean what
    OpenTelemetry's specification says. For programs only: libraries never call it.

    Args:
        service: Name of the service, as "encoder"; the traces call it "acestep-encoder".
    Raises:
        ValueError: An endpoint is set, and the packages of the extra "tracing" are missing.
    """
    endpoint = next((name for name in _ENDPOINTS if os.environ.get(name)), None)
    if endpoint is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ValueError(f"{endpoint} is set, but the extra 'tracing' is not installed") from error
    name = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": f"acestep-{service}"}
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)  # which sends what it still has when the process ends


@contextlib.contextmanager
def call_span(service: str, method: str, metadata: Iterable[Any], request_id: str) -> Iterator[Span]:
    """The span of a call that is served here, under the caller's span where the metadata name one.

    Args:
        service: Full name, as "acestep_rpc.v1.VaeService".
        method: As "DecodeLatents".
        metadata: Pairs of key and value.
        request_id: Of the request that the call belongs to.
    """
    parent = propagate.extract({key: value for key, value in metadata if isinstance(value, str)})
    facts = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method, "acestep.request_id": request_id}
    with _tracer.start_as_current_span(
        f"{service}/{method}", parent, SpanKind.SERVER, facts, record_exception=False, set_status_on_exception=False
    ) as span:
        yield span


def end_call(span: Span, code: str, message: str | None) -> None:
    """Say how a call ended.

    Args:
        span: From `call_span`.
        code: Name of its status code.
        message: What was wrong.
    """
    span.set_attribute("rpc.grpc.status_code", code)
    if code not in _CALLERS_DOING:
        span.set_status(Status(StatusCode.ERROR, message))


@contextlib.contextmanager
def work_span(name: str, **facts: str | int | float) -> Iterator[None]:
    """A span for work that no call waits for."""
    with _tracer.start_as_current_span(name, attributes=_named(facts)):
        yield


def annotate(**facts: str | int | float) -> None:
    """Facts about the work of the running span, under names that begin with "acestep."."""
    trace.get_current_span().set_attributes(_named(facts))


def carried() -> dict[str, str]:
    """Metadata that let a call's span find the running one; empty outside of spans that are sent."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


def trace_id() -> str:
    """Hexadecimal id of the running trace; empty outside of one."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""


def _named(facts: dict[str, str | int | float]) -> dict[str, str | int | float]:
    return {f"acestep.{name}": value for name, value in facts.items()}
