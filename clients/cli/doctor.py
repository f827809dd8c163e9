"""`acestep doctor`: does this machine have what it takes, and what to do if not."""

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from acestep_rpc import __version__
from acestep_rpc.errors import AcestepError
from acestep_rpc.v1 import music_pb2
from clients.cli.checkpoint import EMBEDDED_CHECKPOINT
from clients.cli.connection import add_connection_arguments, open_client
from clients.cli.failures import EXIT_CODES_HELP, CommandFailed, ExitCode
from clients.cli.fetch_weights import FOLDERS, LYRIC_VOCABULARY, MANIFEST, verify

_DESCRIPTION = """
Look at what songs need on this machine: Python and packages, devices and types, a checkpoint and its digests, ports, disk;
with --server also at a running server. Each line says what is there; what is missing comes with what to do about it.

  acestep doctor
  acestep doctor --checkpoint checkpoints/official --port 7860 --data ~/acestep
  acestep doctor --server localhost:7860 --json
"""
_DISTRIBUTION = "acestep-serving"
_EXTRAS = ("encoder", "diffusion", "vae", "orchestrator", "client", "cli", "lyrics")
_LEAST_DISK_BYTES = 2 * 1024**3
_DEVICE_SECONDS = 120.0
# In a process of its own: a driver that crashes takes nothing with it, and commands import no torch.
_DEVICES = """
import json, torch
found = []
names = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())] + (["mps"] if torch.backends.mps.is_available() else [])
for name in names:
    types, wrong = [], ""
    for dtype in (torch.float32, torch.bfloat16):
        try:
            a = torch.ones(64, 64, device=name, dtype=dtype)
            if float((a @ a).sum()) == 64 ** 3:
                types.append(str(dtype).removeprefix("torch."))
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
    cuda = name.startswith("cuda")
    found.append({"device": name, "types": types, "error": wrong.splitlines()[0] if wrong else "",
                  "name": torch.cuda.get_device_name(name) if cuda else "",
                  "memory": torch.cuda.get_device_properties(name).total_memory if cuda else 0})
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "devices": found}))
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: As "port 7860".
        state: "ok", "attention" (works, but), or "wrong".
        found: What is there.
        advice: What to do; empty if nothing.
    """

    what: str
    state: str
    found: str
    advice: str = ""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "doctor",
        help="check this machine, a checkpoint and a server",
        description=_DESCRIPTION,
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--checkpoint", type=Path, default=EMBEDDED_CHECKPOINT, metavar="DIR", help="checkpoint to check (default: the small one)"
    )
    parser.add_argument(
        "--port", type=int, action="append", metavar="N", help="port that shall be free; repeat it for several (default: 7860)"
    )
    parser.add_argument("--data", type=Path, default=Path("."), metavar="DIR", help="folder that will hold songs (default: this one)")
    parser.add_argument("--server", metavar="HOST:PORT", help="a running server to ask (default: none)")
    add_connection_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Look, print; a code of its own if something is wrong."""
    findings = [
        _python(),
        *_packages(),
        *_devices(),
        _checkpoint(args.checkpoint),
        *(_port(port) for port in args.port or [7860]),
        _disk(args.data),
        *(asyncio.run(_server(args)) if args.server else []),
    ]
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], ensure_ascii=False))
    else:
        for finding in findings:
            print(f"{finding.state:<10} {finding.what}: {finding.found}")
            if finding.advice:
                print(f"{'':<10} -> {finding.advice}")
    return ExitCode.DIFFERENT if any(finding.state == "wrong" for finding in findings) else ExitCode.OK


def _python() -> Finding:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {__version__} of {_DISTRIBUTION}"
    return Finding("python", "ok", found)


def _packages() -> Iterator[Finding]:
    """What each extra of the distribution asks for, and whether it is there."""
    try:
        from packaging.requirements import Requirement

        wanted = [Requirement(line) for line in importlib.metadata.requires(_DISTRIBUTION) or []]
    except (ModuleNotFoundError, importlib.metadata.PackageNotFoundError) as error:
        yield Finding("packages", "attention", f"cannot be looked at: {error}", f"pip install '{_DISTRIBUTION}[all]'")
        return
    for extra in ("", *_EXTRAS):
        missing = []
        for requirement in wanted:
            if requirement.name == _DISTRIBUTION or (bool(requirement.marker) != bool(extra)):
                continue
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            try:
                version = importlib.metadata.version(requirement.name)
            except importlib.metadata.PackageNotFoundError:
                missing.append(f"{requirement.name} is missing")
                continue
            if not requirement.specifier.contains(version, prereleases=True):
                missing.append(f"{requirement.name} is {version}, wanted: {requirement.specifier}")
        name = f"packages of [{extra}]" if extra else "packages"
        if not missing:
            yield Finding(name, "ok", "all there")
        else:
            advice = f"pip install '{_DISTRIBUTION}[{extra}]'" if extra else f"pip install --upgrade {_DISTRIBUTION}"
            yield Finding(name, "attention" if extra else "wrong", "; ".join(missing), advice)


def _devices() -> Iterator[Finding]:
    try:
        asked = subprocess.run([sys.executable, "-P", "-c", _DEVICES], capture_output=True, text=True, timeout=_DEVICE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        yield Finding("devices", "wrong", f"no answer within {_DEVICE_SECONDS:.0f} s", "look at the driver: nvidia-smi, dmesg")
        return
    if asked.returncode:
        last = (asked.stderr.strip().splitlines() or [f"ended with {asked.returncode}"])[-1]
        if "ModuleNotFoundError" in last:
            advice = f"to make songs here: pip install '{_DISTRIBUTION}[all]'; calling a server needs no torch"
            yield Finding("devices", "attention", "torch is not installed", advice)
        else:
            yield Finding("devices", "wrong", last, "install torch anew, in a build for this machine")
        return
    answer = json.loads(asked.stdout)
    cuda = f", CUDA {answer['cuda']}" if answer["cuda"] else ""
    yield Finding("torch", "ok", f"{answer['version']}{cuda}")
    for device in answer["devices"]:
        memory = f", {device['memory'] / 1024**3:.0f} GiB" if device["memory"] else ""
        found = f"{', '.join(device['types']) or 'no type'} computed right{memory}" + (f"; {device['error']}" if device["error"] else "")
        state = "ok" if "float32" in device["types"] else "wrong"
        advice = "" if state == "ok" else "look at the driver, or serve with --device cpu"
        yield Finding(f"device {device['device']} {device['name']}".rstrip(), state, found, advice)
    if len(answer["devices"]) == 1:
        yield Finding(
            "accelerator",
            "attention",
            "none: songs of the 3.5B checkpoint take long on a CPU",
            "an NVIDIA GPU needs its driver and a CUDA build of torch",
        )


def _checkpoint(folder: Path) -> Finding:
    what = f"checkpoint {folder}"
    if not folder.is_dir():
        return Finding(what, "wrong", "no such folder", f"acestep fetch-weights --output {folder}")
    lacking = [
        f"{name}/"
        for name in FOLDERS
        if not (folder / name / "config.json").is_file() or (name != "music_vocoder" and not list((folder / name).glob("*.safetensors")))
    ]
    lacking += [] if (folder / LYRIC_VOCABULARY).is_file() else [LYRIC_VOCABULARY]
    if lacking:
        return Finding(what, "wrong", f"not whole: {', '.join(lacking)}", f"acestep fetch-weights --output {folder}")
    if not (folder / MANIFEST).is_file():
        return Finding(what, "ok", "all parts are there; no manifest, so digests are not checked")
    try:
        manifest = verify(folder)
    except CommandFailed as error:
        return Finding(what, "wrong", str(error).replace("\n", "; "), f"acestep fetch-weights --output {folder}")
    return Finding(what, "ok", f"{len(manifest['sha256'])} files are those of {manifest['repository']} at {manifest['revision'][:12]}")


def _port(port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            return Finding(f"port {port}", "attention", str(error), "something listens there: a server of yours, or take another --port")
    return Finding(f"port {port}", "ok", "free")


def _disk(folder: Path) -> Finding:
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    found = f"{free / 1024**3:.1f} GiB free"
    if not os.access(there, os.W_OK):
        return Finding(f"disk at {there}", "wrong", f"{found}, but it cannot be written to", "choose another --data")
    if free < _LEAST_DISK_BYTES:
        return Finding(f"disk at {there}", "attention", found, "an hour of wav is 0.7 GB: make room, or set RETENTION_BYTES (docs/jobs.md)")
    return Finding(f"disk at {there}", "ok", found)


async def _server(args: argparse.Namespace) -> list[Finding]:
    what = f"server {args.server}"
    try:
        async with open_client(args, args.server) as client:
            answer = await client.capabilities()
    except AcestepError as error:
        advice = "is it running, and is this its port? acestep serve --embedded --port 7860; docs/security.md for TLS and keys"
        return [Finding(what, "wrong", f"{type(error).__name__}: {error}", advice)]
    version = Finding(what, "ok", f"version {answer.version}, tasks: {', '.join(answer.tasks)}")
    if answer.version != __version__:
        version = Finding(what, "attention", f"version {answer.version}; this command is {__version__}", "use the same version")
    return [version, *(_stage(stage) for stage in answer.stages)]


def _stage(stage: music_pb2.StageInfo) -> Finding:
    return Finding(f"stage {stage.stage}", "ok", f"{stage.device} {stage.dtype}, weights {stage.model_digest[:16]}")
