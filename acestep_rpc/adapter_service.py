"""AdapterService over the adapters of one stage; both stages that hold some serve it. Knows names, not weights."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import grpc.aio

from acestep_rpc.errors import InvalidRequest
from acestep_rpc.server import Registration
from acestep_rpc.v1 import adapter_pb2, adapter_pb2_grpc


class Store(Protocol):
    """A stage's adapters. All but `names` is for the stage's worker thread; a ValueError says why an adapter cannot be used."""

    def names(self) -> list[str]:
        """What can be asked for, sorted."""

    def loaded(self) -> Mapping[str, bool]:
        """What is in memory, and whether its file states the scale it was trained with."""

    def load(self, name: str) -> None:
        """Hold an adapter in memory."""

    def unload(self, name: str) -> None:
        """Hold it no longer."""


class AdapterServicer(adapter_pb2_grpc.AdapterServiceServicer):
    """AdapterService of one stage.

    Args:
        store: Its adapters.
        worker: Its one thread for torch.
    """

    def __init__(self, store: Store, worker: ThreadPoolExecutor) -> None:
        self._store = store
        self._worker = worker

    async def ListAdapters(  # noqa: N802  # the contract's name
        self, request: adapter_pb2.ListAdaptersRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> adapter_pb2.ListAdaptersResponse:
        """Names from the store, and what is loaded."""
        loop = asyncio.get_running_loop()
        names = await loop.run_in_executor(None, self._store.names)
        loaded = await loop.run_in_executor(self._worker, self._store.loaded)
        return adapter_pb2.ListAdaptersResponse(adapters=[_adapter(name, loaded) for name in names])

    async def LoadAdapter(  # noqa: N802  # the contract's name
        self, request: adapter_pb2.LoadAdapterRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> adapter_pb2.LoadAdapterResponse:
        """Load it in the worker thread, between two forwards."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._worker, self._store.load, request.name)
        except ValueError as error:
            raise InvalidRequest.from_violations([("name", str(error))]) from error
        loaded = await asyncio.get_running_loop().run_in_executor(self._worker, self._store.loaded)
        return adapter_pb2.LoadAdapterResponse(adapter=_adapter(request.name, loaded))

    async def UnloadAdapter(  # noqa: N802  # the contract's name
        self, request: adapter_pb2.UnloadAdapterRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> adapter_pb2.UnloadAdapterResponse:
        """Unload it in the worker thread, between two forwards."""
        await asyncio.get_running_loop().run_in_executor(self._worker, self._store.unload, request.name)
        return adapter_pb2.UnloadAdapterResponse(adapter=_adapter(request.name, {}))


def registration(store: Store, worker: ThreadPoolExecutor) -> Registration:
    """The service of a stage."""
    servicer = AdapterServicer(store, worker)
    return Registration("acestep_rpc.v1.AdapterService", servicer, adapter_pb2_grpc.add_AdapterServiceServicer_to_server)


def _adapter(name: str, loaded: Mapping[str, bool]) -> adapter_pb2.Adapter:
    return adapter_pb2.Adapter(name=name, loaded=name in loaded, has_trained_scale=loaded.get(name))
