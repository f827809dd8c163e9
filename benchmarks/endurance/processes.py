"""What the runs have in common: servers in processes of their own, what these use of the machine, and a verdict for the shell."""

import argparse
import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.conftest import Server, System, make_adapters, make_checkpoint, running

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def model() -> Iterator[tuple[Path, Path, Path]]:
    """A tiny random checkpoint, adapters for it, and a folder for everything else; all go at the end of the block."""
    os.environ["OMP_NUM_THREADS"] = "1"  # four processes share the machine
    with tempfile.TemporaryDirectory(prefix="acestep-endurance-") as name:
        folder = Path(name)
        (folder / "adapters").mkdir()
        (folder / "run").mkdir()
        checkpoint = make_checkpoint(folder / "checkpoint")
        yield checkpoint, make_adapters(checkpoint, folder / "adapters"), folder / "run"


@contextlib.contextmanager
def system(mode: str = "remote") -> Iterator[System]:
    """Four processes (or one, "embedded") on a tiny random checkpoint, one thread each."""
    with model() as (checkpoint, adapters, folder), running(mode, checkpoint, adapters, folder) as started:
        yield started


def cpu_seconds(server: Server) -> float:
    """Processor time of a server's process so far."""
    assert server.process is not None
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_bytes(server: Server) -> int:
    """What a server's process has in memory."""
    assert server.process is not None
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def open_files(server: Server) -> int:
    """Descriptors of a server's process."""
    assert server.process is not None
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def yield_to_others(server: Server, niceness: int = 5) -> None:
    """Let a server's process have the processor after others: stages beside the orchestrator that answers for them."""
    assert server.process is not None
    for thread in os.listdir(f"/proc/{server.process.pid}/task"):
        os.setpriority(os.PRIO_PROCESS, int(thread), niceness)


@dataclass(frozen=True)
class Bound:
    """A figure and what it may be.

    Attributes:
        value: As measured; None: it could not be, which fails.
        most: It may be so much.
        least: It must be so much.
    """

    value: float | None
    most: float | None = None
    least: float | None = None

    @property
    def holds(self) -> bool:
        """Whether it is within its limits."""
        if self.value is None:
            return False
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)

    def account(self) -> dict[str, Any]:
        """For the report."""
        limits = {name: limit for name, limit in (("at_most", self.most), ("at_least", self.least)) if limit is not None}
        return {"value": self.value, **limits, "holds": self.holds}


def report(bounds: Mapping[str, Bound], figures: Mapping[str, Any]) -> dict[str, Any]:
    """Verdict, bounds and all other figures of a run."""
    verdict = "holds" if all(bound.holds for bound in bounds.values()) else "missed"
    return {"verdict": verdict, "bounds": {name: bound.account() for name, bound in bounds.items()}, **figures}


def main(parser: argparse.ArgumentParser, run: Callable[..., Awaitable[dict[str, Any]]], arguments: list[str] | None = None) -> int:
    """Read the command line, run with what it says, print the report; 1 where a bound is missed."""
    made = asyncio.run(_finish(run(**vars(parser.parse_args(arguments)))))
    print(json.dumps(made, indent=2))
    return 0 if made["verdict"] == "holds" else 1


async def _finish(made: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    return await made
