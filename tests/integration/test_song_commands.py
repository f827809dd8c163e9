"""Replay, batch and what looks at a server, as a shell runs them."""

import json
import os
import signal
import subprocess
import sys

import pytest

from clients.cli.main import main

SONG = ("--tags", "funk, bass, 105 bpm", "--lyrics", r"[verse]\nhello world", "--steps", "4", "--duration", "2", "--seed", "7")


@pytest.fixture
def acestep(song_server, capsys):
    def run(command, *argv):
        code = main([command, *map(str, argv), "--server", song_server.target])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.mark.parametrize(
    ("name", "audio_format"), [("a.wav", "wav24"), ("a.flac", "flac"), ("a.mp3", "mp3"), ("a.ogg", "ogg"), ("a.opus", "opus")]
)
def test_a_song_is_the_same_file_again(acestep, tmp_path, name, audio_format):
    song = tmp_path / name
    assert acestep("generate", *SONG, "--format", audio_format, "-o", song)[0] == 0
    assert acestep("replay", song, "--quiet") == (0, "the same file, byte for byte\n", "")


def test_what_differs_is_said(acestep, tmp_path):
    song = tmp_path / "song.wav"
    acestep("generate", *SONG, "-o", song)
    data = song.read_bytes()
    digest = json.loads((tmp_path / "song_input_params.json").read_text())["stages"]["diffusion"]["model_digest"]
    song.write_bytes(data.replace(digest.encode(), b"0" * 64))
    code, said, _ = acestep("replay", song)
    assert (code, said.splitlines()[0]) == (0, "the same samples; the file differs")
    assert f"stages.diffusion.model_digest: {'0' * 64} -> {digest}" in said
    song.write_bytes(data.replace(b'"actual_seeds":[7]', b'"actual_seeds":[8]'))
    code, said, _ = acestep("replay", song, "--json")
    answer = json.loads(said)
    assert (code, answer["same_file"], answer["same_audio"]) == (7, False, False)
    assert answer["signal_to_noise_db"] < 10
    assert "seed: 7 -> 8" in answer["reasons"]


def test_a_song_is_made_like_its_parameters_and_with_changes(acestep, tmp_path):
    song, again = tmp_path / "song.flac", tmp_path / "again.flac"
    acestep("generate", *SONG, "-o", song)
    assert acestep("generate", "--like", tmp_path / "song_input_params.json", "-o", again)[0] == 0
    assert again.read_bytes() == song.read_bytes()
    assert acestep("generate", "--like", song, "--seed", "8", "-o", again)[0] == 0
    receipt = json.loads((tmp_path / "again_input_params.json").read_text())
    assert (receipt["actual_seeds"], receipt["prompt"], receipt["infer_step"]) == ([8], "funk, bass, 105 bpm", 4)


def test_a_song_made_from_a_song_names_the_file_that_it_needs(acestep, tmp_path):
    song, mended = tmp_path / "song.wav", tmp_path / "mended.wav"
    acestep("generate", *SONG, "-o", song)
    acestep("repaint", "--from", song, "--region", "0.5:1", "--tags", "funk", "--steps", "4", "--seed", "1", "-o", mended)
    assert acestep("replay", mended)[:2] == (0, "the same file, byte for byte\n")
    source = json.loads((tmp_path / "mended_input_params.json").read_text())["src_audio_path"]
    mended.write_bytes(mended.read_bytes().replace(source.encode(), b"assets/" + b"0" * 64))
    code, _, errors = acestep("replay", mended)
    assert code == 1
    assert f"the file with SHA-256 {'0' * 64}: give it by --from" in errors
    code, _, errors = acestep("replay", mended, "--from", song)
    assert (code, "is another file" in errors) == (2, True)
    assert acestep("generate", "--like", mended, "--from", song, "-o", tmp_path / "again.wav")[0] == 0


def test_an_interrupted_batch_goes_on_where_it_stopped(song_server, acestep, tmp_path):
    rows = [{"id": f"song{seed}", "tags": "funk", "duration_seconds": 2, "infer_step": 4, "seeds": [seed]} for seed in range(4)]
    (tmp_path / "songs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    argv = ["batch", str(tmp_path / "songs.jsonl"), "--output-dir", str(tmp_path / "out"), "--concurrency", "1"]
    command = [sys.executable, "-m", "clients.cli.main", *argv, "--server", song_server.target]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        made = first.stdout.readline().strip()
        first.send_signal(signal.SIGINT)
        assert first.communicate(timeout=60)[1].endswith("acestep: interrupted\n")
        assert first.returncode == 130
    before = os.stat(made).st_mtime_ns
    code, output, errors = acestep(*argv, "--json")
    outcomes = [json.loads(line) for line in output.splitlines()]
    assert code == 0
    assert sorted(outcome["id"] for outcome in outcomes) == ["song0", "song1", "song2", "song3"]
    assert outcomes[0] == {"id": "song0", "status": "there", "paths": [made]}
    assert os.stat(made).st_mtime_ns == before
    assert "0 failed" in errors
    jobs = [json.loads(line) for line in acestep("jobs", "list", "--json")[1].splitlines()]
    ours = [job for job in jobs if job["name"].startswith("operations/batch-")]
    assert [job["metadata"]["attempt"] for job in ours] == [1, 1, 1, 1]


def test_a_batch_names_what_failed_and_makes_the_rest(acestep, tmp_path):
    lines = [{"id": "bad", "tags": "a", "infer_step": 0}, {"id": "good", "tags": "a", "duration_seconds": 2, "infer_step": 4}]
    (tmp_path / "songs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code, output, errors = acestep("batch", tmp_path / "songs.jsonl", "--output-dir", tmp_path)
    assert (code, output) == (7, f"{tmp_path / 'good.wav'}\n")
    assert "bad: sampling.infer_step: 0 is not allowed" in errors
    assert errors.endswith("1 made, 0 were there, 1 failed\n")


def test_a_server_is_described_and_examined(acestep, song_server, tmp_path):
    code, output, _ = acestep("capabilities")
    assert code == 0
    assert "sampling.infer_step                         1 to 200  default 60" in output
    answer = json.loads(acestep("capabilities", "--json")[1])
    assert [stage["stage"] for stage in answer["stages"]] == ["encoder", "diffusion", "vae"]
    code, output, _ = acestep("doctor", "--json", "--port", song_server.port, "--data", tmp_path)
    findings = {finding["what"]: finding for finding in json.loads(output)}
    assert code == 0, [finding for finding in findings.values() if finding["state"] == "wrong"]
    assert findings["device cpu"]["found"].startswith("float32")
    assert findings[f"port {song_server.port}"]["state"] == "attention"
    assert findings["stage vae"]["found"].startswith("cpu float32")
    code, output, _ = acestep("doctor", "--checkpoint", tmp_path / "none")
    assert code == 7
    assert f"-> acestep fetch-weights --output {tmp_path / 'none'}" in output
