import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from clients.cli import fetch_weights
from clients.cli.failures import CommandFailed, ExitCode
from clients.cli.main import main

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/some-model"
VOCABULARY = b'{\n "model": {}\n}'
MIB = 1024**2
WEIGHTS = bytes(range(256)) * 2048  # 512 KiB


def _files() -> dict[str, bytes]:
    files = {f"{folder}/config.json": json.dumps({"folder": folder}).encode() for folder in fetch_weights.FOLDERS}
    files |= {f"{folder}/diffusion_pytorch_model.safetensors": folder.encode() + WEIGHTS for folder in fetch_weights.FOLDERS}
    files["umt5-base/tokenizer.json"] = b'{"version": "1.0"}'
    files["umt5-base/spiece.model"] = b"\x00sentencepiece"
    for forbidden in (
        "umt5-base/pytorch_model.bin",
        "music_vocoder/vocoder.pt",
        "ace_step_transformer/evil.pkl",
        "README.md",
        "other/config.json",
    ):
        files[forbidden] = b"never fetched"
    return files


class Hub(ThreadingHTTPServer):
    """As much of the hub's protocol as a download needs: model info with digests, resolve with ranges, large files behind a redirect."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.files = _files()
        self.served = dict(self.files)
        self.vocabulary = VOCABULARY
        self.stall_after: dict[str, int] = {}
        self.go_on = threading.Event()
        self.log: list[tuple[str, str | None]] = []

    def downloads(self) -> list[str]:
        return [path.split("/", 3)[3] for path, _ in self.log if path.startswith("/lfs/") or path.startswith("/raw/")]


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        hub = self.server
        hub.log.append((path, self.headers.get("Range")))
        if path == "/vocab.json":
            self._send(hub.vocabulary)
        elif match := re.fullmatch(rf"/api/models/{REPOSITORY}/revision/([^/]+)", path):
            if match[1] not in (COMMIT, "main"):
                self._send(b'{"error": "Invalid rev id"}', 404, {"X-Error-Code": "RevisionNotFound"})
            else:
                assert parse_qs(urlsplit(self.path).query)["blobs"][0].lower() == "true"
                self._send(json.dumps(self._info()).encode())
        elif match := re.fullmatch(rf"/{REPOSITORY}/resolve/{COMMIT}/(.+)", path):
            name = match[1]
            store = "lfs" if name.endswith(".safetensors") else "raw"
            headers = {"Location": f"{hub.url}/{store}/{COMMIT}/{name}", "X-Repo-Commit": COMMIT}
            if store == "lfs":
                headers |= {"X-Linked-Size": str(len(hub.files[name])), "X-Linked-Etag": hashlib.sha256(hub.files[name]).hexdigest()}
            self._send(b"", 302, headers)
        elif match := re.fullmatch(rf"/(?:lfs|raw)/{COMMIT}/(.+)", path):
            self._send_file(match[1])
        else:
            self._send(b"not found", 404)

    def _info(self) -> dict[str, object]:
        siblings = []
        for name, data in self.server.files.items():
            sibling = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
            if name.endswith(".safetensors"):
                sibling["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            siblings.append(sibling)
        return {
            "id": REPOSITORY,
            "modelId": REPOSITORY,
            "sha": COMMIT,
            "siblings": siblings,
            "tags": [],
            "private": False,
            "downloads": 0,
            "likes": 0,
        }

    def _send_file(self, name: str) -> None:
        data = self.server.served[name]
        status, headers = 200, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        if wanted := self.headers.get("Range"):
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            status, data = 206, data[start:]
        if name in self.server.stall_after:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: self.server.stall_after[name]])
            self.wfile.flush()
            self.server.go_on.wait()
            self.close_connection = True
            return
        self._send(data, status, headers)

    def _send(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(fetch_weights, "LYRIC_VOCABULARY_SHA256", hashlib.sha256(VOCABULARY).hexdigest())
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _fetch(hub: Hub, folder: Path, *more: str) -> int:
    # fmt: off
    return main([
        "fetch-weights", "--output", str(folder), "--repo", REPOSITORY, "--revision", COMMIT, "--endpoint", hub.url,
        "--lyric-vocab-url", f"{hub.url}/vocab.json", *more,
    ])
    # fmt: on


def _wanted(hub: Hub) -> dict[str, bytes]:
    return {name: data for name, data in hub.files.items() if data != b"never fetched"}


def test_official_layout_is_downloaded_whole_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    assert _fetch(hub, tmp_path) == ExitCode.OK
    expected = _wanted(hub) | {"lyric_vocab.json": VOCABULARY}
    found = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    manifest = json.loads(found.pop("manifest.json"))
    assert found == expected
    assert manifest == {
        "repository": REPOSITORY,
        "revision": COMMIT,
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in expected.items()},
    }


def test_pickles_and_foreign_files_are_never_asked_for(hub: Hub, tmp_path: Path) -> None:
    _fetch(hub, tmp_path)
    assert sorted(hub.downloads()) == sorted(_wanted(hub))


def test_a_branch_is_resolved_to_its_commit_before_anything_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    assert _fetch(hub, tmp_path, "--revision", "main") == ExitCode.OK
    assert json.loads((tmp_path / "manifest.json").read_text())["revision"] == COMMIT
    assert not any("/resolve/main/" in path for path, _ in hub.log)


def test_second_run_downloads_nothing(hub: Hub, tmp_path: Path) -> None:
    _fetch(hub, tmp_path)
    hub.log.clear()
    assert _fetch(hub, tmp_path) == ExitCode.OK
    assert hub.downloads() == []


def test_interrupted_download_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    name = "music_vocoder/diffusion_pytorch_model.safetensors"
    code = "import sys; from clients.cli.fetch_weights import fetch; import pathlib; fetch(pathlib.Path(sys.argv[1]), *sys.argv[2:])"
    hub.files[name] = hub.served[name] = bytes(24 * MIB)
    hub.stall_after[name] = 12 * MIB
    arguments = [str(tmp_path), REPOSITORY, COMMIT, hub.url, f"{hub.url}/vocab.json"]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments])
    # The hub's library writes 10 MiB at a time.
    while not (partial := next(tmp_path.glob("music_vocoder/.*.part"), None)) or partial.stat().st_size < 10 * MIB:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    hub.go_on.set()
    received = partial.stat().st_size
    assert not (tmp_path / name).exists()

    hub.stall_after.clear()
    hub.log.clear()
    assert _fetch(hub, tmp_path) == ExitCode.OK
    assert (f"/lfs/{COMMIT}/{name}", f"bytes={received}-") in hub.log
    assert (tmp_path / name).read_bytes() == hub.files[name]
    assert not list(tmp_path.rglob("*.part"))
    assert hub.downloads().count("ace_step_transformer/config.json") == 0


@pytest.mark.parametrize("name", ["music_vocoder/diffusion_pytorch_model.safetensors", "umt5-base/config.json"])
def test_corrupted_content_is_removed_and_named(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    hub.served[name] = hub.files[name][:-1] + b"!"
    assert _fetch(hub, tmp_path) == ExitCode.FAILED
    errors = capsys.readouterr().err
    assert name in errors
    assert "the hub states" in errors
    assert not (tmp_path / name).exists()
    assert not (tmp_path / "manifest.json").exists()
    assert not list(tmp_path.rglob("*.part"))

    hub.served[name] = hub.files[name]
    assert _fetch(hub, tmp_path) == ExitCode.OK


def test_wrong_lyric_vocabulary_is_refused(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.vocabulary = b"{}"
    assert _fetch(hub, tmp_path) == ExitCode.FAILED
    assert "SHA-256 of the lyric vocabulary" in capsys.readouterr().err
    assert not (tmp_path / "lyric_vocab.json").exists()


def test_lyric_vocabulary_with_windows_line_ends_is_the_same_vocabulary(hub: Hub, tmp_path: Path) -> None:
    hub.vocabulary = VOCABULARY.replace(b"\n", b"\r\n")
    assert _fetch(hub, tmp_path) == ExitCode.OK
    assert (tmp_path / "lyric_vocab.json").read_bytes() == VOCABULARY


def test_repository_of_another_layout_is_refused_before_downloading(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del hub.files["music_dcae_f8c8/diffusion_pytorch_model.safetensors"]
    assert _fetch(hub, tmp_path) == ExitCode.FAILED
    assert "music_dcae_f8c8/ lacks config.json or safetensors" in capsys.readouterr().err
    assert hub.downloads() == []


def test_unknown_revision_and_unreachable_hub_are_plain_failures(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _fetch(hub, tmp_path, "--revision", "nonsense") == ExitCode.FAILED
    assert _fetch(hub, tmp_path, "--endpoint", "http://127.0.0.1:1") == ExitCode.FAILED
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith(f"acestep: {REPOSITORY} at nonsense: ")
    assert "Traceback" not in "".join(errors)


def test_verify_needs_no_network_and_names_what_differs(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _fetch(hub, tmp_path)
    hub.log.clear()
    assert _fetch(hub, tmp_path, "--verify") == ExitCode.OK
    (tmp_path / "umt5-base/spiece.model").write_bytes(b"changed")
    (tmp_path / "music_vocoder/config.json").unlink()
    assert _fetch(hub, tmp_path, "--verify") == ExitCode.FAILED
    errors = capsys.readouterr().err
    assert "spiece.model: SHA-256 is" in errors
    assert "music_vocoder/config.json: missing" in errors
    assert hub.log == []


def test_verify_of_a_folder_without_manifest_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="does not exist") as failure:
        fetch_weights.verify(tmp_path)
    assert failure.value.exit_code == ExitCode.USAGE


def test_default_revision_is_a_commit() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", fetch_weights.REVISION)
