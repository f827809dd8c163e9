"""The chart on a cluster that is there already: KUBECONFIG, and in ACESTEP_CLUSTER_VALUES the values that its images and volumes need."""

import os
import subprocess
import uuid
from collections.abc import Iterator

import pytest

from tests.cluster import programs
from tests.cluster.release import CHART, cluster_status

pytestmark = pytest.mark.cluster


class Given:
    """A namespace of its own in that cluster."""

    def __init__(self, values: str) -> None:
        self.name = f"acestep-{uuid.uuid4().hex[:8]}"
        self._values = values

    def helm(self, *words: str) -> str:
        """Run it; what it printed."""
        done = subprocess.run([str(programs.helm()), *words, "--namespace", self.name], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def apply(self, action: str, *more: str) -> None:
        """Install or upgrade, and wait until all is ready."""
        self.helm(action, "music", str(CHART), "--values", self._values, "--wait", "--timeout", "15m", *more)


@pytest.fixture(scope="module")
def given() -> Iterator[Given]:
    values = os.environ.get("ACESTEP_CLUSTER_VALUES")
    if not values:
        pytest.skip("ACESTEP_CLUSTER_VALUES names no file: where are the images, and the weights?")
    release = Given(values)
    release.apply("install", "--create-namespace")
    yield release
    release.helm("uninstall", "music", "--wait", "--ignore-not-found")


def test_a_song_is_made_after_install_upgrade_and_rollback(given: Given) -> None:
    assert "Succeeded" in given.helm("test", "music", "--timeout", "10m")
    given.apply("upgrade", "--set", "env.ACESTEP_TEST_UPGRADE=1")
    assert "Succeeded" in given.helm("test", "music", "--timeout", "10m")
    given.helm("rollback", "music", "1", "--wait", "--timeout", "15m")
    assert "Succeeded" in given.helm("test", "music", "--timeout", "10m")


def test_every_replica_is_ready_and_in_service(given: Given) -> None:
    for component in cluster_status(given.name).values():
        replicas = component["replicas"]
        assert isinstance(replicas, list)
        assert [one["state"] for one in replicas] == ["ready"] * len(replicas)
        assert all(one["in_service"] for one in replicas)
