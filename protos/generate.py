"""Compile protos/ into acestep_rpc/v1 (tracked) and into a descriptor image for buf.

googleapis-common-protos ships google/longrunning/operations.proto under another file name; it is given its canonical name for the compiler,
which is the name the Python runtime and every other language know it by.
"""

import argparse
import importlib.util
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed: run make setup")
    return Path(next(iter(spec.submodule_search_locations)))


def main() -> int:
    """Write the Python modules under --out, and the descriptor image where --image says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT, help="folder that receives acestep_rpc/v1")
    parser.add_argument("--image", type=Path, help="file that receives the descriptor image")
    arguments = parser.parse_args()

    sources = sorted(str(path) for path in (ROOT / "protos" / "acestep_rpc").rglob("*.proto"))
    longrunning = _package_folder("google.longrunning")
    plugin = Path(sysconfig.get_path("scripts")) / "protoc-gen-mypy_grpc"
    with tempfile.TemporaryDirectory() as extra:
        canonical = Path(extra) / "google" / "longrunning" / "operations.proto"
        canonical.parent.mkdir(parents=True)
        shutil.copy(longrunning / "operations_proto.proto", canonical)
        out = arguments.out
        command = [
            "protoc",
            f"-I{ROOT / 'protos'}",
            f"-I{extra}",
            f"-I{longrunning.parent.parent}",
            f"-I{_package_folder('grpc_tools') / '_proto'}",
            f"--plugin=protoc-gen-mypy_grpc={plugin}",
            f"--python_out={out}",
            f"--pyi_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_grpc_out=quiet:{out}",
        ]
        if arguments.image:
            command += ["--include_imports", "--include_source_info", f"--descriptor_set_out={arguments.image}"]
        return int(protoc.main(command + sources))


if __name__ == "__main__":
    sys.exit(main())
