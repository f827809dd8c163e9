import asyncio
import json
import logging
from typing import Any

import pytest
from prometheus_client import REGISTRY

from acestep_rpc import errors
from acestep_rpc.inprocess import InProcessContext
from acestep_rpc.telemetry import JsonFormatter, log, observe_call, request_id


def line_of(record: logging.LogRecord) -> dict[str, Any]:
    text = JsonFormatter("vae").format(record)
    assert "\n" not in text
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def count(method: str, code: str) -> float:
    labels = {"service": "S", "method": method, "code": code}
    return REGISTRY.get_sample_value("acestep_requests_total", labels) or 0.0


def test_a_log_line_is_json_with_its_fields_and_the_request_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    token = request_id.set("song-1")
    log("weights_loaded", stage="vae", path=object, text="línea\nzwei")
    line = line_of(caplog.records[0])
    request_id.reset(token)
    assert line["event"] == "weights_loaded"
    assert line["service"] == "vae"
    assert line["level"] == "info"
    assert line["request_id"] == "song-1"
    assert line["text"] == "línea\nzwei"


def test_a_log_line_outside_of_a_request_has_no_request_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log("started")
    assert "request_id" not in line_of(caplog.records[0])


def test_records_of_libraries_become_json_too(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("some.library").warning("tick %d", 3)
    line = line_of(caplog.records[0])
    assert (line["event"], line["logger"], line["level"]) == ("tick 3", "some.library", "warning")


@pytest.mark.parametrize(
    ("raised", "expected", "code"),
    [
        (errors.NotFound("adapter", "x"), errors.NotFound, "NOT_FOUND"),
        (NotImplementedError(), errors.Unimplemented, "UNIMPLEMENTED"),
        (ValueError("secret"), errors.StageError, "INTERNAL"),
        (asyncio.CancelledError(), asyncio.CancelledError, "CANCELLED"),
    ],
)
def test_a_call_is_counted_under_its_code_and_logged_once(
    raised: BaseException, expected: type[BaseException], code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = count("M", code)
    with pytest.raises(expected), observe_call("S", "M", InProcessContext(None, ())):
        raise raised
    assert count("M", code) == before + 1
    (record,) = caplog.records
    assert line_of(record)["code"] == code


def test_a_call_that_ends_well_is_counted_and_timed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with observe_call("S", "Good", InProcessContext(None, (("x-request-id", "r1"),))):
        assert request_id.get() == "r1"
    assert request_id.get() == ""
    assert count("Good", "OK") == 1
    assert REGISTRY.get_sample_value("acestep_request_seconds_count", {"service": "S", "method": "Good"}) == 1
    assert caplog.records[0].__dict__["fields"]["code"] == "OK"


def test_a_call_cancelled_by_its_deadline_is_counted_as_deadline_exceeded() -> None:
    with pytest.raises(asyncio.CancelledError), observe_call("S", "Late", InProcessContext(0.0, ())):
        raise asyncio.CancelledError
    assert count("Late", "DEADLINE_EXCEEDED") == 1


def test_an_unexpected_error_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(errors.StageError), observe_call("S", "Broken", InProcessContext(None, ())):
        raise ValueError("the detail")
    line = line_of(caplog.records[0])
    assert line["level"] == "error"
    assert "the detail" in line["traceback"]
