"""A Prometheus that finds the pods of a cluster by itself and scrapes their metrics."""

import contextlib
import json
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.cluster import programs
from tests.cluster.control_plane import ControlPlane, free_port


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
    program = programs.system("prometheus", "prometheus")
    source = "__meta_kubernetes_"
    job = {
        "job_name": "pods",
        "kubernetes_sd_configs": [{"role": "pod", "kubeconfig_file": str(cluster.kubeconfig)}],
        "relabel_configs": [
            {"source_labels": [f"{source}pod_container_port_name"], "regex": "metrics", "action": "keep"},
            {"source_labels": [f"{source}pod_phase"], "regex": "Running", "action": "keep"},
            {"source_labels": [f"{source}namespace"], "target_label": "namespace"},
            {"source_labels": [f"{source}pod_name"], "target_label": "pod"},
        ],
    }
    interval = f"{scrape_seconds}s"
    config = {"global": {"scrape_interval": interval, "scrape_timeout": interval}, "scrape_configs": [job]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [str(program), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/prometheus"]
    with open(folder / "prometheus.log", "wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log, start_new_session=True)
    server = Prometheus(port)
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
        process.send_signal(signal.SIGTERM)
        process.wait(30)
