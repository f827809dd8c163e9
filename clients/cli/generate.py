"""`acestep generate`, and what every command that makes songs shares: one request, its progress, its files."""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acestep_client import AsyncClient, BrokenTransfer, Result, source
from acestep_client.parameters import Recipe
from acestep_client.requests import FORMATS
from acestep_rpc.errors import InvalidRequest
from acestep_rpc.v1 import music_pb2
from clients.cli.checkpoint import EMBEDDED_CHECKPOINT
from clients.cli.connection import add_connection_arguments, open_client
from clients.cli.embedded_server import embedded_server
from clients.cli.failures import EXIT_CODES_HELP, CommandFailed, ExitCode, missing_extra
from clients.cli.like import changed, extension, find_recipe, placed_source
from clients.cli.request import add_arguments, build_request, in_terms_of_flags

if TYPE_CHECKING:
    from clients.cli.progress import ProgressView

_DESCRIPTION = r"""
Make songs and write them to files.

  acestep generate --server localhost:50050 --tags "funk, bass, 105 bpm" --duration 30 -o song.wav
  acestep generate --checkpoint DIR --tags "ballad, piano" --lyrics "[verse]\nhello world" -o song.flac
  acestep generate --server localhost:50050 --tags techno --seed 1 --seed 2 -o take.mp3
  acestep generate --server localhost:50050 --like song_input_params.json --tags "jazz, bass" -o other.wav

The third one writes take_0.mp3 and take_1.mp3. Beside song.wav stands song_input_params.json: every parameter
of the song, with its seed; the song has it inside, too. --like takes either, or a parameter file of the reference,
and makes that song again; flags beside it change what they name. A file appears only when it is whole. The paths are
printed on standard output.

  acestep generate --server localhost:50050 --tags "funk" --preview-steps 10,30 --preview-window 0:8 -o song.wav

lets you hear song.preview-10.wav and song.preview-30.wav before the song is done.
"""
_EXTENSIONS = {".wav": "wav", ".flac": "flac", ".mp3": "mp3", ".ogg": "ogg", ".opus": "opus"}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = add_song_parser(commands, "generate", "make a song from tags and lyrics", _DESCRIPTION)
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="length, 1 to 240 (default: 60)")
    parser.add_argument("--like", type=Path, metavar="FILE", help="make the song of this parameter file (JSON) or of this song again")
    parser.add_argument(
        "--from", dest="source", metavar="FILE", help="with --like, of a song made from another one: that one, where the server lacks it"
    )
    parser.set_defaults(set_task=_set_task)


def _set_task(request: music_pb2.GenerateRequest, args: argparse.Namespace, source: music_pb2.AudioSource | None) -> None:
    if args.like is None:
        request.text_to_music.CopyFrom(music_pb2.TextToMusic(duration_seconds=args.duration))
    elif args.duration is not None:
        task = request.WhichOneof("task")
        if task not in ("text_to_music", "retake"):
            raise CommandFailed(f"--duration: a {task} has the length that its source gives it", ExitCode.USAGE)
        getattr(request, task).duration_seconds = args.duration


