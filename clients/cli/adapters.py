"""`acestep adapters`: what a server holds of its adapter store."""

import argparse
import asyncio
import json

from google.protobuf import json_format

from acestep_rpc.v1 import adapter_pb2
from clients.cli.connection import add_connection_arguments, open_client

_DESCRIPTION = """
List the adapters (LoRA) of a server, load one before the first request needs it, or free its memory.

  acestep adapters list --server localhost:7860
  acestep adapters load rap --server localhost:7860
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "adapters",
        help="list, load and unload the adapters of a server",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for action, purpose in (("list", "what the store has"), ("load", "hold one in memory"), ("unload", "free its memory")):
        sub = actions.add_parser(action, help=purpose)
        if action != "list":
            sub.add_argument("name", help="name in the adapter store")
        sub.add_argument("--json", action="store_true", help="print a JSON object for each")
        sub.add_argument("--server", metavar="HOST:PORT", required=True, help="a running server")
        add_connection_arguments(sub)
        sub.set_defaults(run=run, action=action)


def run(args: argparse.Namespace) -> None:
    """Call, print a line for each adapter."""
    for adapter in asyncio.run(_call(args)):
        if args.json:
            print(json.dumps(json_format.MessageToDict(adapter, preserving_proto_field_name=True)))
            continue
        trained = ["has trained scale"] if adapter.has_trained_scale else []
        print(adapter.name, "loaded" if adapter.loaded else "not loaded", *trained, sep="\t")


async def _call(args: argparse.Namespace) -> list[adapter_pb2.Adapter]:
    async with open_client(args, args.server) as client:
        match args.action:
            case "load":
                return [await client.load_adapter(args.name)]
            case "unload":
                return [await client.unload_adapter(args.name)]
            case _:
                return await client.adapters()
