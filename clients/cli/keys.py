"""`acestep keys`: API keys of tenants."""

import argparse
import json
import re
import sys

from acestep_rpc.api_keys import key_digest, new_key
from clients.cli.failures import CommandFailed, ExitCode

_DESCRIPTION = """
Make an API key for a tenant. The first line is the key: it is shown once and kept nowhere. The second line is for
the server's file of tenants (ACESTEP_ORCHESTRATOR_TENANTS), which it joins while the server runs; a tenant
may have several keys in the brackets, so that a new one can replace an old one without a gap.

  acestep keys new alice
"""
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "keys", help="make API keys for tenants", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    new = actions.add_parser("new", help="make a key")
    new.add_argument("tenant", help="1 to 128 printable characters")
    new.add_argument("--json", action="store_true", help="print both as one JSON object")
    new.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Draw a key, print it and its line."""
    name: str = args.tenant
    if not 0 < len(name) <= 128 or not name.isprintable() or name == "*":
        raise CommandFailed(f"{name!r} cannot name a tenant: 1 to 128 printable characters, and not *", ExitCode.USAGE)
    key = new_key()
    line = f'{name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)}.keys = ["sha256:{key_digest(key)}"]'
    if args.json:
        print(json.dumps({"key": key, "line": line}, ensure_ascii=False))
        return
    print(key)
    print(line)
    print("acestep: the first line is the key, the second one is for the server's file of tenants", file=sys.stderr)
