"""A Prometheus that scrapes the pods of a cluster, whom it is told of by a file: Debian's has no discovery by the API server of its own."""

import contextlib
import json
import signal
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import urllib3
import yaml
from kubernetes import client

from tests.cluster import programs
from tests.cluster.control_plane import ControlPlane, free_port

_FIND_SECONDS = 0.5


class Prometheus:
    """A server that runs.

    Attributes:
        url: Of it.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def query(self, query: str) -> float | None:
        """The value of a query with one or no result."""
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': query})}", timeout=5) as answer:
            found = json.load(answer)["data"]["result"]
        return float(found[0]["value"][1]) if found else None


@contextlib.contextmanager
def running_prometheus(cluster: ControlPlane, folder: Path, scrape_seconds: int = 1) -> Iterator[Prometheus]:
    """A server until the end of the block. It scrapes ports named metrics, as the chart's monitors say, and labels them as they do."""

    def find() -> None:
        core, before = client.CoreV1Api(cluster.api), ""
        while not stopped.wait(_FIND_SECONDS):
            with contextlib.suppress(OSError, client.ApiException, urllib3.exceptions.HTTPError):  # the API server may be away
                found = json.dumps([one for pod in core.list_pod_for_all_namespaces().items for one in _targets(pod)])
                if found != before:
                    targets.with_suffix(".new").write_text(found)
                    targets.with_suffix(".new").rename(targets)
                    before = found

    program = programs.system("prometheus", "prometheus")
    targets = folder / "targets.json"
    job = {"job_name": "pods", "file_sd_configs": [{"files": [str(targets)]}]}
    interval = f"{scrape_seconds}s"
    config = {"global": {"scrape_interval": interval, "scrape_timeout": interval}, "scrape_configs": [job]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [str(program), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/prometheus"]
    with open(folder / "prometheus.log", "wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log, start_new_session=True)
    server = Prometheus(port)
    stopped = threading.Event()
    finding = threading.Thread(target=find, name="prometheus-targets", daemon=True)
    finding.start()
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{server.url}/-/ready", timeout=2):
                break
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline, "Prometheus did not start"
            time.sleep(0.1)
        yield server
    finally:
        stopped.set()
        finding.join()
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _targets(pod: Any) -> Iterator[dict[str, Any]]:
    if pod.status.phase != "Running" or not pod.status.pod_ip:
        return
    labels = {"namespace": pod.metadata.namespace, "pod": pod.metadata.name}
    for port in (port for container in pod.spec.containers for port in container.ports or ()):
        if port.name == "metrics":
            yield {"targets": [f"{pod.status.pod_ip}:{port.container_port}"], "labels": labels}
