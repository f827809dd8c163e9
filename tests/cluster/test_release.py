"""A release of the chart through its life: installed, upgraded, rolled back, drained, struck, uninstalled. Tests build on those before."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from google.longrunning import operations_pb2_grpc
from kubernetes import client

from acestep_rpc.channels import connect
from acestep_rpc.v1 import music_pb2_grpc
from benchmarks import load
from tests.cluster.control_plane import ControlPlane
from tests.cluster.node_agent import NodeAgent
from tests.cluster.release import STAGES, Release, metric, song, soon, under_load, values
from tests.cluster.service_proxy import ServiceProxy
from tests.integration.requests import song_request
from tests.integration.test_jobs import download, result_of, submit, wait

pytestmark = pytest.mark.cluster
PORT = 50050
LONG = {"seconds": 4.0, "steps": 150}
"""A song that is long to sample and short to decode."""
TRAFFIC = load.Traffic(rate=0.5, requests=4, seconds=(1.0, 2.0), tasks=("text_to_music", "retake"), steps=(2, 4))


@pytest.fixture(scope="module")
def release(cluster: ControlPlane, agent: NodeAgent, checkpoint: Path) -> Iterator[Release]:
    installed = Release(cluster, agent, "music", values(checkpoint))
    installed.values_file({"stages": {"diffusion": {"replicas": 2}}})
    installed.install()
    yield installed
    if installed.pods():  # a test failed
        installed.core.delete_collection_namespaced_pod(installed.namespace)
        installed.uninstall()


@pytest.fixture(scope="module")
def front(release: Release) -> Iterator[ServiceProxy]:
    with release.service("orchestrator", PORT) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def expected(front: ServiceProxy) -> bytes:
    """The short song of all these tests."""
    return asyncio.run(song(front.target))


def acestep(release: Release, *words: str) -> subprocess.CompletedProcess[str]:
    """The command, with the administrator's kubeconfig."""
    command = [sys.executable, "-m", "clients.cli.main", "cluster", *words, "--namespace", release.namespace]
    return subprocess.run(
        command, env=os.environ | {"KUBECONFIG": str(release.cluster.kubeconfig)}, capture_output=True, text=True, check=False
    )


def status(release: Release) -> dict[str, Any]:
    """Its components, by name."""
    done = acestep(release, "status", "--json")
    assert done.returncode == 0, done.stderr
    return {one["name"]: one for one in json.loads(done.stdout)["components"]}


def test_status_says_what_there_is(release: Release, expected: bytes) -> None:
    components = status(release)
    assert list(components) == ["orchestrator", *STAGES]
    for name, component in components.items():
        assert component["wanted"] == (2 if name == "diffusion" else 1)
        assert component["image"].startswith(f"acestep-{name}:one")
        assert component["trouble"] == []
        assert component["backlog_seconds"] == 0
        assert component["autoscaler"] is None
        assert [one["state"] for one in component["replicas"]] == ["ready"] * component["wanted"]
        assert all(one["in_service"] and one["backlog_seconds"] == 0 and not one["restarts"] for one in component["replicas"])
    text = acestep(release, "status").stdout
    assert "diffusion     2/2    0         0.0 s    none" in text


def test_helm_tests_it_with_a_song(release: Release) -> None:
    assert "Phase:          Succeeded" in release.helm("test", release.name, "--timeout", "4m")


