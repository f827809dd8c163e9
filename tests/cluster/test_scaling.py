"""The real HPA controller scales stages on what waits: from the orchestrator's metrics through a real Prometheus.

With ACESTEP_SCALING=DIR the run is written there, as JSON and as a picture.
"""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from benchmarks import load
from tests.cluster.control_plane import ControlPlane
from tests.cluster.external_metrics import ExternalMetrics, expand
from tests.cluster.node_agent import NodeAgent
from tests.cluster.prometheus import Prometheus, running_prometheus
from tests.cluster.release import CHART, STAGES, Release, cluster_status, merge, soon, values
from tests.cluster.scaling import BACKLOG, Recorder, seconds_per_song

pytestmark = pytest.mark.cluster
TARGETS = {"encoder": 4.0, "diffusion": 10.0, "vae": 8.0}
MOST = {"encoder": 2, "diffusion": 3, "vae": 2}
RULES = yaml.safe_load((CHART / "prometheus-adapter.yaml").read_text())["rules"]["external"]
SCALE_UP_SECONDS = 30.0
"""From the backlog's passing the target to the autoscaler's wanting more replicas."""
WINDOW_SECONDS = 20
SAMPLING = load.Traffic(rate=1.0, requests=1, seconds=(1.0,), tasks=("text_to_music",), steps=(120,))
"""Long to sample, short to encode and to decode."""
DECODING = load.Traffic(rate=2.0, requests=16, seconds=(60.0,), tasks=("text_to_music",), steps=(1,))
"""The other way round."""
BEHAVIOR = {
    "scaleUp": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 2, "periodSeconds": 5}]},
    "scaleDown": {"stabilizationWindowSeconds": WINDOW_SECONDS, "policies": [{"type": "Percent", "value": 100, "periodSeconds": 5}]},
}


@pytest.fixture(scope="module")
def prometheus(cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with running_prometheus(cluster, tmp_path_factory.mktemp("prometheus")) as server:
        metrics = ExternalMetrics(cluster, server.url, RULES)
        yield server
        metrics.shutdown()
        metrics.server_close()


@pytest.fixture(scope="module")
def release(cluster: ControlPlane, agent: NodeAgent, checkpoint: Path, prometheus: Prometheus) -> Iterator[Release]:
    scaled = {
        stage: {
            "autoscaling": {"enabled": True, "minReplicas": 1, "maxReplicas": MOST[stage], "targetBacklogSeconds": TARGETS[stage]},
            "settings": {"maxRequests": 512},
        }
        for stage in STAGES
    }
    own = {"orchestrator": {"settings": {"maxRequests": 512}}, "stages": scaled, "autoscaling": {"behavior": BEHAVIOR}}
    installed = Release(cluster, agent, "scaled", merge(values(checkpoint), own))
    installed.install()
    yield installed
    installed.uninstall()


def status(release: Release) -> dict[str, Any]:
    """Of the autoscalers."""
    return {name: one["autoscaler"] for name, one in cluster_status(release.namespace, release.cluster.kubeconfig).items()}


async def test_stages_scale_on_what_waits_for_them(release: Release, prometheus: Prometheus) -> None:
    (front,) = release.pods("orchestrator")
    target = f"{front.address}:50050"
    query = expand(RULES, release.namespace, BACKLOG, {"stage": "STAGE"})
    assert query is not None
    await soon(lambda: all(prometheus.query(query.replace("STAGE", stage)) == 0 for stage in STAGES))  # there before any request
    await soon(lambda: status(release)["diffusion"]["state"].startswith("is at its minimum of 1"))
    # Rates and target follow the device: less than half of what one can do, and twice as much as that; a replica may have four songs.
    song_seconds = await seconds_per_song(target, SAMPLING)
    low = 0.4 / song_seconds
    targets = TARGETS | {"diffusion": round(4 * song_seconds, 1)}
    change = {"stages": {"diffusion": {"autoscaling": {"targetBacklogSeconds": targets["diffusion"]}}}}
    await asyncio.to_thread(release.upgrade, change)
    await soon(lambda: all(release.deployment(stage).spec.replicas == 1 for stage in STAGES))
    async with Recorder(release, prometheus, query, targets) as recorder:
        recording = recorder.recording
        await recorder.send("low", target, replace(SAMPLING, rate=low, requests=4), 1)
        quiet = recorder.seconds
        assert recording.most("diffusion", 0, quiet) == 1
        high = asyncio.create_task(recorder.send("x 5", target, replace(SAMPLING, rate=5 * low, requests=48), 2))
        await soon(lambda: recording.scaled("diffusion", quiet))
        explained = await asyncio.to_thread(status, release)
        await high
        busy = recorder.seconds
        await recorder.send("low", target, replace(SAMPLING, rate=low, requests=2), 3)
        await soon(lambda: recording.samples[-1].wanted["diffusion"] == 1)
        decoded = recorder.seconds
        await recorder.send("long songs", target, DECODING, 4)
        await soon(lambda: all(count == 1 for count in recording.samples[-1].wanted.values()))
    if folder := os.environ.get("ACESTEP_SCALING"):
        recording.save(Path(folder))
    assert set(recording.codes) == {"OK"}, recording.codes
    passed = recording.passed("diffusion", quiet)
    assert passed is not None
    scaled = recording.scaled("diffusion", passed)
    assert scaled is not None
    assert scaled - passed < SCALE_UP_SECONDS
    assert recording.most("diffusion", quiet, busy) >= 2
    assert recording.most("encoder", quiet, busy) == recording.most("vae", quiet, busy) == 1
    assert recording.most("vae", decoded, recorder.seconds) == 2
    assert recording.most("diffusion", decoded, recorder.seconds) == 1
    assert explained["diffusion"]["metric"] == BACKLOG
    assert explained["diffusion"]["desired"] > 1
    assert explained["encoder"]["state"].startswith("is at its minimum of 1")


def test_status_says_that_a_metric_is_missing(release: Release, prometheus: Prometheus) -> None:
    name = release.deployment("vae").metadata.name
    change = [{"op": "replace", "path": "/spec/metrics/0/external/metric/name", "value": "nobody_knows"}]
    client.AutoscalingV2Api(release.cluster.api).patch_namespaced_horizontal_pod_autoscaler(name, release.namespace, change)
    told = release.until(lambda: next((one for one in [status(release)["vae"]["state"]] if "metric is missing" in one), None), "not told")
    assert "FailedGetExternalMetric" in told
