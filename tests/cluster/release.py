"""The chart, installed by helm on a control plane of one's own, with the project's own services as its pods."""

import asyncio
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import soundfile
import yaml
from kubernetes import client
from prometheus_client.parser import text_string_to_metric_families

from acestep_rpc.channels import connect
from acestep_rpc.v1 import music_pb2_grpc
from benchmarks import load
from tests.cluster import programs
from tests.cluster.control_plane import ControlPlane
from tests.cluster.node_agent import PYTHON, Image, NodeAgent, Pod
from tests.cluster.service_proxy import ServiceProxy
from tests.integration.requests import generate, song_request

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "acestep"
STAGES = ("encoder", "diffusion", "vae")
MODULES = {"encoder": "encoder_svc", "diffusion": "diffusion_svc", "vae": "vae_svc", "orchestrator": "orchestrator"}
READY_SECONDS = 600.0
WAITING = "acestep-waiting:one"
"""An image that does nothing; it ends as slowly as its pod allows."""
_IMAGE = re.compile(r"(?:.*/)?acestep-(encoder|diffusion|vae|orchestrator|cli):(\w+)(?:-cpu)?")


def image(name: str) -> Image | None:
    """What the chart's images are here: this source tree. Those with the tag "missing" are not there."""
    if name == WAITING:
        return Image(["sh", "-c", "trap '' TERM; sleep 1000 & while :; do wait; done"])
    found = _IMAGE.fullmatch(name)
    if found is None or found[2] == "missing":
        return None
    module = MODULES.get(found[1], "clients.cli.main")
    return Image([str(PYTHON / "bin" / "python"), "-P", "-m", module], {"OMP_NUM_THREADS": "1"})


def values(checkpoint: Path) -> dict[str, Any]:
    """Of a release with small pods on the tiny checkpoint."""
    small = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "2Gi"}}
    stage = {
        "gpu": {"count": 0},
        "resources": small,
        "settings": {"threads": 1, "dtype": "float32"},
        "startupSeconds": 240,
        "drainSeconds": 60,
        "autoscaling": {"enabled": False},
    }
    return {
        "image": {"tag": "one", "variant": "cpu"},
        "listen": "$(POD_IP)",
        "probes": {"periodSeconds": 1, "timeoutSeconds": 5, "livenessFailures": 30},
        "weights": {"source": "hostPath", "hostPath": str(checkpoint.parent), "folder": checkpoint.name},
        "orchestrator": {
            "replicas": 1,
            "resources": small,
            "settings": {"maxRequests": 64},
            "startupSeconds": 240,
            "drainSeconds": 60,
            "preStopSeconds": 2,
            "data": {"persistent": False},
        },
        "stages": dict.fromkeys(STAGES, stage),
    }


