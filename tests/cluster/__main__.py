"""`python -m tests.cluster`: a control plane with one node on this machine, until Ctrl-C. Prints the kubeconfig for helm and kubectl."""

import argparse
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from tests.cluster.control_plane import ControlPlane
from tests.cluster.newer_api import NewerApi
from tests.cluster.node_agent import NodeAgent
from tests.cluster.release import image, values


def main() -> None:
    """Run it."""
    argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="acestep-checkpoint-") as name, ControlPlane() as cluster:
        checkpoint = Path(name) / "tiny"
        command = [sys.executable, "-m", "clients.cli.main", "init-checkpoint", "--size", "tiny", "--seed", "0", str(checkpoint)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        Path(name).chmod(0o755)
        NewerApi(cluster)
        with NodeAgent(cluster, image):
            path = cluster.folder / "values.yaml"
            path.write_text(yaml.safe_dump(values(checkpoint)))
            print(f"export KUBECONFIG={cluster.kubeconfig} ACESTEP_CLUSTER_VALUES={path}", flush=True)
            signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
