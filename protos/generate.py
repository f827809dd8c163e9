"""Compile protos/ into acestep_rpc/v1, a descriptor image for buf, and the one in the chart by which Envoy answers JSON.

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

from google.protobuf import descriptor_pb2
from google.rpc import error_details_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PUBLIC = ("music", "lyrics", "adapter")
"""Files of the public services; google.longrunning comes with them."""


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed: run make setup")
    return Path(next(iter(spec.submodule_search_locations)))


def without_comments(image: bytes) -> descriptor_pb2.FileDescriptorSet:
    """A descriptor image without source_code_info."""
    files = descriptor_pb2.FileDescriptorSet.FromString(image)
    for file in files.file:
        file.ClearField("source_code_info")
    return files


def public_image(image: bytes) -> bytes:
    """Descriptors of the public services, of all that they import, and of what errors have in their details."""
    everything = {file.name: file for file in without_comments(image).file}
    wanted: set[str] = set()
    waiting = [f"acestep_rpc/v1/{name}.proto" for name in PUBLIC]
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += everything[name].dependency
    files = descriptor_pb2.FileDescriptorSet(file=[file for name, file in everything.items() if name in wanted])
    error_details_pb2.DESCRIPTOR.CopyToProto(files.file.add())
    return files.SerializeToString(deterministic=True)


def main() -> int:
    """Write the Python modules under --out, and the descriptor images where --image and --transcoding say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT, help="folder that receives acestep_rpc/v1")
    parser.add_argument("--image", type=Path, help="file that receives the descriptor image")
    parser.add_argument("--transcoding", type=Path, help="file that receives the descriptor image of the public services")
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
        image = arguments.image or Path(extra) / "image.binpb"
        command += ["--include_imports", "--include_source_info", f"--descriptor_set_out={image}"]
        status = int(protoc.main(command + sources))
        if status == 0 and arguments.transcoding:
            arguments.transcoding.write_bytes(public_image(image.read_bytes()))
        return status


if __name__ == "__main__":
    sys.exit(main())
