"""The `acestep` command. Its parts load only what they need: `acestep serve` imports the one service that it runs."""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from acestep_rpc import __version__
from acestep_rpc.errors import AcestepError
from clients.cli import adapters, cluster, demo, fetch_weights, generate, init_checkpoint, jobs, keys, lyrics, serve, submit, variations
from clients.cli.failures import EXIT_CODES_HELP, CommandFailed, ExitCode, exit_code

_DESCRIPTION = """\
ACE-Step v1: songs from tags and lyrics.

a first song, without a download (the checkpoint is random, so the song is noise):
  acestep init-checkpoint --size tiny --seed 0 checkpoints/tiny
  acestep generate --checkpoint checkpoints/tiny --tags "funk, bass" --duration 10 -o song.wav

real music:
  acestep fetch-weights --output checkpoints/official
  acestep serve --embedded --checkpoint checkpoints/official --port 50050
  acestep generate --server localhost:50050 --tags "funk, bass" --lyrics-file song.txt -o song.flac
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser with every subcommand."""
    parser = argparse.ArgumentParser(
        prog="acestep", description=_DESCRIPTION, epilog=EXIT_CODES_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"acestep-serving {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (generate, submit, jobs, lyrics, serve, keys, adapters, cluster, demo, fetch_weights, init_checkpoint):
        command.add_parser(commands)
    variations.add_parsers(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    args = build_parser().parse_args(argv)
    try:
        args.run(args)
    except CommandFailed as failure:
        print(f"acestep: {failure}", file=sys.stderr)
        return failure.exit_code
    except AcestepError as error:
        print(f"acestep: {error}", file=sys.stderr)
        return exit_code(error)
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("acestep: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
