"""The README's songs, made as it says: each command that calls a server is run against one, in order."""

import subprocess
import sys

import pytest

from tests.docs.commands import ROOT, documented_commands
from tests.integration.conftest import Server, adapters, checkpoint  # noqa: F401  # fixtures

CALLS = [command for command in documented_commands(ROOT / "README.md") if command.program == "acestep" and "--server" in command.words]
SHORTER = {"--duration": "3", "--right": "2", "--region": "1:2.5"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    (folder / "song.txt").write_text("[verse]\nhello world\n")
    return folder


@pytest.fixture(scope="module")
def server(checkpoint, folder):  # noqa: F811
    running = Server("orchestrator", ["--embedded", "--checkpoint", str(checkpoint), "--threads", "1", "--data", str(folder)], folder)
    running.start()
    yield running
    running.stop()


def test_every_way_to_a_song_is_there():
    assert {"generate", "submit", "jobs", "retake", "repaint", "extend", "edit", "cover"} <= {command.words[1] for command in CALLS}


@pytest.mark.parametrize("command", CALLS, ids=lambda command: " ".join(command.words[1:3]))
def test_command_runs(command, server, folder):
    words = list(command.words[1:])
    words[words.index("--server") + 1] = server.target
    for flag, value in SHORTER.items():
        if flag in words:
            words[words.index(flag) + 1] = value
    ran = subprocess.run([sys.executable, "-m", "clients.cli.main", *words], capture_output=True, text=True, cwd=folder, check=False)
    assert ran.returncode == 0, ran.stderr
    if "-o" in words:
        stem, _, ending = words[words.index("-o") + 1].partition(".")
        assert list(folder.glob(f"{stem}*.{ending}"))
