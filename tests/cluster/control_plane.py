"""A Kubernetes control plane on loopback: etcd, kube-apiserver, kube-controller-manager with its HPA controller, kube-scheduler."""

import base64
import contextlib
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config

from tests.certificates import Authority, Pair
from tests.cluster import programs

_START_SECONDS = 120.0
_TOKEN = "admin-token"
_FEATURES = "EndpointSliceTerminatingCondition=true,HPAScaleToZero=true"
"""Alpha in 1.20 and default, or wanted, since."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ControlPlane:
    """Runs in the block of `with`.

    Attributes:
        folder: Logs, certificates and state, gone afterwards.
        kubeconfig: Of an administrator.
        api: The same as a client.
        url: Of the API server.
        certificate: Of the API server and of whatever else the tests serve over TLS.
    """

    def __init__(self, hpa_seconds: int = 1) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="acestep-cluster-"))
        self.folder.chmod(0o755)
        self.kubeconfig = self.folder / "kubeconfig"
        self.url = ""
        self.api: Any = None
        authority = Authority(self.folder)
        self.ca, self.token = authority.ca, _TOKEN
        self.certificate: Pair = authority.sign("server", "localhost", "127.0.0.1")
        self._hpa_seconds = hpa_seconds
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "ControlPlane":
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for name in ("scheduler", "controllers", "apiserver", "etcd"):
            if name in self._processes:
                self.stop(name, signal.SIGTERM)
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self, name: str, number: signal.Signals) -> None:
        """End one of its programs."""
        process = self._processes.pop(name)
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def start(self, name: str) -> None:
        """Start one of its programs."""
        with open(self.folder / f"{name}.log", "ab") as log:
            self._processes[name] = subprocess.Popen(
                [str(word) for word in self._commands[name]], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def log(self, name: str) -> str:
        """What a program wrote."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def user(self, token: str, namespace: str) -> Path:
        """A kubeconfig with a token of somebody else."""
        path = self.folder / f"kubeconfig-{time.monotonic_ns()}"
        path.write_text(self._kubeconfig(token, namespace))
        return path

    def _start(self) -> None:
        binaries, folder = programs.control_plane(), self.folder
        etcd = programs.system("etcd", "etcd-server")
        subprocess.run(["openssl", "genrsa", "-out", folder / "accounts.key", "2048"], check=True, capture_output=True)
        (folder / "tokens.csv").write_text(f'{_TOKEN},admin,1,"system:masters"\n')
        port, store, peers, controllers, scheduler = (free_port() for _ in range(5))
        self.url = f"https://127.0.0.1:{port}"
        own = [f"--kubeconfig={self.kubeconfig}", "--bind-address=127.0.0.1", "--port=0", "--leader-elect=false"]
        self._commands: dict[str, list[object]] = {
            "etcd": [
                *(etcd, "--data-dir", folder / "etcd", "--unsafe-no-fsync", "--listen-peer-urls", f"http://127.0.0.1:{peers}"),
                *("--listen-client-urls", f"http://127.0.0.1:{store}", "--advertise-client-urls", f"http://127.0.0.1:{store}"),
            ],
            "apiserver": [
                *(binaries / "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{store}", "--bind-address=127.0.0.1"),
                *(f"--secure-port={port}", f"--cert-dir={folder}", f"--token-auth-file={folder}/tokens.csv"),
                *(f"--tls-cert-file={self.certificate.cert}", f"--tls-private-key-file={self.certificate.key}"),
                *("--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16", "--endpoint-reconciler-type=none"),
                *("--service-account-issuer=https://localhost", f"--service-account-key-file={folder}/accounts.key"),
                *(f"--service-account-signing-key-file={folder}/accounts.key", "--advertise-address=192.0.2.10"),
                *("--allow-privileged=true", f"--feature-gates={_FEATURES}", "--watch-cache=true"),
            ],
            "controllers": [
                *(binaries / "kube-controller-manager", *own, f"--secure-port={controllers}", f"--cert-dir={folder}"),
                *(f"--service-account-private-key-file={folder}/accounts.key", f"--root-ca-file={self.ca}"),
                *(f"--horizontal-pod-autoscaler-sync-period={self._hpa_seconds}s", "--node-monitor-grace-period=600s"),
                *(f"--feature-gates={_FEATURES}", "--kube-api-qps=200", "--kube-api-burst=400"),
            ],
            "scheduler": [binaries / "kube-scheduler", *own, f"--secure-port={scheduler}"],
        }
        self.kubeconfig.write_text(self._kubeconfig(_TOKEN, "default"))
        self.start("etcd")
        self.start("apiserver")
        self.wait()
        self.api = config.new_client_from_config(str(self.kubeconfig))
        self.start("controllers")
        self.start("scheduler")
        for namespace in ("default",):
            self._until(lambda name=namespace: client.CoreV1Api(self.api).list_namespaced_service_account(name).items)  # type: ignore[misc]

    def wait(self) -> None:
        """Until the API server is ready."""
        context = ssl.create_default_context(cafile=str(self.ca))
        self._until(lambda: urllib.request.urlopen(f"{self.url}/readyz", context=context, timeout=2).status == 200)

    def _until(self, holds: Any) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                if holds():
                    return
            for name, process in self._processes.items():
                assert process.poll() is None, f"{name} ended:\n{self.log(name)[-4000:]}"
            assert time.monotonic() < deadline, "the control plane did not start"
            time.sleep(0.1)

    def _kubeconfig(self, token: str, namespace: str) -> str:
        authority = base64.b64encode(self.ca.read_bytes()).decode()
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "local",
                "clusters": [{"name": "local", "cluster": {"server": self.url, "certificate-authority-data": authority}}],
                "users": [{"name": "user", "user": {"token": token}}],
                "contexts": [{"name": "local", "context": {"cluster": "local", "user": "user", "namespace": namespace}}],
            }
        )
