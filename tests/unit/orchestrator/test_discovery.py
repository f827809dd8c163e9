"""Lists, names, and a server that speaks the Kubernetes API's list and watch."""

import asyncio
import contextlib
import functools
import json
import socket
import threading
from collections.abc import AsyncGenerator, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from kubernetes import client

from acestep_rpc.settings import SettingsError
from orchestrator import discovery
from orchestrator.discovery import Endpoints, check_address, discover, endpoint_slices, resolved
from tests.json_answers import JsonAnswers


@pytest.mark.parametrize(
    "address", ["a:1", "a:1,b.c-d:65535", "[::1]:7,127.0.0.1:8", "dns:///encoder.music.svc:50051", "k8s:///music/encoder:50051"]
)
def test_addresses_are_taken(address: str) -> None:
    check_address("ACESTEP_ORCHESTRATOR_ENCODER", address)


@pytest.mark.parametrize(
    "address", ["a", "a:", "a:1,", "a:1 b:2", "dns://a:1", "dns:///a", "k8s:///encoder:1", "k8s:///a/b/c:1", "a:1,dns:///b:2", "http://a:1"]
)
def test_other_addresses_are_refused_with_the_forms(address: str) -> None:
    with pytest.raises(SettingsError, match=r"ACESTEP_ORCHESTRATOR_ENCODER .* is none of"):
        check_address("ACESTEP_ORCHESTRATOR_ENCODER", address)


async def take(found: AsyncGenerator[Endpoints]) -> Endpoints:
    async with asyncio.timeout(10):
        return await anext(found)


async def test_a_list_is_what_it_says() -> None:
    assert [found async for found in discover("a:1,b:2")] == [{"a:1": True, "b:2": True}]


async def test_all_addresses_of_a_name_and_their_changes() -> None:
    answers: list[Any] = [
        ["10.0.0.2", "10.0.0.1"],
        ["10.0.0.1", "10.0.0.2"],  # the same in another order is no news
        OSError("the resolver is away"),  # changes nothing
        ["10.0.0.1", "fd00::1"],
        socket.gaierror(socket.EAI_NONAME, "unknown"),
    ]

    async def resolve(name: str, port: int) -> list[str]:
        assert (name, port) == ("encoder", 7)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    found = resolved("encoder", 7, resolve, 0.0)
    assert await take(found) == {"10.0.0.1:7": True, "10.0.0.2:7": True}
    assert await take(found) == {"10.0.0.1:7": True, "[fd00::1]:7": True}
    assert await take(found) == {}
    await found.aclose()


async def test_a_name_is_asked_for_sooner_when_a_replica_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "AGAIN_SECONDS", 0.01)
    addresses, again = ["10.0.0.1"], asyncio.Event()

    async def resolve(name: str, port: int) -> list[str]:
        return list(addresses)

    found = resolved("encoder", 7, resolve, 3600.0, again)
    assert await take(found) == {"10.0.0.1:7": True}
    addresses[:] = ["10.0.0.2"]
    again.set()
    assert await take(found) == {"10.0.0.2:7": True}
    await found.aclose()


def test_a_service_without_a_cluster_stops_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(discovery.config, "load_kube_config", functools.partial(discovery.config.load_kube_config, str(tmp_path / "none")))
    with pytest.raises(SettingsError, match="k8s:/// needs a cluster"):
        discover("k8s:///music/encoder:7")


async def test_the_systems_resolver_is_asked() -> None:
    found = discover("dns:///localhost:7")
    assert "127.0.0.1:7" in await take(found)
    await found.aclose()


def slice_of(name: str, *endpoints: tuple[str, bool | None, bool]) -> dict[str, Any]:
    """An EndpointSlice; of each endpoint the address, ready and terminating."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "resourceVersion": "7"},
        "addressType": "IPv4",
        "ports": [{"port": 50051}],
        "endpoints": [
            {"addresses": [address], "conditions": {"ready": ready, "serving": True, "terminating": terminating}}
            for address, ready, terminating in endpoints
        ],
    }


class Cluster(ThreadingHTTPServer):
    """Answers lists from `slices` and watches with `events`; a status in `refusals` comes first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.slices: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.refusals: list[int] = []
        self.lists = 0
        self.more = threading.Condition()

    def api(self) -> client.DiscoveryV1Api:
        configuration = client.Configuration()
        configuration.host = f"http://127.0.0.1:{self.server_port}"
        return client.DiscoveryV1Api(client.ApiClient(configuration))

    def send(self, kind: str, content: dict[str, Any]) -> None:
        with self.more:
            self.events.append({"type": kind, "object": content})
            self.more.notify_all()


