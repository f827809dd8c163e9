"""`acestep serve`: run one service in this process.

The flags become the environment variables that the service reads; what is set in the environment and not given as a flag stays as it is.
"""

import argparse
import os
import runpy
from dataclasses import dataclass
from pathlib import Path

from clients.cli.checkpoint import EMBEDDED_CHECKPOINT
from clients.cli.failures import CommandFailed, ExitCode, missing_extra

_DESCRIPTION = """\
Run one of the four services, or all of them in one process, until SIGTERM or Ctrl-C.

  acestep serve --embedded --checkpoint DIR --port 50050      one process, one device

  acestep serve encoder   --checkpoint DIR --port 50051       or each stage on its own
  acestep serve diffusion --checkpoint DIR --port 50052
  acestep serve vae       --checkpoint DIR --port 50053
  acestep serve orchestrator --port 50050 --encoder localhost:50051 \\
      --diffusion localhost:50052 --vae localhost:50053

Every flag has an environment variable, ACESTEP_ + service + _ + flag, as ACESTEP_DIFFUSION_CHECKPOINT;
the embedded server reads ACESTEP_ORCHESTRATOR_*. The flag wins.
"""

_TLS = ("tls_cert", "tls_key", "tls_client_ca", "tls_allowed_clients")
_EVERY_SERVER = ("host", "port", "metrics_port", "drain_seconds", "ready_file", *_TLS)
_TORCH = ("checkpoint", "device", "dtype", "threads")
_TARGETS = ("encoder", "diffusion", "vae")
_STAGE_TLS = ("stage_tls_ca", "stage_tls_cert", "stage_tls_key", "stage_tls_server_name")
_TENANTS = ("authentication", "tenants")
_STORE = ("data", "store", "database_url")
_ADAPTERS = ("adapters", "warm_adapters")


@dataclass(frozen=True)
class _Service:
    module: str
    extra: str
    settings: tuple[str, ...]

    @property
    def prefix(self) -> str:
        return f"ACESTEP_{self.module.removesuffix('_svc').upper()}_"


_SERVICES = {
    "encoder": _Service("encoder_svc", "encoder", _TORCH + _ADAPTERS),
    "diffusion": _Service("diffusion_svc", "diffusion", _TORCH + _ADAPTERS),
    "vae": _Service("vae_svc", "vae", _TORCH),
    "orchestrator": _Service("orchestrator", "orchestrator", _TARGETS + _STORE + _TENANTS + _STAGE_TLS),
}
_EMBEDDED = _Service("orchestrator", "all", _TORCH + _ADAPTERS + _STORE + _TENANTS)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "serve", help="run a service", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("service", nargs="?", choices=tuple(_SERVICES), help="the service to run")
    parser.add_argument("--embedded", action="store_true", help="the orchestrator with all stages in its own process")
    server = parser.add_argument_group("every service")
    server.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    server.add_argument("--port", type=int, help="gRPC port; 0 picks a free one (default: 0)")
    server.add_argument("--metrics-port", type=int, help="Prometheus port; 0 picks a free one, -1 serves none (default: -1)")
    server.add_argument("--drain-seconds", type=float, help="time for running requests after SIGTERM (default: 30)")
    server.add_argument("--ready-file", type=Path, help="file that receives the ports as JSON once the server is ready")
    server.add_argument("--tls-cert", type=Path, metavar="FILE", help="the server's certificate in PEM (default: no TLS)")
    server.add_argument("--tls-key", type=Path, metavar="FILE", help="its key")
    server.add_argument("--tls-client-ca", type=Path, metavar="FILE", help="authorities of clients: mutual TLS (default: none needed)")
    server.add_argument("--tls-allowed-clients", metavar="NAME,NAME,...", help="names in certificates of clients, one of which they need")
    stage = parser.add_argument_group("encoder, diffusion, vae, --embedded")
    stage.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="checkpoint in the official layout (default: the small one that comes along)"
    )
    stage.add_argument("--device", help="torch device, or auto (default: auto)")
    stage.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), help="compute type (default: auto)")
    stage.add_argument("--threads", type=int, help="CPU threads; 0 takes one per core (default: 0)")
    stage.add_argument("--adapters", type=Path, metavar="DIR", help="folder of adapters that requests can name (not for vae)")
    stage.add_argument("--warm-adapters", metavar="NAME,NAME,...", help="adapters to load at the start (default: on first use)")
    remote = parser.add_argument_group("orchestrator")
    for name in _TARGETS:
        remote.add_argument(
            f"--{name}",
            metavar="HOST:PORT,...",
            help=f"where the {name} stage listens; also dns:///NAME:PORT, k8s:///NAMESPACE/SERVICE:PORT",
        )
    remote.add_argument("--stage-tls-ca", type=Path, metavar="FILE", help="authorities that vouch for the stages (default: no TLS to them)")
    remote.add_argument("--stage-tls-cert", type=Path, metavar="FILE", help="certificate to show the stages, for mutual TLS")
    remote.add_argument("--stage-tls-key", type=Path, metavar="FILE", help="its key")
    remote.add_argument("--stage-tls-server-name", metavar="NAME", help="name in the stages' certificates (default: their hosts)")
    kept = parser.add_argument_group("orchestrator, --embedded")
    kept.add_argument("--authentication", metavar="keys,jwt", help="what callers must show (default: nothing; docs/security.md)")
    kept.add_argument("--tenants", type=Path, metavar="FILE", help="tenants with digests of their keys, and their limits")
    kept.add_argument(
        "--data", type=Path, metavar="DIR", help="folder for jobs, songs and uploads (default: a temporary one; jobs end with the server)"
    )
    kept.add_argument("--store", metavar="URL", help="folder or fsspec URL for songs and uploads (default: in the data folder)")
    kept.add_argument(
        "--database-url", metavar="URL", help="PostgreSQL for jobs that several servers share (default: SQLite in the data folder)"
    )
    parser.set_defaults(run=run)


def environment(args: argparse.Namespace) -> tuple[_Service, dict[str, str]]:
    """The service that the arguments ask for and the variables that they set.

    Raises:
        CommandFailed: No service, or a flag that the service does not have.
    """
    if args.embedded and args.service not in (None, "orchestrator"):
        raise CommandFailed(f"--embedded runs every stage: leave out {args.service!r}", ExitCode.USAGE)
    if not args.embedded and args.service is None:
        raise CommandFailed(f"name a service ({', '.join(_SERVICES)}) or give --embedded", ExitCode.USAGE)
    service = _EMBEDDED if args.embedded else _SERVICES[args.service]
    variables = {f"{service.prefix}EMBEDDED": "true"} if args.embedded else {}
    for name in (*_EVERY_SERVER, *_TORCH, *_ADAPTERS, *_TARGETS, *_STORE, *_TENANTS, *_STAGE_TLS):
        value = getattr(args, name)
        if value is None:
            continue
        if name not in _EVERY_SERVER + service.settings:
            chosen = "--embedded" if args.embedded else args.service
            raise CommandFailed(f"--{name.replace('_', '-')} does not apply to {chosen}", ExitCode.USAGE)
        variables[service.prefix + name.upper()] = str(value)
    variable = f"{service.prefix}CHECKPOINT"
    if "checkpoint" in service.settings and variable not in variables and variable not in os.environ:
        variables[variable] = str(EMBEDDED_CHECKPOINT)
    return service, variables


def run(args: argparse.Namespace) -> None:
    """Become the service."""
    service, variables = environment(args)
    os.environ.update(variables)
    try:
        runpy.run_module(service.module, run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        raise missing_extra(error, service.extra) from error
