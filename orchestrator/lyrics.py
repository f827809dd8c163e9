"""LyricsService of the whole server: what the encoder stage answers."""

import time
from typing import Any

import grpc.aio

from acestep_rpc.v1 import lyrics_pb2, lyrics_pb2_grpc
from orchestrator.stages import Stages


class LyricsServicer(lyrics_pb2_grpc.LyricsServiceServicer):
    """Asks the encoder stage.

    Args:
        stages: Among them the one that reads lyrics.
    """

    def __init__(self, stages: Stages) -> None:
        self._stages = stages

    async def Preview(  # noqa: N802  # the contract's name
        self, request: lyrics_pb2.PreviewRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> lyrics_pb2.PreviewResponse:
        """As the encoder stage reads them."""
        remaining: float | None = context.time_remaining()
        return await self._stages.preview_lyrics(request, None if remaining is None else time.monotonic() + remaining)
