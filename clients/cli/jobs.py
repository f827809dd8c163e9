"""`acestep jobs`: what a server was left to do, and what became of it."""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import json_format

from acestep_rpc.channels import RemoteStub
from acestep_rpc.errors import DeadlineExceeded, from_status
from acestep_rpc.v1 import music_pb2, music_pb2_grpc
from clients.cli.connection import add_connection_arguments, open_channel
from clients.cli.failures import EXIT_CODES_HELP, CommandFailed, ExitCode, missing_extra
from clients.cli.generate import receive, report
from clients.cli.song_files import SongFiles

if TYPE_CHECKING:
    from clients.cli.progress import ProgressView

_DESCRIPTION = """
See, wait for and end the jobs that `acestep submit` left to a server.

  acestep jobs list --server localhost:7860 --filter "state = running"
  acestep jobs watch --server localhost:7860 operations/9f... -o song.wav
  acestep jobs cancel --server localhost:7860 9f...
"""
_PREFIX = "operations/"
_PAGE_SIZE = 200
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
        sub.add_argument("--server", metavar="HOST:PORT", required=True, help="a running server")
        add_connection_arguments(sub)
        sub.set_defaults(run=run, action=action)


def run(args: argparse.Namespace) -> None:
    """Call, print."""
    if args.action != "list" and not args.name.startswith(_PREFIX):
        args.name = _PREFIX + args.name
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
    async with open_channel(args, args.server) as channel:
        stub = RemoteStub(operations_pb2_grpc.OperationsStub, channel, args.server)
        match args.action:
            case "list":
                return [_line(operation) async for operation in _list(stub, args.filter)]
            case "show":
                operation = await stub.GetOperation(operations_pb2.GetOperationRequest(name=args.name))
                shown = json_format.MessageToDict(operation, preserving_proto_field_name=True)
                return [json.dumps(shown, indent=2, ensure_ascii=False)]
            case "wait":
                request = operations_pb2.WaitOperationRequest(name=args.name)
                if args.timeout is not None:
                    request.timeout.FromMilliseconds(round(args.timeout * 1000))
                return [song.name for song in _result(await stub.WaitOperation(request)).songs]
            case "cancel":
                await stub.CancelOperation(operations_pb2.CancelOperationRequest(name=args.name))
            case "delete":
                await stub.DeleteOperation(operations_pb2.DeleteOperationRequest(name=args.name))
        return []


async def _list(stub: Any, wanted: str) -> AsyncIterator[operations_pb2.Operation]:
    token = ""
    while True:
        request = operations_pb2.ListOperationsRequest(name="operations", filter=wanted, page_size=_PAGE_SIZE, page_token=token)
        page = await stub.ListOperations(request)
        for operation in page.operations:
            yield operation
        token = page.next_page_token
        if not token:
            return


def _line(operation: operations_pb2.Operation) -> str:
    metadata = music_pb2.GenerationMetadata()
    operation.metadata.Unpack(metadata)
    state = music_pb2.JobState.Name(metadata.state).removeprefix("JOB_STATE_").lower()
    return "\t".join([operation.name, state, metadata.create_time.ToJsonString(), str(metadata.attempt)])


def _result(operation: operations_pb2.Operation) -> music_pb2.GenerateResult:
    if not operation.done:
        raise DeadlineExceeded(f"{operation.name} has not ended yet")
    if operation.HasField("error"):
        raise from_status(operation.error)
    result = music_pb2.GenerateResult()
    operation.response.Unpack(result)
    return result


async def _watch(args: argparse.Namespace, view: "ProgressView") -> None:
    async with open_channel(args, args.server) as channel:
        stub = RemoteStub(music_pb2_grpc.MusicServiceStub, channel, args.server)
        request = music_pb2.WatchGenerationRequest(name=args.name, skip_audio=args.output is None)

        async def events() -> AsyncIterator[music_pb2.GenerateEvent]:
            async with aclosing(stub.WatchGeneration(request)) as responses:
                async for response in responses:
                    yield response.event

        if args.output is None:
            report(await receive(events(), None, view))
            return
        with SongFiles(args.output) as files:
            result = await receive(events(), files, view)
            report(result)
            for path, _ in files.finish(result.songs):
                print(path)
