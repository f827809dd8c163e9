import json
from html.parser import HTMLParser

from acestep_rpc.errors import InvalidRequest, Overloaded, QuotaExceeded
from acestep_rpc.v1 import music_pb2
from clients.web import views
from clients.web.library import Take
from orchestrator.limits import LIMITS
from tests.unit.clients.web.test_receipts import PAGE

LABELS = {field: field for field in PAGE}


class Reader(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: dict[str, dict[str, str | None]] = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found[tag] = dict(attrs)


def test_every_numeric_field_of_the_contract_has_a_control_for_its_errors():
    set_here = [
        field for field in LIMITS if not field.startswith("output.preview.")
    ]  # the page plays what is decoded, and asks for no estimates
    assert not [field for field in set_here if views.control_of(field, LABELS) is None]


def test_fields_that_servers_name_lead_to_their_controls():
    known = {
        "adapters[1].scale": "adapters.scale",
        "seeds[0]": "seeds",
        "repaint.regions[0].start_seconds": "repaint.regions[0].start_seconds",
        "repaint.regions": "repaint.regions[0].start_seconds",
        "prompt": "prompt.tags",
        "edit.target.negative_tags": "edit.target.tags",
        "repaint.source": "repaint.source",
        "request_id": None,
    }
    assert {field: views.control_of(field, LABELS) for field in known} == known


def test_errors_are_marked_at_their_controls_and_listed_by_label():
    error = InvalidRequest.from_violations([("sampling.infer_step", "0 is not allowed; allowed: 1 to 200"), ("nowhere", "<b>")])
    said, marks = views.failure(error, LABELS | {"sampling.infer_step": "Steps"})
    assert json.loads(Reader(marks).found["field-errors"]["errors"] or "") == [
        ["field-sampling-infer_step", "0 is not allowed; allowed: 1 to 200"]
    ]
    assert "Steps: 0 is not allowed" in said
    assert "<b>" not in said


def test_other_errors_say_when_to_try_again():
    assert "try again in 7 s" in views.failure(Overloaded("full", 7.0), {})[0]
    assert "quota" in views.failure(QuotaExceeded("requests_per_minute", "60 a minute"), {})[0]


def test_what_songs_say_of_themselves_is_escaped():
    song = music_pb2.Song(name="operations/x/results/0", seed=1, duration_seconds=2, sample_rate=48000)
    song.receipt.update({"prompt": '"><script>alert(1)</script>'})
    shown = views.player(Take(song.name, song, ""))
    assert "<script" not in shown
    assert Reader(shown).found["song-player"]["label"] == '"><script>alert(1)</script>'
