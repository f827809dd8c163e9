"""`acestep lyrics`: how a server reads lyrics, line by line, without making a song."""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf import json_format

from acestep_rpc.errors import InvalidRequest
from acestep_rpc.v1 import encoder_pb2, lyrics_pb2
from clients.cli.checkpoint import EMBEDDED_CHECKPOINT
from clients.cli.connection import add_connection_arguments, open_client
from clients.cli.embedded_server import embedded_server
from clients.cli.failures import EXIT_CODES_HELP, CommandFailed, ExitCode, missing_extra
from clients.cli.request import add_lyric_arguments, in_terms_of_flags, lyric_options, read_lyrics

if TYPE_CHECKING:
    from rich.table import Table

_DESCRIPTION = """\
Show how lyrics are read: the language of every line and why, the text that the model is given, its tokens and syllables, and warnings.

  acestep lyrics song.txt --server localhost:50050
  acestep lyrics song.txt --checkpoint checkpoints/official --duration 120
  acestep lyrics - --lyric-language ja --json < song.txt
"""
_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_red", "bright_cyan", "bright_green", "bright_magenta")
_HINTS = {
    lyrics_pb2.SINGABILITY_FITS: "the words fit",
    lyrics_pb2.SINGABILITY_TOO_DENSE: "too dense: words will be swallowed",
    lyrics_pb2.SINGABILITY_TOO_SPARSE: "too sparse: long stretches have no words",
}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "lyrics",
        help="show how lyrics are read, without making a song",
        description=_DESCRIPTION,
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="lyrics, UTF-8; - reads standard input")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--server", metavar="HOST:PORT", help="a running server")
    where.add_argument(
        "--checkpoint",
        type=Path,
        default=EMBEDDED_CHECKPOINT,
        metavar="DIR",
        help="start a server with this checkpoint for this command (default: the small one that comes along, which sings English)",
    )
    add_connection_arguments(parser)
    add_lyric_arguments(parser)
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="wanted length: says whether the words fit")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Ask, print."""
    if args.server is None and args.tls_ca is not None:
        raise CommandFailed("--tls-ca goes with --server: a server of one's own is called in plain text", ExitCode.USAGE)
    if args.server is None and not args.checkpoint.is_dir():
        raise CommandFailed(f"--checkpoint {args.checkpoint}: no such folder", ExitCode.USAGE)
    lyrics = read_lyrics(None, args.file)
    try:
        response = asyncio.run(_preview(args, lyrics))
    except InvalidRequest as error:
        raise in_terms_of_flags(error) from error
    if args.json:
        fields = json_format.MessageToDict(response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        print(json.dumps(fields, ensure_ascii=False))
        return
    try:
        from rich.console import Console  # needs the extra
    except ModuleNotFoundError as error:
        raise missing_extra(error, "cli") from error
    console = Console()
    console.print(table(response))
    for line in response.lines:
        for warning in line.warnings:
            console.print(f"line {line.line_number}: {warning}", style="yellow", markup=False)
        if line.unknown_characters:
            unknown = " ".join(line.unknown_characters)
            console.print(f"line {line.line_number}: the model does not know {unknown}", style="red", markup=False)
    console.print(summary(response), markup=False)


def table(response: lyrics_pb2.PreviewResponse) -> "Table":
    """The lines, a colour a language."""
    from rich.table import Table
    from rich.text import Text

    colours: dict[str, str] = {}
    found = Table("line", "language", "why", "read as", "tokens", "syllables")
    for line in response.lines:
        style = colours.setdefault(line.language, _COLOURS[len(colours) % len(_COLOURS)]) if line.language else "dim"
        cells = (str(line.line_number), _language(line), _reason(line), line.normalized_text, str(line.token_count), str(line.syllables))
        found.add_row(*map(Text, cells), style=style)
    return found


def summary(response: lyrics_pb2.PreviewResponse) -> str:
    """Tokens, syllables and the hint."""
    rules = encoder_pb2.LyricRules.Name(response.lyric_rules).removeprefix("LYRIC_RULES_").lower()
    said = f"{response.token_count} tokens, {response.syllables} syllables, {rules} rules"
    if response.singability not in _HINTS:
        return said
    return f"{said}; {response.syllables_per_second:.1f} syllables a second: {_HINTS[response.singability]}"


def _language(line: encoder_pb2.LyricLine) -> str:
    return f"{line.language} for {line.detected_language}" if line.detected_language not in ("", line.language) else line.language


def _reason(line: encoder_pb2.LyricLine) -> str:
    return f"{line.language_reason} ({line.language_score:.2f})" if line.HasField("language_score") else line.language_reason


async def _preview(args: argparse.Namespace, lyrics: str) -> lyrics_pb2.PreviewResponse:
    async with _server(args) as target, open_client(args, target) as client:
        return await client.preview_lyrics(lyrics, options=lyric_options(args), duration_seconds=args.duration)


@asynccontextmanager
async def _server(args: argparse.Namespace) -> AsyncIterator[str]:
    if args.server is not None:
        yield args.server
        return
    async with embedded_server({"checkpoint": str(args.checkpoint)}) as target:
        yield target
