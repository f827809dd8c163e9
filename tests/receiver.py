"""A web server that takes webhooks down."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class Call:
    """One request."""

    line: str
    headers: dict[str, str]
    body: bytes
    time: float

    @property
    def content(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """Answers with the statuses that it is given, then with 204."""

    statuses: list[int] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    port: int = 0
    _server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/done?from=acestep"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def wait(self, number: int, seconds: float = 20.0) -> list[Call]:
        """So many calls."""
        async with asyncio.timeout(seconds):
            while len(self.calls) < number:
                await asyncio.sleep(0.02)
        return self.calls

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.calls.append(Call(head[0], headers, body, asyncio.get_running_loop().time()))
        status = self.statuses.pop(0) if self.statuses else 204
        writer.write(f"HTTP/1.1 {status} Whatever\r\nlocation: http://127.0.0.1:{self.port}/elsewhere\r\n\r\n".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
