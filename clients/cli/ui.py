"""`acestep ui`: the web page, in front of a server of its own or of one that runs."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from acestep_client import AsyncClient
from acestep_rpc.v1 import music_pb2
from clients.cli.checkpoint import EMBEDDED_CHECKPOINT
from clients.cli.connection import add_connection_arguments, open_client
from clients.cli.embedded_server import embedded_server
from clients.cli.failures import EXIT_CODES_HELP, CommandFailed, ExitCode, missing_extra

_DESCRIPTION = """\
Make songs in the browser.

  acestep ui                                             starts a server with the small checkpoint that comes along, and the page
  acestep ui --checkpoint_path checkpoints/official      the same with the official one
  acestep ui --server localhost:7860                     the page alone, in front of a running server

Songs stay in the folder of --data, and in the page's history, until they are deleted there.
"""
_OWN_SERVER = (
    "checkpoint",
    "device",
    "device_id",
    "dtype",
    "bf16",
    "torch_compile",
    "cpu_offload",
    "overlapped_decode",
    "threads",
    "adapters",
    "tenants",
    "data",
)


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is not true or false")


_SWITCH: dict[str, Any] = {"type": _boolean, "nargs": "?", "const": True, "metavar": "true|false"}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "ui",
        help="make songs in the browser",
        description=_DESCRIPTION,
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    page = parser.add_argument_group("the page")
    page.add_argument(
        "--server_name", "--host", dest="host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default: %(default)s)"
    )
    page.add_argument("--port", type=int, default=7865, help="port; 0 picks a free one (default: %(default)s)")
    page.add_argument("--share", **_SWITCH, help="make the page public by Gradio's relay for 72 hours (default: false)")
    page.add_argument("--server", metavar="HOST:PORT", help="a running server (default: start one)")
    add_connection_arguments(parser)
    own = parser.add_argument_group("without --server")
    own.add_argument(
        "--checkpoint_path", "--checkpoint", dest="checkpoint", metavar="DIR", help="checkpoint (default: the small one that comes along)"
    )
    own.add_argument("--device", help="torch device as cuda:1 or mps, or auto: CUDA where there is one, else the CPU (default: auto)")
    own.add_argument("--device_id", type=_device_id, metavar="N", help="number of the CUDA device (default: the first)")
    own.add_argument("--bf16", **_SWITCH, help="compute in bfloat16; false: float32 (default: bfloat16 where the device computes it fast)")
    own.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), help="the same by name (default: auto)")
    own.add_argument("--torch_compile", **_SWITCH, help="not there: true is refused")
    own.add_argument("--cpu_offload", **_SWITCH, help="not there: true is refused")
    own.add_argument("--overlapped_decode", **_SWITCH, help="songs are always decoded in overlapping pieces: false is refused")
    own.add_argument("--threads", type=int, help="CPU threads; 0 takes one per core (default: 0)")
    own.add_argument("--adapters", type=Path, metavar="DIR", help="folder of adapters (LoRA)")
    own.add_argument("--tenants", type=Path, metavar="FILE", help="file of tenants: visitors sign in with a key (docs/security.md)")
    own.add_argument("--data", type=Path, metavar="DIR", help="where songs are kept (default: outputs/ui)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported: nothing calls home
    settings = {} if args.server else _settings(args)
    if args.server:
        given = [name for name in _OWN_SERVER if getattr(args, name) is not None]
        if given:
            raise CommandFailed(f"--{given[0]} does not go with --server: a running server has its own", ExitCode.USAGE)
    elif args.tls_ca is not None:
        raise CommandFailed("--tls-ca goes with --server: a server of one's own is called in plain text", ExitCode.USAGE)
    try:
        import clients.web.serve  # noqa: F401  # needs the extra
    except ModuleNotFoundError as error:
        raise missing_extra(error, "web") from error
    try:
        asyncio.run(_serve(args, settings))
    except OSError as error:
        raise CommandFailed(f"cannot listen on {args.host}:{args.port}: {error}") from error


def _settings(args: argparse.Namespace) -> dict[str, str]:
    """Settings of the embedded server."""
    if args.cpu_offload:
        raise CommandFailed(
            "--cpu_offload is not there: the stages stay on their device. Where memory is short, run them on several devices"
            " (acestep serve), or take --device cpu",
            ExitCode.USAGE,
        )
    if args.torch_compile:
        raise CommandFailed(
            "--torch_compile is not there: forwards change their shape with every song that joins or leaves", ExitCode.USAGE
        )
    if args.overlapped_decode is False:
        raise CommandFailed("--overlapped_decode false is not there: songs are always decoded in overlapping pieces", ExitCode.USAGE)
    if args.bf16 is not None and args.dtype is not None:
        raise CommandFailed("--bf16 and --dtype say the same: give one of them", ExitCode.USAGE)
    if args.device_id is not None and args.device is not None:
        raise CommandFailed("--device_id and --device say the same: give one of them", ExitCode.USAGE)
    checkpoint = Path(args.checkpoint) if args.checkpoint else EMBEDDED_CHECKPOINT
    if not checkpoint.is_dir():
        raise CommandFailed(f"--checkpoint_path {checkpoint}: no such folder; acestep fetch-weights gets the official one", ExitCode.USAGE)
    settings = {"checkpoint": checkpoint, "data": args.data or Path("outputs/ui"), "device": args.device, "threads": args.threads}
    settings |= {"adapters": args.adapters, "tenants": args.tenants, "authentication": "keys" if args.tenants else None}
    settings["dtype"] = args.dtype if args.bf16 is None else "bfloat16" if args.bf16 else "float32"
    return {name: str(value) for name, value in settings.items() if value is not None}


async def _serve(args: argparse.Namespace, settings: dict[str, str]) -> None:
    from clients.web.serve import Address, serving

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with _server(args, settings) as target:

        def connect(api_key: str | None) -> AsyncClient:
            try:
                return open_client(args, target, api_key=api_key)
            except CommandFailed as error:
                if api_key is None:
                    raise
                raise ValueError(str(error)) from error  # a visitor's mistake, not the command's

        async with serving(connect, Address(args.host, args.port)) as (url, capabilities):
            _check_device(args, capabilities)
            print(url, flush=True)
            if args.share:
                print(await asyncio.to_thread(_share, url, capabilities is not None), flush=True)
            print("Ctrl-C ends it", file=sys.stderr)
            await stop.wait()


@asynccontextmanager
async def _server(args: argparse.Namespace, settings: dict[str, str]) -> AsyncIterator[str]:
    if args.server:
        yield args.server
        return
    if args.device_id is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(args.device_id)
    print("acestep: loading the checkpoint", file=sys.stderr)
    async with embedded_server(settings) as target:
        yield target


def _check_device(args: argparse.Namespace, capabilities: music_pb2.GetCapabilitiesResponse | None) -> None:
    if args.device_id is None or capabilities is None:
        return
    devices = {stage.device for stage in capabilities.stages}
    if not any(device.startswith("cuda") for device in devices):
        print(
            f"acestep: warning: --device_id {args.device_id}: no such CUDA device; songs are made on {', '.join(devices)}", file=sys.stderr
        )


def _share(url: str, everybody: bool) -> str:
    """The public address."""
    import secrets

    from gradio.networking import setup_tunnel

    if everybody:
        print("acestep: warning: whoever has the address can make songs here; --tenants asks for a key", file=sys.stderr)
    host, _, port = url.removeprefix("http://").rpartition(":")
    try:
        return str(setup_tunnel(host, int(port), secrets.token_urlsafe(32), None, None))
    except Exception as error:  # Gradio raises whatever its parts do
        raise CommandFailed(f"--share: Gradio's relay cannot be used: {error}", ExitCode.UNAVAILABLE) from error


def _device_id(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a device")
    return int(text)
