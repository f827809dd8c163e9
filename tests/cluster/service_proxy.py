"""A stand-in for kube-proxy: connections to one port of this machine go to the ready endpoints of a service in turn."""

import asyncio
import contextlib
import threading
from typing import Any

from kubernetes import client

_POLL_SECONDS = 0.2


class ServiceProxy:
    """Listens on a free port of the loopback interface in the block of `with`.

    Args:
        api: Of the cluster.
        namespace: Of the service.
        service: Its name.
        port: Of its pods.
    """

    def __init__(self, api: Any, namespace: str, service: str, port: int) -> None:
        self._slices = client.CustomObjectsApi(api)
        self._place = {"namespace": namespace, "label_selector": f"kubernetes.io/service-name={service}"}
        self._port = port
        self._turn = 0
        self._addresses: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._connections: set[asyncio.Task[None]] = set()
        self.target = ""

    def __enter__(self) -> "ServiceProxy":
        self._thread = threading.Thread(target=self._loop.run_forever, name="service-proxy", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *error: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        self._version = "v1beta1" if await asyncio.to_thread(self._is_old) else "v1"
        await self._look()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.target = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._following = asyncio.create_task(self._follow())

    async def _stop(self) -> None:
        self._server.close()
        for task in (self._following, *self._connections):
            task.cancel()
        await asyncio.gather(self._following, *self._connections, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(Exception):  # the API server may be away: addresses stay as they are
                await self._look()
            await asyncio.sleep(_POLL_SECONDS)

    async def _look(self) -> None:
        listing = self._slices.list_namespaced_custom_object
        found = await asyncio.to_thread(listing, "discovery.k8s.io", self._version, plural="endpointslices", **self._place)
        endpoints = [endpoint for piece in found["items"] for endpoint in piece["endpoints"] or ()]
        self._addresses = [one["addresses"][0] for one in endpoints if one["conditions"].get("ready") is not False]

    def _is_old(self) -> bool:
        try:
            self._slices.list_namespaced_custom_object("discovery.k8s.io", "v1beta1", plural="endpointslices", **self._place)
        except client.ApiException:
            return False
        return True

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            async with asyncio.timeout(5):  # as a connection attempt that gets no answer
                while not self._addresses:
                    await asyncio.sleep(_POLL_SECONDS)
                self._turn += 1
                there = await asyncio.open_connection(self._addresses[self._turn % len(self._addresses)], self._port)
            try:
                await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))
            finally:
                there[1].close()
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # the caller sees a broken connection; or the block ends, and nobody waits for this task
        finally:
            writer.close()
            self._connections.discard(task)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
