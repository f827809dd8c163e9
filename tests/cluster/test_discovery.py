"""EndpointSlices of a real API server, read with the chart's own service account."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from kubernetes import client, config

from orchestrator import discovery
from orchestrator.discovery import Endpoints, endpoint_slices
from tests.cluster.control_plane import ControlPlane
from tests.cluster.release import CHART, WAITING, Release, values

pytestmark = pytest.mark.cluster
_READY = {"containers": [{"name": "one", "image": WAITING}]}


@pytest.fixture(scope="module")
def release(cluster: ControlPlane, agent: Any, checkpoint: Any) -> Any:
    """Everything of the chart but processes: accounts, roles, services, and deployments whose image is not there."""
    installed = Release(cluster, agent, "found", values(checkpoint))
    installed.helm(
        "install", installed.name, str(CHART), "--create-namespace", "--values", installed.values_file({"image": {"tag": "missing"}})
    )
    yield installed
    installed.core.delete_collection_namespaced_pod(installed.namespace)  # those of a test that failed
    installed.uninstall()


def account(release: Release, name: str) -> Any:
    """A client with the token of a service account of the chart."""
    body = {"spec": {"audiences": [], "expirationSeconds": 3600}}
    answer = release.core.create_namespaced_service_account_token(f"{release.name}-acestep-{name}", release.namespace, body)
    kubeconfig = release.cluster.user(answer.status.token, release.namespace)
    return config.new_client_from_config(str(kubeconfig))


def service(release: Release) -> str:
    return f"{release.name}-acestep-diffusion"


def add_pod(release: Release, name: str) -> str:
    """A pod that the diffusion service selects, ready at once; its address."""
    labels = release.deployment("diffusion").spec.selector.match_labels
    spec = {**_READY, "terminationGracePeriodSeconds": 2}
    release.core.create_namespaced_pod(release.namespace, {"metadata": {"name": name, "labels": labels}, "spec": spec})
    return str(release.until(lambda: release.core.read_namespaced_pod(name, release.namespace).status.pod_ip, "no address"))


async def take_until(found: AsyncGenerator[Endpoints], wanted: Endpoints) -> list[Endpoints]:
    """What is told until it is this."""
    told = []
    async with asyncio.timeout(300):
        async for endpoints in found:
            told.append(endpoints)
            if endpoints == wanted:
                return told
    raise AssertionError(told)


async def test_pods_come_drain_and_go(release: Release) -> None:
    api = client.DiscoveryV1Api(account(release, "orchestrator"))
    found = endpoint_slices(release.namespace, service(release), 7, api)
    await take_until(found, {})
    address = await asyncio.to_thread(add_pod, release, "first")
    await take_until(found, {f"{address}:7": True})
    release.core.delete_namespaced_pod("first", release.namespace)
    told = await take_until(found, {})
    assert {f"{address}:7": False} in told  # while it ended
    await found.aclose()


async def test_a_restarted_api_server_is_found_again(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(discovery, "log", lambda event, **facts: logged.append(event))
    api = client.DiscoveryV1Api(account(release, "orchestrator"))
    found = endpoint_slices(release.namespace, service(release), 7, api)
    await take_until(found, {})
    await asyncio.to_thread(release.cluster.stop, "apiserver", signal.SIGKILL)
    async with asyncio.timeout(300):
        while "endpoint_slices_away" not in logged:
            await asyncio.sleep(0.1)
    release.cluster.start("apiserver")
    await asyncio.to_thread(release.cluster.wait)
    address = await asyncio.to_thread(add_pod, release, "second")
    await take_until(found, {f"{address}:7": True})
    release.core.delete_namespaced_pod("second", release.namespace)
    await take_until(found, {})
    await found.aclose()


async def test_a_resource_version_that_is_too_old_means_a_new_list(release: Release) -> None:
    refused: list[int] = []

    class Slow(client.DiscoveryV1Api):
        """Its first list is from long ago."""

        lists = 0

        def list_namespaced_endpoint_slice(self, *args: Any, **fields: Any) -> Any:
            try:
                answer = super().list_namespaced_endpoint_slice(*args, **fields)
            except client.ApiException as error:
                refused.append(error.status)
                raise
            if "resource_version" not in fields:
                self.lists += 1
                if self.lists == 1:
                    answer.metadata.resource_version = "1"
            return answer

    api = Slow(account(release, "orchestrator"))
    found = endpoint_slices(release.namespace, service(release), 7, api)
    await take_until(found, {})
    address = await asyncio.to_thread(add_pod, release, "third")
    await take_until(found, {f"{address}:7": True})
    assert api.lists == 2
    release.core.delete_namespaced_pod("third", release.namespace)
    await take_until(found, {})
    await found.aclose()


async def test_an_account_without_the_role_asks_dns(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def addresses(name: str, port: int, again: asyncio.Event | None) -> AsyncGenerator[Endpoints]:
        asked.append(f"{name}:{port}")
        yield {"198.18.0.1:7": True}

    monkeypatch.setattr(discovery, "resolved", addresses)
    api = client.DiscoveryV1Api(account(release, "vae"))
    found = endpoint_slices(release.namespace, service(release), 7, api)
    assert await anext(found) == {"198.18.0.1:7": True}
    assert asked == [f"{service(release)}.{release.namespace}.svc:7"]
    await found.aclose()


def test_the_account_may_do_nothing_else(release: Release) -> None:
    mine = account(release, "orchestrator")
    refused = {
        "secrets": lambda: client.CoreV1Api(mine).list_namespaced_secret(release.namespace),
        "pods": lambda: client.CoreV1Api(mine).list_namespaced_pod(release.namespace),
        "deployments": lambda: client.AppsV1Api(mine).list_namespaced_deployment(release.namespace),
        "slices elsewhere": lambda: client.DiscoveryV1Api(mine).list_namespaced_endpoint_slice("kube-system"),
        "all slices": lambda: client.DiscoveryV1Api(mine).list_endpoint_slice_for_all_namespaces(),
    }
    for what, ask in refused.items():
        with pytest.raises(client.ApiException) as caught:
            ask()
        assert caught.value.status == 403, what
