"""What is in the image of a service: python deploy/image.py SERVICE {requirements | copy FOLDER}. Used by deploy/Dockerfile.

Plain Python of the base image: it runs before anything is installed.
"""

import argparse
import re
import shutil
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = "checkpoint"
_OWN = re.compile(r"acestep-serving\[([a-z,]+)\]")
_FOLDERS = {"acestep_client": "clients/python/acestep_client"}
"""Of packages that are not in the folder of their name."""
_NOT_CODE = shutil.ignore_patterns("__pycache__", CHECKPOINT, "python")


@dataclass(frozen=True)
class Image:
    """Contents of an image.

    Attributes:
        module: Run by its entrypoint.
        packages: Of ours.
        extras: Of pyproject.toml.
        checkpoint: The small checkpoint comes along.
    """

    module: str
    packages: tuple[str, ...]
    extras: tuple[str, ...]
    checkpoint: bool = False


_STAGES = ("encoder_svc", "diffusion_svc", "vae_svc")
IMAGES = {
    "encoder": Image("encoder_svc", ("acestep_rpc", "encoder_svc"), ("encoder", "lyrics", "tracing"), checkpoint=True),
    "diffusion": Image("diffusion_svc", ("acestep_rpc", "diffusion_svc"), ("diffusion", "tracing"), checkpoint=True),
    "vae": Image("vae_svc", ("acestep_rpc", "vae_svc"), ("vae", "tracing"), checkpoint=True),
    "orchestrator": Image("orchestrator", ("acestep_rpc", "orchestrator"), ("orchestrator", "tracing")),
    "embedded": Image(
        "orchestrator",
        ("acestep_rpc", "orchestrator", *_STAGES),
        ("encoder", "lyrics", "diffusion", "vae", "orchestrator", "tracing"),
        True,
    ),
    "cli": Image("clients.cli.main", ("acestep_rpc", "acestep_client", "clients"), ("cli",)),
}


def requirements(image: Image) -> list[str]:
    """What pip installs, as pyproject.toml has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def expand(extra: str) -> list[str]:
        found: list[str] = []
        for requirement in project["optional-dependencies"][extra]:
            own = _OWN.fullmatch(requirement)
            found += [inner for name in own[1].split(",") for inner in expand(name)] if own else [requirement]
        return found

    return sorted({*project["dependencies"], *(requirement for extra in image.extras for requirement in expand(extra))})


def copy(image: Image, folder: Path) -> None:
    """Write our code into FOLDER/app, the checkpoint into FOLDER/checkpoint, and FOLDER/bin/entrypoint."""
    for package in image.packages:
        shutil.copytree(ROOT / _FOLDERS.get(package, package), folder / "app" / package, ignore=_NOT_CODE)
    if image.checkpoint:
        shutil.copytree(ROOT / "clients" / CHECKPOINT, folder / CHECKPOINT)
    entrypoint = folder / "bin" / "entrypoint"
    entrypoint.parent.mkdir(parents=True, exist_ok=True)
    run = f"import runpy\n\nrunpy.run_module({image.module!r}, run_name='__main__', alter_sys=True)\n"
    entrypoint.write_text(f"#!{folder}/bin/python3\n{run}")
    entrypoint.chmod(0o755)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("service", choices=tuple(IMAGES))
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("requirements", help="print them, one a line")
    actions.add_parser("copy", help="write our part of the image").add_argument("folder", type=Path)
    args = parser.parse_args()
    image = IMAGES[args.service]
    if args.action == "requirements":
        sys.stdout.write("".join(f"{requirement}\n" for requirement in requirements(image)))
    else:
        copy(image, args.folder)


if __name__ == "__main__":
    main()