def test_status_says_who_may_not_look(release: Release) -> None:
    body = {"spec": {"audiences": [], "expirationSeconds": 3600}}
    token = release.core.create_namespaced_service_account_token("default", release.namespace, body).status.token
    command = [sys.executable, "-m", "clients.cli.main", "cluster", "status"]
    environment = os.environ | {"KUBECONFIG": str(release.cluster.user(token, release.namespace))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert "cannot read deployments and pods in namespace music: the API server answered 403 Forbidden" in done.stderr


async def test_no_request_is_lost_in_an_upgrade(release: Release, front: ServiceProxy, expected: bytes) -> None:
    before = {pod.name for pod in release.pods()}
    async with under_load(front.target, TRAFFIC) as codes:
        await soon(lambda: codes["OK"] > 0)
        await asyncio.to_thread(release.upgrade, {"image": {"tag": "two"}})
    assert set(codes) == {"OK"}, codes
    release.until(lambda: not before & {pod.name for pod in release.pods()}, "old pods are left")
    assert status(release)["diffusion"]["image"] == "acestep-diffusion:two-cpu"
    assert await song(front.target) == expected


async def test_an_upgrade_that_fails_harms_nobody_and_is_rolled_back(release: Release, front: ServiceProxy, expected: bytes) -> None:
    before = {pod.name for pod in release.pods("diffusion")}
    kept = release.values
    await asyncio.to_thread(release.upgrade, {"stages": {"diffusion": {"image": "acestep-diffusion:missing"}}}, False)

    def failing() -> Any:
        return [one for one in status(release)["diffusion"]["replicas"] if one["state"] == "failing"]

    (broken,) = await soon(failing)
    assert broken["reason"] == "ErrImagePull"
    assert before <= {pod.name for pod in release.pods("diffusion")}
    assert await song(front.target) == expected
    release.values = kept
    await asyncio.to_thread(release.helm, "rollback", release.name)
    await asyncio.to_thread(release.until_ready)
    assert {pod.name for pod in release.pods("diffusion")} == before
    assert await song(front.target) == expected


async def test_a_drained_replica_finishes_its_song(release: Release, front: ServiceProxy) -> None:
    running = [asyncio.create_task(song(front.target, **LONG)) for _ in range(2)]
    busy = await soon(lambda: next((pod for pod in release.pods("diffusion") if metric(pod, "acestep_batch_rows_count") > 3), None))
    drained = await asyncio.to_thread(acestep, release, "drain", busy.name, "--json")
    assert drained.returncode == 0, drained.stderr
    steps = [json.loads(line)["step"] for line in drained.stdout.splitlines()]
    assert "is out of service" in steps[0]
    assert "is idle" in steps[-2]
    assert "is told to end" in steps[-1]
    first, second = await asyncio.gather(*running)
    assert first == second
    await asyncio.to_thread(release.until, lambda: busy.name not in {pod.name for pod in release.pods()}, "it is still there")
    await asyncio.to_thread(release.until_ready)


def test_the_only_replica_is_not_drained(release: Release) -> None:
    (only,) = release.pods("vae")
    refused = acestep(release, "drain", only.name)
    assert refused.returncode == 1
    assert "is the only replica of vae that takes work" in refused.stderr
    unknown = acestep(release, "drain", "nobody")
    assert unknown.returncode == 1
    assert "there is no pod nobody in namespace music" in unknown.stderr


async def test_a_killed_sampler_leaves_the_endpoints_and_its_song_is_made_elsewhere(release: Release, front: ServiceProxy) -> None:
    expected = await song(front.target, **LONG)
    async with connect(front.target) as channel:
        music, operations = music_pb2_grpc.MusicServiceStub(channel), operations_pb2_grpc.OperationsStub(channel)
        pods = release.pods("diffusion")
        before = {pod.name: metric(pod, "acestep_batch_rows_count") for pod in pods}
        operation = await submit(music, song_request(**LONG))
        victim = await soon(lambda: next((pod for pod in pods if metric(pod, "acestep_batch_rows_count") > before[pod.name] + 3), None))
        victim.containers[0].signal(signal.SIGKILL)
        left = await soon(lambda: victim.address not in ready_addresses(release, "diffusion"))
        assert left
        operation = await wait(operations, operation.name, 300)
        (made,) = [one.name for one in result_of(operation).songs]
        samples, _ = soundfile.read(io.BytesIO(await download(music, made)), dtype="int16")
    assert samples.tobytes() == expected
    await asyncio.to_thread(release.until_ready)
    assert victim.containers[0].restarts == 1
    await soon(lambda: victim.address in ready_addresses(release, "diffusion"))


def ready_addresses(release: Release, component: str) -> set[str]:
    """Of the endpoints of its service that take work."""
    slices = client.DiscoveryV1Api(release.cluster.api).list_namespaced_endpoint_slice(
        release.namespace, label_selector=f"kubernetes.io/service-name={release.name}-acestep-{component}"
    )
    return {one.addresses[0] for piece in slices.items for one in piece.endpoints or () if one.conditions.ready}


def test_uninstalling_leaves_nothing(release: Release) -> None:
    began = time.monotonic()
    release.uninstall()
    left = {}
    apis = {
        "core": (release.core, ("pod", "service", "config_map", "persistent_volume_claim", "secret", "service_account", "endpoints")),
        "apps": (release.apps, ("deployment", "replica_set")),
        "rbac": (client.RbacAuthorizationV1Api(release.cluster.api), ("role", "role_binding")),
        "network": (client.NetworkingV1Api(release.cluster.api), ("network_policy", "ingress")),
        "scaling": (client.AutoscalingV1Api(release.cluster.api), ("horizontal_pod_autoscaler",)),
        "jobs": (client.BatchV1Api(release.cluster.api), ("job",)),
        "slices": (client.DiscoveryV1Api(release.cluster.api), ("endpoint_slice",)),
    }

    def clean() -> bool:
        for api, kinds in apis.values():
            for kind in kinds:
                items = getattr(api, f"list_namespaced_{kind}")(release.namespace).items
                left[kind] = [one.metadata.name for one in items if not _is_of_every_namespace(kind, one.metadata.name)]
        return not any(left.values())

    release.until(clean, f"left after {time.monotonic() - began:.0f} s: {left}")


def _is_of_every_namespace(kind: str, name: str) -> bool:
    """What Kubernetes itself puts into each namespace: it is there without any release."""
    return name in ("kube-root-ca.crt", "default") or (kind == "secret" and name.startswith("default-token-"))
