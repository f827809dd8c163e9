"""What tests of the client ask for, and of whom."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

from acestep_client import GenerateRequest, song_request
from tests.integration.conftest import Server

LONG = {"duration_seconds": 240.0, "infer_step": 200}


def short_song(**fields) -> GenerateRequest:
    """Two seconds in four steps."""
    fields = {"duration_seconds": 2.0, "infer_step": 4, "seeds": [7]} | fields
    return song_request("funk, bass, 105 bpm", "[verse]\nhello world\nwe sing", **fields)


@contextlib.contextmanager
def serving(checkpoint: Path, folder: Path, *arguments: str, **settings: str) -> Iterator[Server]:
    """One process with a data folder, whose jobs are taken up two seconds after it was killed."""
    own = [
        "--embedded",
        "--checkpoint",
        str(checkpoint),
        "--dtype",
        "float32",
        "--threads",
        "1",
        "--data",
        str(folder / "data"),
        *arguments,
    ]
    environment = {f"ACESTEP_ORCHESTRATOR_{name.upper()}": value for name, value in ({"job_lease_seconds": "2"} | settings).items()}
    one = Server("orchestrator", own, folder, environment=environment)
    one.start()
    try:
        yield one
    finally:
        one.stop(signal.SIGKILL)
