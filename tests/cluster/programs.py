"""Programs that the tests run: taken from the machine, from the cache, or made and kept there.

`python -m tests.cluster.programs` says whether CI runs the tests, and why (exit status 0: it does).
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.helm.install_tools import BIN, install

SOURCE_VERSION = "1.20.5+really1.20.2-1.1+deb12u1"
"""Of Debian's source package `kubernetes`."""
_HERE = Path(__file__).parent


def cache() -> Path:
    """The folder of what is kept, outside the tree."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "acestep-serving"


def control_plane_folder() -> Path:
    """Where the control plane is kept."""
    return cache() / "kubernetes" / SOURCE_VERSION


def control_plane() -> Path:
    """Folder of kube-apiserver, kube-controller-manager and kube-scheduler, which are built if it is not there yet."""
    folder = control_plane_folder()
    if not folder.is_dir():
        print(f"building the control plane into {folder}: some 11 minutes of one core", file=sys.stderr, flush=True)
        subprocess.run([_HERE / "build_control_plane.sh", folder, SOURCE_VERSION], check=True)
    return folder


def helm() -> Path:
    """The program, beside this Python."""
    install(BIN)
    return BIN / "helm"


def system(program: str, package: str) -> Path:
    """A program of the machine; installed from Debian's package where it is not there and we may."""
    if shutil.which(program) is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", package], check=True, stdout=subprocess.DEVNULL)
    found = shutil.which(program)
    assert found is not None, f"{program} is needed (Debian: {package})"
    return Path(found)


def main() -> int:
    """Say whether the tests are due."""
    difference = subprocess.run(["git", "diff", "--quiet", "HEAD^1", "HEAD", "--", "deploy"], check=False)
    changed = difference.returncode == 1  # 128: there is no commit before this one
    if os.environ.get("KUBECONFIG"):
        why = "KUBECONFIG is set"
    elif control_plane_folder().is_dir():
        why = f"the control plane is in {control_plane_folder()}"
    elif changed:
        why = "deploy/ changed in the last commit; the control plane is built first"
    else:
        print(f"make test-cluster is left out: nothing in {control_plane_folder()}, and deploy/ did not change in the last commit")
        return 1
    print(f"make test-cluster runs: {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
