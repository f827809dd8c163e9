"""`acestep replay`: is a song what its receipt says?"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from acestep_client import Result
from acestep_client.parameters import Recipe
from acestep_client.replay import Comparison, compare
from clients.cli.connection import open_client
from clients.cli.failures import EXIT_CODES_HELP, CommandFailed, ExitCode, missing_extra
from clients.cli.generate import add_patience_arguments, add_server_arguments, check_output, check_server_arguments, server, with_progress
from clients.cli.like import find_recipe, placed_source

if TYPE_CHECKING:
    from clients.cli.progress import ProgressView

_DESCRIPTION = """
Make a song again from the receipt inside its file, and say whether it is the same: byte for byte, else sample for
sample; if not, by how much, and what was different when it was made (weights, device, type, versions).

  acestep replay song.flac --server localhost:7860
  acestep replay song.wav --checkpoint checkpoints/official -o again.wav
  acestep replay mended.wav --server localhost:7860 --from original.wav

The last song was made from another one: the server has it, or --from gives it. Exit code 0: the same samples; 7: others.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "replay",
        help="make a song again from its receipt and compare",
        description=_DESCRIPTION,
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("song", type=Path, metavar="FILE", help="a song of this system, in any format")
    parser.add_argument("--from", dest="source", metavar="FILE", help="what the song was made from, where the server lacks it")
    add_server_arguments(parser)
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output", type=Path, metavar="FILE", help="keep the new song (default: it is not kept)")
    output.add_argument("--json", action="store_true", help="print the comparison as JSON")
    add_patience_arguments(output)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make it, compare, print; the exit code says what came out."""
    check_server_arguments(args)
    if args.output is not None:
        check_output(args.output)
    recipe = find_recipe(args.song, "replay")
    if "stages" not in recipe.parameters:
        raise CommandFailed(f"{args.song} has no receipt of this system: acestep generate --like makes a song of it", ExitCode.USAGE)
    if args.song.suffix == ".json":
        raise CommandFailed(f"{args.song}: name the song, which has its receipt inside", ExitCode.USAGE)
    with tempfile.TemporaryDirectory(prefix="acestep-replay-") as folder:
        path = args.output or Path(folder) / f"song{args.song.suffix}"
        result = with_progress(args.quiet, lambda view: _make(args, recipe, path, view))
        try:
            comparison = compare(args.song, recipe.parameters, result.song)
        except ModuleNotFoundError as error:
            raise missing_extra(error, "client") from error
    for warning in result.warnings:
        print(f"acestep: warning: {warning}", file=sys.stderr)
    print(json.dumps(vars(comparison), ensure_ascii=False) if args.json else _said(comparison))
    return ExitCode.OK if comparison.same_audio else ExitCode.DIFFERENT


async def _make(args: argparse.Namespace, recipe: Recipe, path: Path, view: "ProgressView") -> Result:
    async with (
        server(args, view) as target,
        open_client(args, target) as client,
        placed_source(client, recipe, recipe.request, args.source, exact=True),
    ):
        return await client.generate(recipe.request, to=path, on_progress=view.update, timeout=args.timeout)


def _said(comparison: Comparison) -> str:
    if comparison.same_file:
        return "the same file, byte for byte"
    first = "the same samples; the file differs" if comparison.same_audio else "not the same"
    if comparison.signal_to_noise_db is not None:
        first += f": the difference is {comparison.signal_to_noise_db} dB below the song"
    return "\n".join([first, *(f"  {reason}" for reason in comparison.reasons)])
