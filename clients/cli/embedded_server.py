"""A server of one's own, for the length of one command: the embedded orchestrator in a child process on the loopback interface."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from clients.cli.failures import CommandFailed, ExitCode

_PREFIX = "ACESTEP_ORCHESTRATOR_"
_POLL_SECONDS = 0.05
_STOP_SECONDS = 10.0


@asynccontextmanager
async def embedded_server(settings: Mapping[str, str]) -> AsyncIterator[str]:
    """Start the server, wait until it is ready, stop it at the end.

    Args:
        settings: Names of the orchestrator's settings and their values, as {"checkpoint": "checkpoints/tiny"}.
    Yields:
        "host:port" of the ready server.
    Raises:
        CommandFailed: The server stopped before it was ready; the message holds the end of its output.
    """
    with tempfile.TemporaryDirectory(prefix="acestep-") as folder:
        ready_file, log = Path(folder) / "ready.json", Path(folder) / "server.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # a folder named orchestrator where the user happens to stand is not ours
                "-m",
                "orchestrator",
                env=_environment(settings, ready_file),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for this command, which cancels its call before it stops the server
            )
        try:
            yield await _wait_until_ready(process, ready_file, log)
        finally:
            await _stop(process)


def _environment(settings: Mapping[str, str], ready_file: Path) -> dict[str, str]:
    own = dict(settings) | {"embedded": "true", "host": "127.0.0.1", "port": "0", "drain_seconds": "1", "ready_file": str(ready_file)}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_PREFIX)}
    return inherited | {_PREFIX + name.upper(): value for name, value in own.items()}


async def _wait_until_ready(process: asyncio.subprocess.Process, ready_file: Path, log: Path) -> str:
    while not ready_file.exists():
        if process.returncode is not None:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            raise CommandFailed("the embedded server stopped before it was ready:\n" + "\n".join(lines[-20:]), ExitCode.UNAVAILABLE)
        await asyncio.sleep(_POLL_SECONDS)
    return f"127.0.0.1:{json.loads(ready_file.read_text())['port']}"


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
