"""`acestep init-checkpoint`: a randomly initialised checkpoint."""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from clients.cli.failures import CommandFailed, ExitCode, missing_extra

_DESCRIPTION = """\
Write a randomly initialised checkpoint in the official layout, with tokenizers of its own.
Its songs are noise. It is for trying the system, for tests, and as the start of training.

  tiny      19 MB, seconds
  official  9 GB, the architecture of ACE-Step v1 3.5B, minutes

Equal seeds give equal files. An existing checkpoint is never overwritten.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "init-checkpoint",
        help="write a random checkpoint",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="new or empty folder")
    parser.add_argument("--size", choices=("tiny", "official"), default="tiny", help="architecture (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="any whole number (default: %(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write the checkpoint and say what it is."""
    try:
        writer: Any = importlib.import_module("training.init_checkpoint")
    except ModuleNotFoundError as error:
        raise missing_extra(error, "encoder,vae") from error
    try:
        writer.write_checkpoint(args.folder, args.size, args.seed)
    except FileExistsError as error:
        raise CommandFailed(f"{error}: choose another folder", ExitCode.USAGE) from error
    except OSError as error:
        raise CommandFailed(str(error)) from error
    print(f"random weights, {args.size}, seed {args.seed}: the songs of this checkpoint are noise", file=sys.stderr)
    print(args.folder)
