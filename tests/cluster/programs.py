"""Programs that the tests run: the control plane, helm. Each is taken from the machine, from the cache, or made and kept there."""

import os
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
        print(f"building the control plane into {folder}: some 8 minutes of one core", file=sys.stderr, flush=True)
        subprocess.run([_HERE / "build_control_plane.sh", folder, SOURCE_VERSION], check=True)
    return folder


def helm() -> Path:
    """The program, beside this Python."""
    install(BIN)
    return BIN / "helm"
