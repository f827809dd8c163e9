"""The `acestep` command. Its parts load only what they need: `acestep serve` imports the one service that it runs."""

import argparse
import asyncio
import os
import select
import sys
from collections.abc import Sequence

from acestep_rpc import __version__
from acestep_rpc.errors import AcestepError
from clients.cli import (
    adapters,
    batch,
    capabilities,
    cluster,
    completion,
    demo,
    doctor,
    fetch_weights,
    generate,
    init_checkpoint,
    jobs,
    keys,
    lyrics,
    replay,
    serve,
    submit,
    ui,
    variations,
)
from clients.cli.failures import EXIT_CODES_HELP, CommandFailed, ExitCode, exit_code

# PYTHON_ARGCOMPLETE_OK

_COMMANDS = (
    generate,
    batch,
    replay,
    submit,
    jobs,
    lyrics,
    capabilities,
    adapters,
    ui,
    serve,
    keys,
    cluster,
    doctor,
    demo,
    fetch_weights,
    init_checkpoint,
    completion,
)
_DESCRIPTION = """\
ACE-Step v1: songs from tags and lyrics.

a first song, without a download, by the small checkpoint that comes along:
  acestep generate --tags "reggae, 92 bpm, A minor, organ, bass, drums, instrumental" --duration 20 -o song.wav

real music:
  acestep fetch-weights --output checkpoints/official
  acestep serve --embedded --checkpoint checkpoints/official --port 50050
  acestep generate --server localhost:50050 --tags "funk, bass" --lyrics-file song.txt -o song.flac

many songs, the same song again, and what is wrong here:
  acestep batch songs.jsonl --server localhost:50050 --output-dir out
  acestep replay song.flac --server localhost:50050
  acestep doctor
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser with every subcommand."""
    parser = argparse.ArgumentParser(
        prog="acestep", description=_DESCRIPTION, epilog=EXIT_CODES_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"acestep-serving {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for command in _COMMANDS:
        command.add_parser(commands)
    variations.add_parsers(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may come next
        import argcomplete

        argcomplete.autocomplete(parser)
    args = parser.parse_args(argv)
    try:
        code: int | None = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return ExitCode.NOT_READ
    except CommandFailed as failure:
        print(f"acestep: {failure}", file=sys.stderr)
        return failure.exit_code
    except AcestepError as error:
        print(f"acestep: {error}", file=sys.stderr)
        return exit_code(error)
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("acestep: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    return ExitCode.OK if code is None else code


def _nobody_reads() -> bool:
    """Whether whoever read what we print has gone, as `head` does. Nothing is printed from then on."""
    looking = select.poll()
    looking.register(sys.stdout.fileno(), 0)  # errors and the other end's going are told of in any case
    gone = bool(looking.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end of the process
    return gone


if __name__ == "__main__":
    sys.exit(main())