class _Answer(JsonAnswers):
    server: Cluster

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        assert parts.path == "/apis/discovery.k8s.io/v1/namespaces/music/endpointslices"
        assert query["labelSelector"] == ["kubernetes.io/service-name=encoder"]
        if self.server.refusals:
            status = self.server.refusals.pop(0)
            self.answer(status, {"kind": "Status", "status": "Failure", "code": status})
            return
        if "watch" not in query:
            self.server.lists += 1
            content = {"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "metadata": {"resourceVersion": "7"}}
            self.answer(200, content | {"items": self.server.slices})
            return
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        assert query["resourceVersion"] == ["7"]
        while True:
            with self.server.more:
                self.server.more.wait_for(lambda: self.server.events)
                event = self.server.events.pop(0)
            with contextlib.suppress(ConnectionError):
                if event["type"] == "BREAK":
                    self.wfile.write(b"0\r\n\r\n")
                    return
                self._chunk(event)

    def _chunk(self, event: dict[str, Any]) -> None:
        line = json.dumps(event).encode() + b"\n"
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(discovery, "_FIRST_RETRY_SECONDS", 0.01)
    server = Cluster()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.send("BREAK", {})
    server.shutdown()
    server.server_close()
    thread.join()


async def test_endpoints_come_drain_and_go(cluster: Cluster) -> None:
    cluster.slices = [slice_of("one", ("10.0.0.1", True, False), ("10.0.0.9", False, False))]
    found = endpoint_slices("music", "encoder", 7, cluster.api())
    assert await take(found) == {"10.0.0.1:7": True}  # one that is not ready is none yet
    cluster.send("ADDED", slice_of("two", ("10.0.0.2", None, False)))
    assert await take(found) == {"10.0.0.1:7": True, "10.0.0.2:7": True}
    cluster.send("MODIFIED", slice_of("one", ("10.0.0.1", False, True)))
    assert await take(found) == {"10.0.0.1:7": False, "10.0.0.2:7": True}
    cluster.send("DELETED", slice_of("one"))
    assert await take(found) == {"10.0.0.2:7": True}
    await found.aclose()


async def test_a_watch_that_breaks_or_is_too_old_begins_with_a_new_list(cluster: Cluster) -> None:
    cluster.slices = [slice_of("one", ("10.0.0.1", True, False))]
    found = endpoint_slices("music", "encoder", 7, cluster.api())
    assert await take(found) == {"10.0.0.1:7": True}
    cluster.slices = [slice_of("one", ("10.0.0.2", True, False))]
    cluster.send("BREAK", {})
    assert await take(found) == {"10.0.0.2:7": True}
    cluster.slices = [slice_of("one", ("10.0.0.3", True, False))]
    cluster.send("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"})
    assert await take(found) == {"10.0.0.3:7": True}
    assert cluster.lists == 3
    await found.aclose()


async def test_a_server_that_fails_is_asked_again(cluster: Cluster) -> None:
    cluster.refusals = [500, 503]
    cluster.slices = [slice_of("one", ("10.0.0.1", True, False))]
    found = endpoint_slices("music", "encoder", 7, cluster.api())
    assert await take(found) == {"10.0.0.1:7": True}
    await found.aclose()


@pytest.mark.parametrize("status", [403, 404])
async def test_where_reading_is_forbidden_or_not_served_the_name_is_looked_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    asked: list[str] = []

    async def addresses(name: str, port: int, again: asyncio.Event | None) -> AsyncGenerator[Endpoints]:
        asked.append(f"{name}:{port}")
        yield {"10.0.0.1:7": True}

    monkeypatch.setattr(discovery, "resolved", addresses)
    cluster.refusals = [status]
    found = endpoint_slices("music", "encoder", 7, cluster.api())
    assert await take(found) == {"10.0.0.1:7": True}
    assert asked == ["encoder.music.svc:7"]
    await found.aclose()


@pytest.mark.parametrize("status", [403, 404])
async def test_a_refusal_after_an_answer_has_to_last(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    async def addresses(name: str, port: int, again: asyncio.Event | None) -> AsyncGenerator[Endpoints]:
        yield {"10.0.0.7:7": True}

    monkeypatch.setattr(discovery, "resolved", addresses)
    found = endpoint_slices("music", "encoder", 7, cluster.api())
    assert await take(found) == {}
    cluster.slices = [slice_of("one", ("10.0.0.1", True, False))]
    cluster.refusals = [status, status]  # as of an API server that starts
    cluster.send("BREAK", {})
    assert await take(found) == {"10.0.0.1:7": True}
    monkeypatch.setattr(discovery, "_REFUSED_SECONDS", 0.0)
    cluster.refusals = [status, status]
    cluster.send("BREAK", {})
    assert await take(found) == {"10.0.0.7:7": True}
    await found.aclose()
