"""One control plane for all of these tests. Each test module has a release of its own, in a namespace of its own.

`make test-cluster` runs them. With KUBECONFIG set, only those of test_given_cluster.py, on that cluster: all others need pods that are
processes of this machine.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.newer_api import NewerApi
from tests.cluster.node_agent import NodeAgent
from tests.cluster.release import image


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what cannot run here, or was not asked for."""
    given = bool(os.environ.get("KUBECONFIG"))
    for item in items:
        if "cluster" not in config.option.markexpr:
            item.add_marker(pytest.mark.skip(reason="make test-cluster runs it"))
        elif given != item.nodeid.startswith("tests/cluster/test_given_cluster.py"):
            item.add_marker(pytest.mark.skip(reason=f"KUBECONFIG is {'set' if given else 'not set'}"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[ControlPlane]:
    with ControlPlane() as running:
        api = NewerApi(running)
        yield running
        api.shutdown()
        api.server_close()


@pytest.fixture(scope="session")
def agent(cluster: ControlPlane) -> Iterator[NodeAgent]:
    with NodeAgent(cluster, image) as running:
        yield running


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    command = [sys.executable, "-m", "clients.cli.main", "init-checkpoint", "--size", "tiny", "--seed", "0", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    folder.parent.chmod(0o755)  # pods are other users
    return folder
