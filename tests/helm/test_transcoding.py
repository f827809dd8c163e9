"""The public API as JSON over HTTP: a real Envoy with the configuration that the chart renders, in front of a real server."""

import io
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml

from acestep_rpc.v1 import adapter_pb2, lyrics_pb2, music_pb2
from tests.helm.chart import CHART, Manifest, of_kind, refused, render
from tests.integration.conftest import Server, adapters, checkpoint  # noqa: F401  # fixtures

ENVOY = Path(sys.executable).parent / "envoy"
SONG = {"prompt": {"tags": "funk"}, "sampling": {"infer_step": 2}, "text_to_music": {"duration_seconds": 1}}


def envoy_config(manifests: list[Manifest]) -> str:
    text: str = of_kind([one for one in manifests if one["kind"] == "ConfigMap"], "ConfigMap")["transcoding"]["data"]["envoy.yaml"]
    return text


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def server(checkpoint, tmp_path_factory) -> Iterator[Server]:  # noqa: F811
    folder = tmp_path_factory.mktemp("transcoding")
    running = Server("orchestrator", ["--embedded", "--checkpoint", str(checkpoint), "--threads", "1", "--data", str(folder)], folder)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def address(server: Server) -> Iterator[str]:
    folder, port = server.folder, free_port()
    values = {"transcoding.enabled": True, "transcoding.port": port, "orchestrator.ports.grpc": server.port}
    text = envoy_config(render("", values)).replace("/etc/envoy/api.binpb", str(CHART / "files" / "api.binpb"))
    (folder / "envoy.yaml").write_text(text.replace("song-acestep-orchestrator.music.svc", "127.0.0.1"))
    with open(folder / "envoy.log", "wb") as log:
        command = [str(ENVOY), "--config-path", str(folder / "envoy.yaml"), "--use-dynamic-base-id", "--log-level", "warning"]
        envoy = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz").close()
                break
            except OSError:
                assert envoy.poll() is None, (folder / "envoy.log").read_text()
                assert time.monotonic() < deadline, (folder / "envoy.log").read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        envoy.terminate()
        envoy.wait(timeout=30)


def call(url: str, body: dict[str, Any] | bytes | None = None, method: str | None = None, **headers: str) -> bytes:
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=120) as response:
        content: bytes = response.read()
        return content


def problem(url: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    with pytest.raises(urllib.error.HTTPError) as caught:
        call(url, body)
    return caught.value.code, json.load(caught.value)


def test_every_public_method_has_a_path() -> None:
    for module in (music_pb2, lyrics_pb2, adapter_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if method.name not in ("UploadAudio", "DownloadAudio"):  # UploadFile and DownloadFile over HTTP
                    assert "http" in str(method.GetOptions()), method.full_name


def test_a_song_streams_as_one_object_a_line(address: str) -> None:
    lines = [json.loads(line) for line in call(f"{address}/v1/songs:generate", SONG).splitlines()]
    assert [line["sequence"] for line in lines] == [str(number + 1) for number in range(len(lines))]
    assert "accepted" in lines[0]
    assert any("audio_chunk" in line for line in lines)
    assert lines[-1]["completed"]["songs"][0]["format"] == "AUDIO_FORMAT_WAV_PCM16"


def test_a_job_is_submitted_watched_and_its_file_downloaded(address: str) -> None:
    job = json.loads(call(f"{address}/v1/operations", {"generation": SONG | {"request_id": "http-song"}}))
    assert job["name"] == "operations/http-song"
    watched = call(f"{address}/v1/{job['name']}:watch?skip_audio=true").splitlines()
    assert "completed" in json.loads(watched[-1])["event"]
    assert json.loads(call(f"{address}/v1/{job['name']}"))["done"]
    assert job["name"] in str(json.loads(call(f"{address}/v1/operations")))
    request = urllib.request.Request(f"{address}/v1/{job['name']}/results/0:download")
    with urllib.request.urlopen(request) as response:
        assert response.headers["content-type"] == "audio/wav"
        song = response.read()
    samples, rate = soundfile.read(io.BytesIO(song))
    assert rate == 48000
    assert len(samples) > 40000
    assert call(f"{address}/v1/{job['name']}/results/0:download?offset=1000") == song[1000:]

    uploaded = json.loads(call(f"{address}/v1/assets", song))["audio"]
    assert call(f"{address}/v1/{uploaded['name']}:download") == song
    cover = SONG | {"audio_to_audio": {"source": {"asset": uploaded["name"]}}}
    del cover["text_to_music"]
    assert b"completed" in call(f"{address}/v1/songs:generate", cover)

    call(f"{address}/v1/{job['name']}", method="DELETE")
    assert problem(f"{address}/v1/{job['name']}")[0] == 404


def test_errors_are_json_with_their_details(address: str) -> None:
    code, body = problem(f"{address}/v1/songs:generate", {"prompt": {"tags": "funk"}, "text_to_music": {"duration_seconds": 1000}})
    assert code == 400
    (details,) = body["details"]
    assert details["field_violations"][0]["field"] == "text_to_music.duration_seconds"
    code, body = problem(f"{address}/v1/operations/nothing")
    assert (code, body["details"][0]["resource_type"]) == (404, "operation")
    with pytest.raises(urllib.error.HTTPError) as caught:  # JSON of another type is Envoy's affair, in plain words
        call(f"{address}/v1/songs:generate", {"text_to_music": {"duration_seconds": "long"}})
    assert (caught.value.code, b"text_to_music.duration_seconds" in caught.value.read()) == (400, True)


def test_other_services_are_there(address: str) -> None:
    assert json.loads(call(f"{address}/v1/capabilities"))["version"]
    assert json.loads(call(f"{address}/v1/lyrics:preview", {"lyrics": "[verse]\nhello"}))["token_count"] > 0
    assert json.loads(call(f"{address}/v1/adapters")) == {}
    assert json.loads(call(f"{address}/v1/songs:estimate", {"generation": SONG}))["device_time"]


def test_it_is_off_by_default_and_not_put_before_tls() -> None:
    assert "transcoding" not in {one["metadata"]["labels"]["app.kubernetes.io/component"] for one in render()}
    assert "tls.public" in refused(
        "", {"transcoding.enabled": True, "tls.public": {"enabled": True, "dnsNames": ["a.example"], "issuer": {"name": "x"}}}
    )


def test_the_service_leads_to_envoys_port() -> None:
    manifests = render("", {"transcoding.enabled": True, "transcoding.port": 8181})
    (service,) = (one for one in manifests if one["kind"] == "Service" and one["metadata"]["name"] == "song-acestep-transcoding")
    assert service["spec"]["ports"][0]["port"] == 8181
    listener = yaml.safe_load(envoy_config(manifests))["static_resources"]["listeners"][0]
    assert listener["address"]["socket_address"]["port_value"] == 8181
