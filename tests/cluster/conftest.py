"""One control plane for all of these tests. Each test module has a release of its own, in a namespace of its own."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.control_plane import ControlPlane
from tests.cluster.newer_api import NewerApi
from tests.cluster.node_agent import NodeAgent
from tests.cluster.release import image


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
    return folder
