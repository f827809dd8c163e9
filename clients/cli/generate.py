"""`acestep generate`, and what every command that makes songs shares: one request, its progress, its files."""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acestep_rpc.channels import RemoteStub
from acestep_rpc.errors import InvalidRequest
from acestep_rpc.v1 import music_pb2, music_pb2_grpc
from clients.cli.checkpoint import EMBEDDED_CHECKPOINT
from clients.cli.connection import add_connection_arguments, open_channel
from clients.cli.embedded_server import embedded_server
from clients.cli.failures import EXIT_CODES_HELP, CommandFailed, ExitCode, missing_extra
from clients.cli.request import FORMATS, add_arguments, build_request, in_terms_of_flags
from clients.cli.song_files import SongFiles
from clients.cli.upload import find_source

if TYPE_CHECKING:
    from clients.cli.progress import ProgressView

_DESCRIPTION = r"""
Make songs and write them to files.

  acestep generate --server localhost:50050 --tags "funk, bass, 105 bpm" --duration 30 -o song.wav
  acestep generate --checkpoint DIR --tags "ballad, piano" --lyrics "[verse]\nhello world" -o song.flac
  acestep generate --server localhost:50050 --tags techno --seed 1 --seed 2 -o take.mp3

The last one writes take_0.mp3 and take_1.mp3. Beside song.wav stands song_input_params.json: every parameter
of the song, with its seed. A file appears only when it is whole. The paths are printed on standard output.

  acestep generate --server localhost:50050 --tags "funk" --preview-steps 10,30 --preview-window 0:8 -o song.wav

lets you hear song.preview-10.wav and song.preview-30.wav before the song is done.
"""
_EXTENSIONS = {".wav": "wav", ".flac": "flac", ".mp3": "mp3", ".ogg": "ogg", ".opus": "opus"}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = add_song_parser(commands, "generate", "make a song from tags and lyrics", _DESCRIPTION)
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="length, 1 to 240 (default: 60)")
    parser.set_defaults(set_task=_set_task, source=None)


def _set_task(request: music_pb2.GenerateRequest, args: argparse.Namespace, source: music_pb2.AudioSource | None) -> None:
    request.text_to_music.CopyFrom(music_pb2.TextToMusic(duration_seconds=args.duration))


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
    add_arguments(parser)
    output = parser.add_argument_group("output")
    output.add_argument("-o", "--output", type=Path, default=Path("song.wav"), metavar="FILE", help="(default: %(default)s)")
    output.add_argument("--format", choices=tuple(FORMATS), help="(default: from the file's extension)")
    output.add_argument("--sample-rate", type=int, choices=(44100, 48000), help="in Hz (default: 48000)")
    output.add_argument(
        "--keep", action="store_true", help="keep the songs on the server too; their names, for --from, are printed on standard error"
    )
    output.add_argument("--json", action="store_true", help="print the receipts, one JSON object a line, instead of the paths")
    output.add_argument("--quiet", action="store_true", help="show no progress")
    output.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="give up after this time (default: never)")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> None:
    """Generate, write, print."""
    if args.server is not None:
        for name in ("device", "dtype", "threads"):
            if getattr(args, name) is not None:
                raise CommandFailed(f"--{name} does not go with --server: a running server has its own", ExitCode.USAGE)
    elif args.tls_ca is not None:
        raise CommandFailed("--tls-ca goes with --server: a server of one's own is called in plain text", ExitCode.USAGE)
    elif not args.checkpoint.is_dir():
        raise CommandFailed(f"--checkpoint {args.checkpoint}: no such folder", ExitCode.USAGE)
    if not args.output.parent.is_dir():
        raise CommandFailed(f"-o {args.output}: there is no folder {args.output.parent}", ExitCode.USAGE)
    if args.output.is_dir():
        raise CommandFailed(f"-o {args.output} is a folder: name a file", ExitCode.USAGE)
    request = build_request(args, _audio_format(args), args.sample_rate)
    request.keep_results = args.keep
    try:
        from clients.cli.progress import ProgressView  # needs the extra
    except ModuleNotFoundError as error:
        raise missing_extra(error, "cli") from error
    try:
        with ProgressView(quiet=args.quiet) as view:
            result, files = asyncio.run(_generate(args, request, view))
    except InvalidRequest as error:
        raise in_terms_of_flags(error) from error
    except OSError as error:
        raise CommandFailed(str(error)) from error
    report(result)
    for path, receipt in files:
        print(json.dumps(receipt, ensure_ascii=False) if args.json else path)


def report(result: music_pb2.GenerateResult) -> None:
    """Print on standard error what an author should know."""
    for warning in result.warnings:
        print(f"acestep: warning: {warning}", file=sys.stderr)
    for change in result.lyric_changes:
        print(f"acestep: lyrics: {_shown(change)}", file=sys.stderr)
    for song in result.songs:
        if song.name:
            print(f"acestep: kept as {song.name}", file=sys.stderr)


def _shown(change: music_pb2.LyricChange) -> str:
    """As "line 3: 'old', 'lines' -> 'new'"."""
    old, new = (", ".join(map(repr, lines)) or "nothing" for lines in (change.old_lines, change.new_lines))
    return f"line {change.old_line_number}: {old} -> {new}"


def _audio_format(args: argparse.Namespace) -> music_pb2.AudioFormat:
    name = args.format or _EXTENSIONS.get(args.output.suffix.lower())
    if name is None:
        raise CommandFailed(f"-o {args.output}: give --format, or one of the extensions {' '.join(_EXTENSIONS)}", ExitCode.USAGE)
    return FORMATS[name]


async def _generate(
    args: argparse.Namespace, request: music_pb2.GenerateRequest, view: "ProgressView"
) -> tuple[music_pb2.GenerateResult, list[tuple[Path, dict[str, Any]]]]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with _server(args, view) as target, open_channel(args, target) as channel:
        stub = RemoteStub(music_pb2_grpc.MusicServiceStub, channel, target)
        # Closing the events, as leaving early does, cancels the work on the server.
        with SongFiles(args.output, request.output.format) as files:
            args.set_task(request, args, await find_source(stub, args.source) if args.source else None)
            async with aclosing(stub.Generate(request, timeout=args.timeout)) as events:
                result = await receive(events, files, view)
            return result, files.finish(result.songs)


async def receive(
    events: AsyncIterator[music_pb2.GenerateEvent], files: SongFiles | None, view: "ProgressView"
) -> music_pb2.GenerateResult:
    """Take what a server sends of a request, to its result; without files, audio is left."""
    result: music_pb2.GenerateResult | None = None
    async for event in events:
        kind = event.WhichOneof("event")
        if kind == "progress":
            view.update(event.progress)
        elif kind == "completed":
            result = event.completed
        elif files is not None and kind == "accepted":
            files.accept(len(event.accepted.seeds))
        elif files is not None and kind == "audio_chunk":
            preview = files.write(event.audio_chunk)
            if preview is not None:
                view.say(f"acestep: preview {preview}")
    if result is None:
        raise CommandFailed("the server ended the call without a result")
    return result


@asynccontextmanager
async def _server(args: argparse.Namespace, view: "ProgressView") -> AsyncIterator[str]:
    if args.server is not None:
        yield args.server
        return
    settings = {name: str(value) for name in ("checkpoint", "device", "dtype", "threads") if (value := getattr(args, name)) is not None}
    view.begin("load")
    async with embedded_server(settings) as target:
        view.end("load")
        yield target


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value
