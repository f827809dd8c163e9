"""`acestep cluster`: a release of the chart on Kubernetes, as an operator wants to see it."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from clients.cli.failures import EXIT_CODES_HELP, CommandFailed, ExitCode, missing_extra

if TYPE_CHECKING:
    from clients.cli.cluster_state import Component, Release

_DESCRIPTION = """
Look at a release of the chart, and take a replica out of service. Talks to the API server of your kubeconfig, or of the
pod that this runs in; nothing is installed in the cluster.

  acestep cluster status --namespace music
  acestep cluster drain acestep-diffusion-6d5f9c7b9-x2x7q --namespace music
"""
_STATUS = """
Stages, their replicas and backlogs, and why an autoscaler does what it does. Needs get and list on deployments, pods,
endpointslices, horizontalpodautoscalers and events, and get on pods/proxy for backlogs; what may not be read is said.
"""
_DRAIN = """
Take one replica out of service without losing what it works on:

  1. mark    its label app.kubernetes.io/component gets "-draining" at its end: its service no longer leads to it, so that
             orchestrators send it nothing new, and its deployment makes another one in its place
  2. wait    until it has no work, for at most --timeout seconds
  3. delete  the pod, or leave it there, out of service, with --keep

Refused where no other replica of the stage takes work, unless --force is given. A drain that was interrupted goes on when
the command is run again. Needs get, list, patch and delete on pods, get on pods/proxy, list on endpointslices.
"""
_BREAKS = 110


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser("cluster", help="see and drain a release on Kubernetes", description=_DESCRIPTION, formatter_class=raw)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    status = actions.add_parser(
        "status", help="stages, replicas, backlogs, autoscalers", description=_STATUS, epilog=EXIT_CODES_HELP, formatter_class=raw
    )
    status.add_argument("--release", metavar="NAME", help="of helm install (default: the only one in the namespace)")
    status.set_defaults(run=run_status)
    drain = actions.add_parser(
        "drain", help="take one replica out of service", description=_DRAIN, epilog=EXIT_CODES_HELP, formatter_class=raw
    )
    drain.add_argument("pod", help="its pod, as acestep cluster status prints it")
    drain.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="to wait until it is idle (default: %(default)g)")
    drain.add_argument("--keep", action="store_true", help="do not delete it")
    drain.add_argument("--force", action="store_true", help="even if no other replica of its stage takes work")
    drain.set_defaults(run=run_drain)
    for action in (status, drain):
        action.add_argument("--namespace", "-n", metavar="NAME", help="where the release is (default: that of the context)")
        action.add_argument("--context", metavar="NAME", help="in the kubeconfig (default: the current one)")
        action.add_argument("--json", action="store_true", help="print JSON")


def run_status(args: argparse.Namespace) -> None:
    """Read, print."""
    try:
        from clients.cli.cluster_state import Cluster, read_release  # needs the extra
    except ModuleNotFoundError as error:
        raise missing_extra(error, "cluster") from error
    release = read_release(Cluster(args.context, args.namespace), args.release)
    if args.json:
        print(json.dumps(dataclasses.asdict(release), indent=2, ensure_ascii=False))
        return
    for line in lines(release):
        print(line)


def run_drain(args: argparse.Namespace) -> None:
    """Drain, say each step: on stderr, or with --json as one object a line on stdout."""
    try:
        from clients.cli.cluster_drain import drain  # needs the extra
        from clients.cli.cluster_state import Cluster
    except ModuleNotFoundError as error:
        raise missing_extra(error, "cluster") from error
    if not args.timeout >= 0:
        raise CommandFailed(f"--timeout {args.timeout:g} is not allowed; allowed: 0 or more", ExitCode.USAGE)

    def tell(step: str) -> None:
        if args.json:
            print(json.dumps({"pod": args.pod, "step": step}, ensure_ascii=False), flush=True)
        else:
            print(f"acestep: {step}", file=sys.stderr, flush=True)

    drain(Cluster(args.context, args.namespace), args.pod, args.timeout, args.keep, args.force, tell)


def lines(release: "Release") -> Iterator[str]:
    """A release as text."""
    yield f"release {release.name} in namespace {release.namespace}"
    yield ""
    table = [("", "READY", "DRAINING", "BACKLOG", "AUTOSCALER")]
    for one in release.components:
        scaler = one.autoscaler
        bounds = f"{scaler.current} -> {scaler.desired} of {scaler.lowest}..{scaler.highest}" if scaler else "none"
        table.append((one.name, f"{one.count('ready')}/{one.wanted}", str(one.count("draining")), _seconds(one.backlog_seconds), bounds))
    yield from _aligned(table)
    for one in release.components:
        yield ""
        yield f"{one.name}  {one.image}"
        yield from _details(one)
    if release.notes:
        yield ""
    yield from (f"note: {note}" for note in release.notes)


def _details(component: "Component") -> Iterator[str]:
    rows = []
    for replica in component.replicas:
        restarts = f"{replica.restarts} restarts" if replica.restarts else ""
        rows.append((f"  {replica.name}", replica.state, _seconds(replica.backlog_seconds), restarts, _short(replica.reason)))
    yield from _aligned(rows) if rows else ["  no pods"]
    if component.autoscaler is not None:
        yield f"  autoscaler {component.autoscaler.state}"
    yield from (f"  ! {_short(trouble)}" for trouble in component.trouble)


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _seconds(value: float | None) -> str:
    return "?" if value is None else f"{value:.1f} s"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _BREAKS else line[: _BREAKS - 3] + "..."
