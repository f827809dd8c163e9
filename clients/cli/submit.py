"""`acestep submit`: a song as a job of the server."""

import argparse
import asyncio
import json
import os

from google.protobuf import json_format

from acestep_client import Job
from acestep_client.requests import FORMATS
from acestep_rpc.errors import InvalidRequest
from acestep_rpc.v1 import music_pb2
from clients.cli.connection import add_connection_arguments, open_client
from clients.cli.failures import EXIT_CODES_HELP
from clients.cli.request import add_arguments, build_request, in_terms_of_flags

_DESCRIPTION = """
Leave a song to the server, and print the name of its operation. It is made whether or not anyone waits.

  acestep submit --server localhost:7860 --tags "funk, bass, 105 bpm" --duration 30 --format flac
  acestep jobs watch --server localhost:7860 operations/... -o song.flac

With --request-id the same command can be repeated: it is the same job.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "submit",
        help="make a song from tags and lyrics as a job of a server",
        description=_DESCRIPTION,
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--server", metavar="HOST:PORT", required=True, help="a running server")
    add_connection_arguments(parser)
    add_arguments(parser)
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="length, 1 to 240 (default: 60)")
    parser.add_argument("--format", choices=tuple(FORMATS), default="wav", help="(default: %(default)s)")
    parser.add_argument("--sample-rate", type=int, choices=(44100, 48000), help="in Hz (default: 48000)")
    parser.add_argument("--json", action="store_true", help="print the operation as JSON instead of its name")
    job = parser.add_argument_group("the job")
    job.add_argument("--request-id", default="", metavar="ID", help="name of the operation after operations/ (default: drawn)")
    job.add_argument("--webhook-url", metavar="URL", help="called when the job ends (default: nobody is)")
    job.add_argument(
        "--webhook-secret",
        default=os.environ.get("ACESTEP_WEBHOOK_SECRET"),
        metavar="whsec_...",
        help="key of its signature (default: ACESTEP_WEBHOOK_SECRET of the environment, or the server's own)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Submit, print the name."""
    generation = build_request(args, FORMATS[args.format], args.sample_rate)
    generation.request_id = args.request_id
    generation.text_to_music.CopyFrom(music_pb2.TextToMusic(duration_seconds=args.duration))
    try:
        job = asyncio.run(_submit(args, generation))
    except InvalidRequest as error:
        raise in_terms_of_flags(error) from error
    if args.json:
        print(json.dumps(json_format.MessageToDict(job.operation, preserving_proto_field_name=True), ensure_ascii=False))
    else:
        print(job.name)


async def _submit(args: argparse.Namespace, request: music_pb2.GenerateRequest) -> Job:
    secret = args.webhook_secret if args.webhook_url is not None else None
    async with open_client(args, args.server) as client:
        return await client.submit(request, webhook_url=args.webhook_url, webhook_secret=secret)