class Release:
    """One release, and what its tests ask of it.

    Args:
        cluster: Where.
        agent: Of its node.
        name: Of the release.
        values: Of the chart.
    """

    def __init__(self, cluster: ControlPlane, agent: NodeAgent, name: str, values: Mapping[str, Any]) -> None:
        self.cluster, self.agent, self.name, self.namespace = cluster, agent, name, name
        self.values = values
        self.core: Any = client.CoreV1Api(cluster.api)
        self.apps: Any = client.AppsV1Api(cluster.api)
        self._folder = cluster.folder / f"helm-{name}"
        self._folder.mkdir(exist_ok=True)

    def helm(self, *words: str, check: bool = True) -> str:
        """Run it; what it printed."""
        places = {f"HELM_{kind}_HOME": str(self._folder / kind) for kind in ("CACHE", "CONFIG", "DATA")}
        command = [str(programs.helm()), *words, "--namespace", self.namespace]
        done = subprocess.run(
            command, env=os.environ | places | {"KUBECONFIG": str(self.cluster.kubeconfig)}, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def install(self) -> None:
        """And wait until it serves."""
        self.helm("install", self.name, str(CHART), "--create-namespace", "--values", self.values_file({}))
        self.until_ready()

    def upgrade(self, changes: Mapping[str, Any], wait: bool = True) -> None:
        """With other values, which the release keeps."""
        self.helm("upgrade", self.name, str(CHART), "--values", self.values_file(changes))
        if wait:
            self.until_ready()

    def uninstall(self) -> None:
        """And wait until its pods are gone."""
        self.helm("uninstall", self.name)
        self.until(lambda: not self.pods(), "pods are left")

    def until_ready(self) -> None:
        """Until all pods are of the newest kind and ready, and no other is left."""

        def holds() -> bool:
            for one in self.apps.list_namespaced_deployment(self.namespace).items:
                status, wanted = one.status, one.spec.replicas
                if status.observed_generation != one.metadata.generation or (status.updated_replicas or 0) != wanted:
                    return False
                if (status.ready_replicas or 0) != wanted or (status.replicas or 0) != wanted:
                    return False
            return True

        self.until(holds, "deployments are not ready")

    def until(self, holds: Callable[[], Any], otherwise: str, seconds: float = READY_SECONDS) -> Any:
        """Wait; what it gave at last."""
        deadline = time.monotonic() + seconds
        while not (found := holds()):
            failing = [pod.name for pod in self.pods() if any(container.restarts > 2 for container in pod.containers)]
            assert not failing, self.describe()
            assert time.monotonic() < deadline, f"{otherwise}\n{self.describe()}"
            time.sleep(0.2)
        return found

    def pods(self, component: str = "") -> list[Pod]:
        """Those that run, of one component or of all."""
        ours = [one for one in self.agent.pods() if one.namespace == self.namespace]
        return [one for one in ours if not component or _component(one) == component]

    def describe(self) -> str:
        """What there is, for the message of a test that fails."""
        lines = [f"{pod.name} {pod.address}: {pod.log()[-1500:]}" for pod in self.pods()]
        events = self.core.list_namespaced_event(self.namespace).items
        return "\n".join([*lines, *(f"{one.reason}: {one.message}" for one in events[-20:])])

    def deployment(self, component: str) -> Any:
        """As the API server has it."""
        (found,) = self.apps.list_namespaced_deployment(self.namespace, label_selector=f"app.kubernetes.io/component={component}").items
        return found

    def service(self, component: str, port: int) -> ServiceProxy:
        """A way to its pods that lasts when they do not."""
        (found,) = (
            one
            for one in self.core.list_namespaced_service(self.namespace, label_selector=f"app.kubernetes.io/component={component}").items
            if any(each.port == port for each in one.spec.ports)
        )
        return ServiceProxy(self.cluster.api, self.namespace, found.metadata.name, port)

    def values_file(self, changes: Mapping[str, Any]) -> str:
        """Its values and these, which it keeps, in a file."""
        self.values = merge(self.values, changes)
        path = self._folder / "values.yaml"
        path.write_text(yaml.safe_dump(self.values))
        return str(path)


def cluster_status(namespace: str, kubeconfig: Path | None = None) -> dict[str, dict[str, Any]]:
    """Components by name, as `acestep cluster status` tells them.

    Args:
        namespace: Of the release.
        kubeconfig: Which cluster; None: as the environment says.
    """
    command = [sys.executable, "-m", "clients.cli.main", "cluster", "status", "--json", "--namespace", namespace]
    environment = os.environ | ({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {one["name"]: one for one in json.loads(done.stdout)["components"]}


def merge(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The first with what the second has, mappings one in the other."""
    both = {key: merge(one[key], value) if isinstance(value, Mapping) and key in one else value for key, value in other.items()}
    return {**one, **both}


async def song(target: str, **fields: Any) -> bytes:
    """Samples of a song that a server makes."""
    async with connect(target) as channel:
        answer = await generate(music_pb2_grpc.MusicServiceStub(channel), song_request(**fields))
    samples, _ = soundfile.read(io.BytesIO(answer.file()), dtype="int16")
    return bytes(samples.tobytes())


async def soon(holds: Callable[[], Any], seconds: float = 300.0) -> Any:
    """Wait beside what runs; what it gave at last."""
    async with asyncio.timeout(seconds):
        while not (found := await asyncio.to_thread(holds)):
            await asyncio.sleep(0.1)
    return found


@contextlib.asynccontextmanager
async def under_load(target: str, traffic: load.Traffic) -> Any:
    """Open-loop load until the block ends; counts the codes of its calls."""
    codes: Counter[str] = Counter()
    stop = asyncio.Event()

    async def arrive() -> None:
        seed = 0
        while not stop.is_set():
            codes.update((await load.run(target, traffic, seed))["codes"])
            seed += 1

    loading = asyncio.create_task(arrive())
    try:
        yield codes
    finally:
        stop.set()
        await loading


def metric(pod: Pod, name: str, **labels: str) -> float:
    """Sum of the samples of a pod's metric with these labels; 0 if it does not answer."""

    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{pod.address}:9090/metrics", timeout=5) as answer:
        samples = [one for family in text_string_to_metric_families(answer.read().decode()) for one in family.samples]
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())
    return 0.0


def _component(pod: Pod) -> str:
    return str(pod.item["metadata"].get("labels", {}).get("app.kubernetes.io/component", ""))
