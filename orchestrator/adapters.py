"""AdapterService of the whole server: what both stages that hold adapters do together."""

import asyncio
import time
from typing import Any

import grpc.aio

from acestep_rpc.v1 import adapter_pb2, adapter_pb2_grpc
from orchestrator.stages import Stages


class AdapterServicer(adapter_pb2_grpc.AdapterServiceServicer):
    """Asks the encoder and the diffusion stage.

    Args:
        stages: Who hold the adapters.
    """

    def __init__(self, stages: Stages) -> None:
        self._stages = stages

    async def ListAdapters(  # noqa: N802  # the contract's name
        self, request: adapter_pb2.ListAdaptersRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> adapter_pb2.ListAdaptersResponse:
        """What all replicas of both stages can name."""
        stubs = await self._stages.adapters(_deadline(context))
        lists = await asyncio.gather(*(stub.ListAdapters(request, timeout=_timeout(context)) for stub in stubs))
        first, *others = ({adapter.name: adapter for adapter in response.adapters} for response in lists)
        names = [name for name in first if all(name in other for other in others)]
        return adapter_pb2.ListAdaptersResponse(adapters=[_joined([first[name], *(other[name] for other in others)]) for name in names])

    async def LoadAdapter(  # noqa: N802  # the contract's name
        self, request: adapter_pb2.LoadAdapterRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> adapter_pb2.LoadAdapterResponse:
        """Load it in all replicas of both stages; where one refuses, others may hold it."""
        stubs = await self._stages.adapters(_deadline(context))
        responses = [await stub.LoadAdapter(request, timeout=_timeout(context)) for stub in stubs]
        return adapter_pb2.LoadAdapterResponse(adapter=_joined([response.adapter for response in responses]))

    async def UnloadAdapter(  # noqa: N802  # the contract's name
        self, request: adapter_pb2.UnloadAdapterRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> adapter_pb2.UnloadAdapterResponse:
        """Unload it in all replicas of both stages."""
        stubs = await self._stages.adapters(_deadline(context))
        responses = [await stub.UnloadAdapter(request, timeout=_timeout(context)) for stub in stubs]
        return adapter_pb2.UnloadAdapterResponse(adapter=_joined([response.adapter for response in responses]))


def _joined(adapters: list[adapter_pb2.Adapter]) -> adapter_pb2.Adapter:
    """One adapter as several stages see it."""
    joined = adapter_pb2.Adapter(name=adapters[0].name, loaded=all(adapter.loaded for adapter in adapters))
    if joined.loaded:
        joined.has_trained_scale = all(adapter.has_trained_scale for adapter in adapters)
    return joined


def _deadline(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    remaining = _timeout(context)
    return None if remaining is None else time.monotonic() + remaining


def _timeout(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    remaining: float | None = context.time_remaining()
    return remaining
