"""`acestep capabilities`: what a server can do, and every limit."""

import argparse
import asyncio
import json

from google.protobuf import json_format

from acestep_rpc.v1 import music_pb2, sampling_pb2
from clients.cli.connection import add_connection_arguments, open_client
from clients.cli.failures import EXIT_CODES_HELP

_DESCRIPTION = """
What a server can do: tasks, solvers, formats, languages, adapters, every parameter with its range and default, and
the weights, devices and types of its stages.

  acestep capabilities --server localhost:7860
  acestep capabilities --server localhost:7860 --json
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "capabilities",
        help="show what a server can do, and its limits",
        description=_DESCRIPTION,
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--server", metavar="HOST:PORT", required=True, help="a running server")
    add_connection_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Ask, print."""
    answer = asyncio.run(_ask(args))
    if args.json:
        print(json.dumps(json_format.MessageToDict(answer, preserving_proto_field_name=True), ensure_ascii=False))
        return
    words = {
        "version": [answer.version],
        "tasks": answer.tasks,
        "schedulers": [_short(sampling_pb2.SchedulerType.Name(number)) for number in answer.schedulers],
        "cfg types": [_short(sampling_pb2.CfgType.Name(number)) for number in answer.cfg_types],
        "formats": [_short(music_pb2.AudioFormat.Name(number)) for number in answer.formats],
        "adapters": answer.adapters,
        "languages": answer.lyric_languages,
        "structure tags": answer.structure_tags,
        "tokens": [f"{answer.max_prompt_tokens} of tags", f"{answer.max_lyric_tokens} of lyrics"],
    }
    for name, values in words.items():
        print(f"{name:<16}{', '.join(values) or '-'}")
    for stage in answer.stages:
        print(f"{stage.stage:<16}{stage.device} {stage.dtype} {stage.model_digest[:16]} {stage.vocoder}".rstrip())
    print()
    for limit in answer.parameters:
        default = f"default {limit.default_value:g}" if limit.HasField("default_value") else ""
        print(f"{limit.field:<44}{limit.minimum:g} to {limit.maximum:g}  {default}".rstrip())


def _short(name: str) -> str:
    """As "wav_pcm16" of AUDIO_FORMAT_WAV_PCM16."""
    for prefix in ("SCHEDULER_TYPE_", "CFG_TYPE_", "AUDIO_FORMAT_"):
        name = name.removeprefix(prefix)
    return name.lower()


async def _ask(args: argparse.Namespace) -> music_pb2.GetCapabilitiesResponse:
    async with open_client(args, args.server) as client:
        return await client.capabilities()
