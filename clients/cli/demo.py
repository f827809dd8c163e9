"""`acestep demo`: the four services as four processes, and a song made by them."""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from clients.cli.checkpoint import EMBEDDED_CHECKPOINT
from clients.cli.failures import CommandFailed

_DESCRIPTION = """\
Start encoder, diffusion, vae and orchestrator as four processes on free ports, make one song, stop them.

Without --checkpoint it is the small one that comes with the package.
"""
_TAGS = "reggae, 92 bpm, A minor, organ, bass, trumpet, drums, instrumental, relaxed"
_LYRICS = "[inst]"
_STAGES = ("encoder", "diffusion", "vae")
_START_SECONDS = 300.0
_STOP_SECONDS = 30.0


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "demo",
        help="make a song with four service processes",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/demo"), metavar="DIR", help="folder of the song (default: %(default)s)"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=EMBEDDED_CHECKPOINT,
        metavar="DIR",
        help="in the official layout (default: the small one)",
    )
    parser.add_argument("--tags", default=_TAGS, help="(default: %(default)s)")
    parser.add_argument("--lyrics", default=_LYRICS, help="(default: %(default)s)")
    parser.add_argument("--duration", type=float, default=30.0, metavar="SECONDS", help="length, 1 to 240 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Serve, generate, stop."""
    args.output.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="acestep-demo-")))
        targets: list[str] = []
        for stage in _STAGES:
            targets += [f"--{stage}", stack.enter_context(_service(folder, stage, "--checkpoint", str(args.checkpoint)))]
        front = stack.enter_context(_service(folder, "orchestrator", *targets))
        print(f"Four services serve; the orchestrator at {front}.", file=sys.stderr)
        song = args.output / "song.wav"
        options = [
            "--tags",
            args.tags,
            "--lyrics",
            args.lyrics,
            "--duration",
            str(args.duration),
            "--seed",
            str(args.seed),
            "-o",
            str(song),
        ]
        _acestep("generate", "--server", front, *options)


def _acestep(*arguments: str) -> None:
    finished = subprocess.run([*_COMMAND, *arguments], check=False)
    if finished.returncode:
        raise CommandFailed(f"acestep {arguments[0]} failed")


_COMMAND = (sys.executable, "-P", "-m", "clients.cli.main")  # -P: nothing of the working folder shadows a service


@contextlib.contextmanager
def _service(folder: Path, name: str, *arguments: str) -> Iterator[str]:
    """A service in a process of its own; yields its "host:port"."""
    ready, log = folder / f"{name}.json", folder / f"{name}.log"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ACESTEP_")}
    with log.open("wb") as output:
        command = [*_COMMAND, "serve", name, "--port", "0", "--ready-file", str(ready), *arguments]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise CommandFailed(f"{name} did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield f"127.0.0.1:{json.loads(ready.read_text())['port']}"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        process.kill()
        process.wait()
