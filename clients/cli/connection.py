"""How commands reach a running server: in plain text, over TLS, with credentials."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from acestep_client import AsyncClient
from acestep_rpc.tls import ClientTls
from acestep_rpc.watched_files import WatchedFiles
from clients.cli.failures import CommandFailed, ExitCode

API_KEY_VARIABLE = "ACESTEP_API_KEY"
_LOCAL = ("localhost:", "127.0.0.1:", "[::1]:", "unix:")


def add_connection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a connection."""
    group = parser.add_argument_group("the connection")
    group.add_argument("--tls-ca", type=Path, metavar="FILE", help='authorities in PEM that vouch for it, or "system" (default: no TLS)')
    group.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate to show the server, in PEM (default: none)")
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="its key")
    group.add_argument("--tls-server-name", default="", metavar="NAME", help="name in the server's certificate (default: its host)")
    group.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help=f"file with the API key or token (default: {API_KEY_VARIABLE} of the environment)"
    )


def open_client(args: argparse.Namespace, target: str, retries: bool = False, api_key: str | None = None) -> AsyncClient:
    """The client that the flags ask for.

    Args:
        args: With the flags of `add_connection_arguments`.
        target: Of the server.
        retries: Wait and try again where the server has no room; else that is a failure at once.
        api_key: Shown instead of the one that the flags name.
    Raises:
        CommandFailed: A flag is missing, or a file is not what it should be.
    """
    if (args.tls_cert is None) != (args.tls_key is None):
        raise CommandFailed("--tls-cert and --tls-key go together", ExitCode.USAGE)
    if args.tls_ca is None and (args.tls_cert is not None or args.tls_server_name):
        raise CommandFailed("--tls-cert and --tls-server-name need --tls-ca, a file or system", ExitCode.USAGE)
    tls = ClientTls(args.tls_ca, args.tls_cert, args.tls_key, args.tls_server_name) if args.tls_ca is not None else None
    try:
        bearer = _bearer(args.api_key_file) if api_key is None else _key(api_key)
        if bearer is not None and tls is None and not target.startswith(_LOCAL):
            print(f"acestep: warning: the API key goes to {target} in plain text; --tls-ca protects it", file=sys.stderr)
        return AsyncClient(target, tls=tls, api_key=bearer, retries=retries)
    except (OSError, ValueError) as error:
        raise CommandFailed(f"cannot use the credentials: {error}", ExitCode.USAGE) from error


def _bearer(path: Path | None) -> Callable[[], str] | None:
    """Gives the API key; a file is followed, as one with a token that is renewed."""
    if path is None:
        key = os.environ.get(API_KEY_VARIABLE, "")
        return (lambda: _checked(key, API_KEY_VARIABLE)) if _checked(key, API_KEY_VARIABLE) else None
    files = WatchedFiles([path], lambda: _checked(path.read_text(encoding="ascii").strip(), str(path)))
    if not files.current():
        raise ValueError(f"{path} is empty")
    return files.current


def _key(api_key: str) -> Callable[[], str]:
    checked = _checked(api_key, "the key")
    return lambda: checked


def _checked(key: str, where: str) -> str:
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(f"{where} has characters that no key has")
    return key
