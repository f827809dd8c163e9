"""The annotation that tells Kubernetes whom to take first, against a server that speaks the two calls of its API."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest
from kubernetes import client

from orchestrator import deletion_cost
from orchestrator.deletion_cost import ANNOTATION, DeletionCosts, cost
from tests.json_answers import JsonAnswers


class Cluster(ThreadingHTTPServer):
    """A service with one endpoint a pod, and what was written on pods."""

    daemon_threads = True

    def __init__(self, *pods: str) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.pods = pods
        self.patches: list[tuple[str, str]] = []
        self.forbidden = False
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def api(self) -> client.ApiClient:
        return client.ApiClient(client.Configuration(host=f"http://127.0.0.1:{self.server_port}"))  # type: ignore[no-untyped-call]


class _Answer(JsonAnswers):
    server: Cluster

    def do_GET(self) -> None:
        assert self.path.startswith("/apis/discovery.k8s.io/v1/namespaces/music/endpointslices?")
        endpoints = [
            {"addresses": [f"10.0.0.{number}"], "targetRef": {"kind": "Pod", "name": pod}} for number, pod in enumerate(self.server.pods)
        ]
        self.answer(200, {"items": [{"addressType": "IPv4", "endpoints": endpoints}]})

    def do_PATCH(self) -> None:
        pod = self.path.partition("?")[0].removeprefix("/api/v1/namespaces/music/pods/")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.forbidden:
            self.answer(403, {"reason": "Forbidden"})
        elif pod == "gone":
            self.answer(404, {"reason": "NotFound"})
        else:
            assert list(body) == ["metadata"]
            self.server.patches.append((pod, body["metadata"]["annotations"][ANNOTATION]))
            self.answer(200, {"metadata": {"name": pod}})


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(deletion_cost, "INTERVAL_SECONDS", 0.01)
    server = Cluster("idle", "busy", "gone")
    yield server
    server.shutdown()
    server.server_close()


def test_a_cost_grows_with_the_magnitude_of_the_work() -> None:
    assert [cost(seconds) for seconds in (0, 0.2, 1, 2, 3, 60, 64, 3600)] == [0, 1, 2, 3, 3, 7, 8, 13]


async def test_each_pod_is_told_when_the_magnitude_of_its_work_changes(cluster: Cluster) -> None:
    loads = {"10.0.0.0:7": 0.0, "10.0.0.1:7": 60.0, "10.0.0.2:7": 5.0}
    costs = DeletionCosts({"encoder": "10.0.0.9:1", "diffusion": "k8s:///music/diffusion:7"}, lambda stage: loads, cluster.api)
    running = asyncio.create_task(costs.run())
    async with asyncio.timeout(20):
        while cluster.patches != [("busy", "7")]:
            await asyncio.sleep(0.01)
        loads["10.0.0.1:7"] = 59.0  # no other magnitude
        await asyncio.sleep(0.1)
        loads["10.0.0.1:7"] = 0.0
        while cluster.patches != [("busy", "7"), ("busy", "0")]:
            await asyncio.sleep(0.01)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_where_writing_is_forbidden_it_is_given_up(cluster: Cluster) -> None:
    cluster.forbidden = True
    costs = DeletionCosts({"diffusion": "k8s:///music/diffusion:7"}, lambda stage: {"10.0.0.0:7": 9.0}, cluster.api)
    async with asyncio.timeout(20):
        await costs.run()
    assert cluster.patches == []
