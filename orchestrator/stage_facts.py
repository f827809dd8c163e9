"""What the stages last said of themselves, at hand without a call."""

import asyncio
import time
from collections.abc import Callable, Sequence

from acestep_rpc.errors import AcestepError
from acestep_rpc.telemetry import log
from acestep_rpc.v1 import stage_pb2
from orchestrator.stages import Stages

FRESH_SECONDS = 2.0
"""Older answers are asked for again, beside the work."""
USABLE_SECONDS = 30.0
"""Older answers are waited for."""


class StageFacts:
    """Descriptions of the stages, a few seconds old.

    Args:
        stages: Who is asked.
        noted: Told every answer.
    """

    def __init__(self, stages: Stages, noted: Callable[[Sequence[stage_pb2.DescribeResponse]], None]) -> None:
        self._stages = stages
        self._noted = noted
        self._known: list[stage_pb2.DescribeResponse] = []
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def get(self, deadline: float | None) -> list[stage_pb2.DescribeResponse]:
        """Of the encoder, the diffusion and the vae stage.

        Args:
            deadline: For a call, where one must be waited for.
        Raises:
            StageUnavailable: A stage has not answered for long.
        """
        age = time.monotonic() - self._asked_at
        if age > USABLE_SECONDS:
            await self._ask(deadline)
        elif age > FRESH_SECONDS and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._ask_beside())
        return self._known

    async def _ask(self, deadline: float | None) -> None:
        known = await self._stages.describe(deadline)
        self._known, self._asked_at = known, time.monotonic()
        self._noted(known)

    async def _ask_beside(self) -> None:
        try:
            await self._ask(time.monotonic() + USABLE_SECONDS)
        except AcestepError as error:  # what is known stays usable for a while
            log("stages_silent", reason=str(error))