def add_song_parser(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, purpose: str, description: str
) -> argparse.ArgumentParser:
    """A subcommand that makes songs.

    Its caller adds flags of its own and sets the defaults `set_task(request, args, source)`, which puts the task into the request, and
    `source`: None, or the file or asset that the task starts from.
    """
    parser = commands.add_parser(
        name, help=purpose, description=description, epilog=EXIT_CODES_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_server_arguments(parser)
    add_arguments(parser)
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output", type=Path, metavar="FILE", help="(default: song.wav)")
    output.add_argument("--format", choices=tuple(FORMATS), help="(default: from the file's extension)")
    output.add_argument("--sample-rate", type=int, choices=(44100, 48000), help="in Hz (default: 48000)")
    output.add_argument(
        "--keep", action="store_true", help="keep the songs on the server too; their names, for --from, are printed on standard error"
    )
    output.add_argument("--json", action="store_true", help="print the receipts, one JSON object a line, instead of the paths")
    add_patience_arguments(output)
    parser.set_defaults(run=run, like=None)
    return parser


def add_patience_arguments(group: "argparse._ArgumentGroup") -> None:
    """Flags of commands that take a while."""
    group.add_argument("--quiet", action="store_true", help="show no progress")
    group.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="give up after this time (default: never)")


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags that say who makes the songs: a running server, or one for this command."""
    where = parser.add_argument_group("where").add_mutually_exclusive_group()
    where.add_argument("--server", metavar="HOST:PORT", help="a running server")
    where.add_argument(
        "--checkpoint",
        type=Path,
        default=EMBEDDED_CHECKPOINT,
        metavar="DIR",
        help="start a server with this checkpoint, for this command only (default: the small one that comes along)",
    )
    add_connection_arguments(parser)
    own = parser.add_argument_group("without --server")
    own.add_argument("--device", help="torch device, or auto (default: auto)")
    own.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), help="compute type (default: auto)")
    own.add_argument("--threads", type=int, help="CPU threads; 0: one per core (default: 0)")


def check_server_arguments(args: argparse.Namespace) -> None:
    """Raise CommandFailed where those flags contradict each other."""
    if args.server is not None:
        for name in ("device", "dtype", "threads"):
            if getattr(args, name) is not None:
                raise CommandFailed(f"--{name} does not go with --server: a running server has its own", ExitCode.USAGE)
    elif args.tls_ca is not None:
        raise CommandFailed("--tls-ca goes with --server: a server of one's own is called in plain text", ExitCode.USAGE)
    elif not args.checkpoint.is_dir():
        raise CommandFailed(f"--checkpoint {args.checkpoint}: no such folder", ExitCode.USAGE)


def check_output(path: Path) -> None:
    """Raise CommandFailed where no file can be written."""
    if not path.parent.is_dir():
        raise CommandFailed(f"-o {path}: there is no folder {path.parent}", ExitCode.USAGE)
    if path.is_dir():
        raise CommandFailed(f"-o {path} is a folder: name a file", ExitCode.USAGE)


def run(args: argparse.Namespace) -> None:
    """Generate, write, print."""
    check_server_arguments(args)
    recipe = find_recipe(args.like, "--like") if args.like is not None else None
    if recipe is None and args.source is not None and args.command == "generate":
        raise CommandFailed("--from goes with --like; other songs from songs: acestep repaint, extend, edit, cover", ExitCode.USAGE)
    if args.output is None:
        args.output = Path("song.wav") if recipe is None else Path(f"song.{extension(recipe.request.output.format)}")
    check_output(args.output)
    request = build_request(args, _audio_format(args, recipe), args.sample_rate)
    if recipe is not None:
        request = changed(recipe.request, request)
    request.keep_results = args.keep
    result = with_progress(args.quiet, lambda view: _generate(args, request, recipe, view))
    report(result)
    for song in result:
        print(json.dumps(song.receipt | {"audio_path": str(song.content)}, ensure_ascii=False) if args.json else song.content)


def with_progress(quiet: bool, work: Callable[["ProgressView"], Coroutine[Any, Any, Result]]) -> Result:
    """The result of work that shows its progress; its failures in the words of the command line."""
    try:
        from clients.cli.progress import ProgressView  # needs the extra
    except ModuleNotFoundError as error:
        raise missing_extra(error, "cli") from error
    try:
        with ProgressView(quiet=quiet) as view:
            return asyncio.run(_until_terminated(work(view)))
    except InvalidRequest as error:
        raise in_terms_of_flags(error) from error
    except (OSError, BrokenTransfer) as error:
        raise CommandFailed(str(error)) from error


async def _until_terminated(work: Coroutine[Any, Any, Result]) -> Result:
    """SIGTERM cancels the work, as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def report(result: Result) -> None:
    """Print on standard error what an author should know."""
    for warning in result.warnings:
        print(f"acestep: warning: {warning}", file=sys.stderr)
    for change in result.lyric_changes:
        print(f"acestep: lyrics: {_shown(change)}", file=sys.stderr)
    for song in result:
        if song.name:
            print(f"acestep: kept as {song.name}", file=sys.stderr)


def _shown(change: music_pb2.LyricChange) -> str:
    """As "line 3: 'old', 'lines' -> 'new'"."""
    old, new = (", ".join(map(repr, lines)) or "nothing" for lines in (change.old_lines, change.new_lines))
    return f"line {change.old_line_number}: {old} -> {new}"


def _audio_format(args: argparse.Namespace, recipe: Recipe | None) -> music_pb2.AudioFormat:
    """What --format or the file's name says; of a song made again its own, where the name does not contradict."""
    suffix = args.output.suffix.lower()
    if args.format is None and recipe is not None and suffix == f".{extension(recipe.request.output.format)}":
        return recipe.request.output.format
    name = args.format or _EXTENSIONS.get(suffix)
    if name is None:
        raise CommandFailed(f"-o {args.output}: give --format, or one of the extensions {' '.join(_EXTENSIONS)}", ExitCode.USAGE)
    return FORMATS[name]


async def _generate(args: argparse.Namespace, request: music_pb2.GenerateRequest, recipe: Recipe | None, view: "ProgressView") -> Result:
    async with server(args, view) as target, open_client(args, target) as client:
        if recipe is None:
            args.set_task(request, args, await _find_source(client, args.source) if args.source else None)
            return await client.generate(request, to=args.output, on_progress=view.update, on_preview=view.preview, timeout=args.timeout)
        args.set_task(request, args, None)
        async with placed_source(client, recipe, request, args.source):
            return await client.generate(request, to=args.output, on_progress=view.update, on_preview=view.preview, timeout=args.timeout)


async def _find_source(client: AsyncClient, name: str) -> music_pb2.AudioSource:
    """What --from means: the name of an asset or a result as it is, a file uploaded."""
    if Path(name).is_file():
        return source((await client.upload(Path(name))).name)
    if name.startswith(("assets/", "operations/")):
        return source(name)
    raise CommandFailed(f"--from {name}: no such file", ExitCode.USAGE)


@asynccontextmanager
async def server(args: argparse.Namespace, view: "ProgressView | None" = None) -> AsyncIterator[str]:
    """The target: the running server, or one that lives as long as the block."""
    if args.server is not None:
        yield args.server
        return
    settings = {name: str(value) for name in ("checkpoint", "device", "dtype", "threads") if (value := getattr(args, name)) is not None}
    if view is not None:
        view.begin("load")
    async with embedded_server(settings) as target:
        if view is not None:
            view.end("load")
        yield target


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value
