"""`acestep jobs`: what a server was left to do, and what became of it."""

import argparse
import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf import json_format

from acestep_client import Job
from acestep_rpc.errors import DeadlineExceeded
from clients.cli.connection import add_connection_arguments, open_client
from clients.cli.failures import EXIT_CODES_HELP, CommandFailed, ExitCode, missing_extra
from clients.cli.generate import report

if TYPE_CHECKING:
    from clients.cli.progress import ProgressView

_DESCRIPTION = """
See, wait for and end the jobs that `acestep submit` left to a server.

  acestep jobs list --server localhost:7860 --filter "state = running"
  acestep jobs watch --server localhost:7860 operations/9f... -o song.wav
  acestep jobs cancel --server localhost:7860 9f...
"""
_ACTIONS = {
    "list": "the newest first: name, state, time of submission, attempts",
    "show": "one of them, as JSON",
    "wait": "until it has ended; prints the names of its songs",
    "watch": "its progress, until it has ended; writes its songs to files with -o",
    "cancel": "end one",
    "delete": "forget one that has ended, and its songs",
}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "jobs",
        help="list, show, wait for, watch, cancel and delete jobs of a server",
        description=_DESCRIPTION,
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for action, purpose in _ACTIONS.items():
        sub = actions.add_parser(action, help=purpose)
        if action == "list":
            sub.add_argument(
                "--filter", default="", help='"state = queued|running|succeeded|failed|cancelled", "done = true|false", joined by AND'
            )
        else:
            sub.add_argument("name", help="operations/..., as acestep submit prints it; the prefix may be left out")
        if action == "wait":
            sub.add_argument("--timeout", type=float, metavar="SECONDS", help="give up after this time (default: never)")
        if action == "watch":
            sub.add_argument("-o", "--output", type=Path, metavar="FILE", help="where the song goes (default: it stays on the server)")
            sub.add_argument("--quiet", action="store_true", help="show no progress")
        sub.add_argument("--json", action="store_true", help="print operations, of watch the receipts, as JSON, one a line")
        sub.add_argument("--server", metavar="HOST:PORT", required=True, help="a running server")
        add_connection_arguments(sub)
        sub.set_defaults(run=run, action=action)


def run(args: argparse.Namespace) -> None:
    """Call, print."""
    if args.action == "watch":
        if args.output is not None and not args.output.parent.is_dir():
            raise CommandFailed(f"-o {args.output}: there is no folder {args.output.parent}", ExitCode.USAGE)
        try:
            from clients.cli.progress import ProgressView  # needs the extra
        except ModuleNotFoundError as error:
            raise missing_extra(error, "cli") from error
        with ProgressView(quiet=args.quiet) as view:
            asyncio.run(_watch(args, view))
        return
    for line in asyncio.run(_call(args)):
        print(line)


async def _call(args: argparse.Namespace) -> list[str]:
    """The lines to print."""
    async with open_client(args, args.server) as client:
        match args.action:
            case "list":
                return [_json(job) if args.json else _line(job) async for job in client.jobs(args.filter)]
            case "show":
                return [_json(await client.job(args.name), None if args.json else 2)]
            case "wait":
                job = await client.wait(args.name, args.timeout)
                if not job.done:
                    raise DeadlineExceeded(f"{job.name} has not ended yet")
                outcome = job.outcome()
                return [_json(job)] if args.json else [song.name for song in outcome.songs]
            case "cancel":
                await client.cancel(args.name)
                return [_json(await client.job(args.name))] if args.json else []
            case "delete":
                await client.delete(args.name)
        return []


def _json(job: Job, indent: int | None = None) -> str:
    shown = json_format.MessageToDict(job.operation, preserving_proto_field_name=True)
    return json.dumps(shown, indent=indent, ensure_ascii=False)


def _line(job: Job) -> str:
    return "\t".join([job.name, job.state, job.metadata.create_time.ToJsonString(), str(job.metadata.attempt)])


async def _watch(args: argparse.Namespace, view: "ProgressView") -> None:
    async with open_client(args, args.server) as client:
        result = await client.result(args.name, to=args.output, on_progress=view.update, fetch=args.output is not None)
        report(result)
        for song in result:
            if args.json:
                print(json.dumps(song.receipt, ensure_ascii=False))
            elif isinstance(song.content, Path):
                print(song.content)
