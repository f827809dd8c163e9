"""Runs the page in this process, in front of a server that is there."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from acestep_client import AsyncClient
from acestep_rpc.errors import Unauthenticated
from acestep_rpc.v1 import music_pb2
from clients.web.app import web_app
from clients.web.sessions import Sessions


@dataclass(frozen=True)
class Address:
    """Where the page is.

    Args:
        host: To listen on.
        port: 0: a free one.
    """

    host: str
    port: int


@contextlib.asynccontextmanager
async def serving(
    connect: Callable[[str | None], AsyncClient], address: Address
) -> AsyncIterator[tuple[str, music_pb2.GetCapabilitiesResponse | None]]:
    """Serve until the end of the block.

    Args:
        connect: Gives the client of an API key; None: of the key that the command was given, or of none.
        address: Where to listen.
    Yields:
        URL of the page, and what the server said of itself: nothing, where visitors have to sign in first.
    Raises:
        AcestepError: The server does not answer.
        OSError: The port is taken.
    """
    client, capabilities = connect(None), None
    shared: AsyncClient | None = client
    try:
        capabilities = await client.capabilities()
    except Unauthenticated:
        await client.close()
        shared = None
    with tempfile.TemporaryDirectory(prefix="acestep-ui-") as folder:
        async with web_app(Sessions(connect, shared), Path(folder)) as app:
            if capabilities is not None:
                await app.open(capabilities)
            config = uvicorn.Config(app, address.host, address.port, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
            listening = config.bind_socket()
            server = _Server(config)
            task = asyncio.create_task(server.serve(sockets=[listening]))
            try:
                while not server.started and not task.done():
                    await asyncio.sleep(0.02)
                yield f"http://{_shown(address.host)}:{listening.getsockname()[1]}", capabilities
            finally:
                await app.runs.close()  # streams of songs in the making end, so that the server can
                server.should_exit = True
                await task


class _Server(uvicorn.Server):
    """Leaves signals to the command."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # as uvicorn has it
        yield


def _shown(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104  # read, not listened on
