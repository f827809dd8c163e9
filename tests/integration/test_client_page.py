"""What docs/client.md and examples/ show, run against a server."""

import hashlib
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from acestep_client import Client, song_request

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "client.md").read_text()
ADDRESS = "localhost:7860"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_every_python_block_runs_in_the_order_of_the_page(song_server, tmp_path):
    """In one process: a block may use files that an earlier one wrote."""
    script = "\n".join(f"if True:\n{re.sub('^', '    ', block, flags=re.MULTILINE)}" for block in blocks("python"))
    (tmp_path / "page.py").write_text(script.replace(ADDRESS, song_server.target))
    ran = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("song.wav 7 ")
    assert [line for line in lines if line.startswith("[('sampling.infer_step', ")]
    assert lines[-1] == "True"
    assert {path.name for path in tmp_path.iterdir()} >= {"song.wav", "mended.wav", "jazz.flac", "jazz_input_params.json"}


def test_buf_calls_a_server_without_generated_code(song_server):
    calls = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("buf ")]
    assert len(calls) == 2
    buf = Path(sysconfig.get_path("scripts")) / "buf"
    for call in calls:
        command = call.replace(ADDRESS, song_server.target).replace("buf ", f"{buf} ", 1)
        answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout.startswith("{")


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_a_song_comes_to_node(song_server, tmp_path):
    example = shutil.copytree(ROOT / "examples" / "typescript", tmp_path / "typescript")
    installed = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund"], cwd=example, capture_output=True, text=True, timeout=300, check=False
    )
    if installed.returncode:
        pytest.skip(f"npm finds no registry: {installed.stderr[-300:]}")
    command = ["npm", "run", "--silent", "song", "--", song_server.target, "song.wav", str(ROOT / "protos" / "released.binpb")]
    ran = subprocess.run(command, cwd=example, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    song = (example / "song.wav").read_bytes()
    assert hashlib.sha256(song).hexdigest() == ran.stdout.strip()
    assert "STAGE_SAMPLE 8/8" in ran.stderr
    with Client(song_server.target) as client:
        request = song_request("funk, bass, 105 bpm", "[verse]\nhello world", duration_seconds=2, infer_step=8, seeds=[7])
        assert client.generate(request).song.read() == song
