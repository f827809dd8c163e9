"""What tests of the client ask for."""

from acestep_client import GenerateRequest, song_request

LONG = {"duration_seconds": 240.0, "infer_step": 200}


def short_song(**fields) -> GenerateRequest:
    """Two seconds in four steps."""
    fields = {"duration_seconds": 2.0, "infer_step": 4, "seeds": [7]} | fields
    return song_request("funk, bass, 105 bpm", "[verse]\nhello world\nwe sing", **fields)


def is_idle(estimate) -> bool:
    """Nothing is under way, says what a request would wait for."""
    return estimate.queue_time.ToMilliseconds() == 0
