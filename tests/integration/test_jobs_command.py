"""The commands of jobs, as a shell runs them."""

import asyncio
import json
import sys

import pytest

from tests.integration.requests import generate, song_request


@pytest.fixture
def acestep(system, tmp_path):
    async def run(*argv):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "clients.cli.main", *argv, "--server", system.front.target),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await asyncio.wait_for(process.communicate(), 120)
        return process.returncode, output.decode(), errors.decode()

    return run


async def test_a_song_is_submitted_watched_listed_shown_and_deleted(music, acestep, tmp_path):
    song = ("--tags", "funk, bass, 105 bpm", "--lyrics", r"[verse]\nhello world\nwe sing", "--steps", "4", "--duration", "2", "--seed", "7")
    code, name, _ = await acestep("submit", *song, "--format", "flac", "--request-id", "from-a-shell")
    assert (code, name) == (0, "operations/from-a-shell\n")
    assert await acestep("submit", *song, "--format", "flac", "--request-id", "from-a-shell") == (0, name, "")
    code, output, errors = await acestep("jobs", "watch", "from-a-shell", "-o", str(tmp_path / "song.flac"))
    assert (code, output) == (0, f"{tmp_path / 'song.flac'}\n")
    assert "4/4" in errors
    request = song_request()
    request.output.format = 4
    assert (tmp_path / "song.flac").read_bytes() == (await generate(music, request)).file()
    assert json.loads((tmp_path / "song_input_params.json").read_text())["actual_seeds"] == [7]
    assert await acestep("jobs", "wait", "operations/from-a-shell") == (0, "operations/from-a-shell/results/0\n", "")
    code, output, _ = await acestep("jobs", "list", "--filter", "state = succeeded")
    assert ["operations/from-a-shell", "succeeded"] in [line.split("\t")[:2] for line in output.splitlines()]
    code, output, _ = await acestep("jobs", "show", "from-a-shell")
    assert json.loads(output)["response"]["songs"][0]["format"] == "AUDIO_FORMAT_FLAC"
    assert await acestep("jobs", "delete", "from-a-shell") == (0, "", "")
    code, _, errors = await acestep("jobs", "show", "from-a-shell")
    assert (code, errors) == (1, "acestep: no operation is named 'operations/from-a-shell'\n")


async def test_a_job_that_does_not_end_in_time_is_a_deadline_and_one_that_is_cancelled_a_failure(acestep):
    _, name, _ = await acestep("submit", "--tags", "funk", "--duration", "240", "--steps", "200")
    code, _, errors = await acestep("jobs", "wait", name.strip(), "--timeout", "0.2")
    assert (code, "has not ended" in errors) == (5, True)
    assert (await acestep("jobs", "cancel", name.strip()))[0] == 0
    code, _, errors = await acestep("jobs", "wait", name.strip())
    assert (code, errors) == (1, "acestep: the operation was cancelled\n")


@pytest.mark.parametrize(
    ("argv", "flag"),
    [
        (("submit", "--tags", "funk", "--steps", "300"), "--steps"),
        (("submit", "--tags", "funk", "--webhook-url", "http://localhost/"), "webhook_url"),
        (("jobs", "list", "--filter", "state = x"), "filter"),
    ],
)
async def test_what_is_refused_is_named(acestep, argv, flag):
    code, _, errors = await acestep(*argv)
    assert code == 2
    assert flag in errors
