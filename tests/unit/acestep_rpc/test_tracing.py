import json
import logging

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from acestep_rpc.channels import with_origin
from acestep_rpc.errors import InvalidRequest, StageError
from acestep_rpc.inprocess import InProcessContext
from acestep_rpc.telemetry import REQUEST_ID_KEY, JsonFormatter, observe_call
from acestep_rpc.tracing import annotate, configure_tracing, work_span
from tests.spans import recorded_spans

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def observed(*metadata: tuple[str, str], error: Exception | None = None) -> list[ReadableSpan]:
    with recorded_spans() as spans:
        try:
            with observe_call("acestep_rpc.v1.VaeService", "DecodeLatents", InProcessContext(None, metadata)):
                annotate(frames=7)
                if error is not None:
                    raise error
        except (InvalidRequest, StageError):
            pass
    return list(spans())


def test_a_call_is_a_span_under_that_of_its_caller() -> None:
    (span,) = observed(("traceparent", CALLER), (REQUEST_ID_KEY, "a"))
    assert span.name == "acestep_rpc.v1.VaeService/DecodeLatents"
    assert span.parent is not None
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == tuple(CALLER.split("-")[1:3])
    assert span.attributes is not None
    assert dict(span.attributes) == {
        "rpc.system": "grpc",
        "rpc.service": "acestep_rpc.v1.VaeService",
        "rpc.method": "DecodeLatents",
        "rpc.grpc.status_code": "OK",
        "acestep.request_id": "a",
        "acestep.frames": 7,
    }


@pytest.mark.parametrize("metadata", [(), (("traceparent", "nonsense"),), (("traceparent", CALLER[:-3]),)])
def test_a_call_that_names_no_span_begins_a_trace(metadata: tuple[tuple[str, str], ...]) -> None:
    (span,) = observed(*metadata)
    assert span.parent is None


@pytest.mark.parametrize(
    ("error", "code", "fault"),
    [
        (InvalidRequest("prompt.tags", "x", "y"), "INVALID_ARGUMENT", False),
        (StageError("broken"), "INTERNAL", True),
        (ValueError("a defect"), "INTERNAL", True),
    ],
)
def test_a_span_tells_our_faults_from_the_callers(error: Exception, code: str, fault: bool) -> None:
    (span,) = observed(error=error)
    assert span.attributes is not None
    assert span.attributes["rpc.grpc.status_code"] == code
    assert span.status.status_code == (StatusCode.ERROR if fault else StatusCode.UNSET)


def test_calls_out_of_a_span_carry_it_and_logs_name_its_trace() -> None:
    record = logging.LogRecord("acestep", logging.INFO, "", 0, "happened", (), None)
    with recorded_spans() as spans, work_span("job", request_id="a", attempt=2):
        (header,) = [value for key, value in with_origin((("x", "y"),)) if key == "traceparent"]
        line = json.loads(JsonFormatter("encoder").format(record))
    (span,) = spans()
    assert span.context is not None
    assert span.attributes is not None
    assert header.split("-")[1:3] == [f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"]
    assert line["trace_id"] == f"{span.context.trace_id:032x}"
    assert dict(span.attributes) == {"acestep.request_id": "a", "acestep.attempt": 2}


def test_nothing_is_carried_outside_of_spans() -> None:
    assert with_origin(None) == ()
    assert with_origin((("traceparent", CALLER),)) == (("traceparent", CALLER),)
    assert "trace_id" not in json.loads(JsonFormatter("encoder").format(logging.LogRecord("acestep", logging.INFO, "", 0, "x", (), None)))


def test_without_an_endpoint_nothing_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    configure_tracing("encoder")
    assert with_origin(None) == ()
