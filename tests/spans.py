"""Spans of this process, kept instead of sent."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from acestep_rpc import tracing


@contextlib.contextmanager
def recorded_spans() -> Iterator[Callable[[], Sequence[ReadableSpan]]]:
    """Record the spans of the block; the value gives those that have ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    before: trace.Tracer = tracing._tracer
    tracing._tracer = provider.get_tracer("acestep_rpc")
    try:
        yield exporter.get_finished_spans
    finally:
        tracing._tracer = before
        provider.shutdown()
