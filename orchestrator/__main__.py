"""Serve the orchestrator: python -m orchestrator."""

import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.longrunning import operations_pb2_grpc

from acestep_rpc.server import Registration, run
from acestep_rpc.settings import SettingsError, from_environment
from acestep_rpc.telemetry import log
from acestep_rpc.v1 import adapter_pb2_grpc, lyrics_pb2_grpc, music_pb2_grpc
from orchestrator.adapters import AdapterServicer
from orchestrator.assets import AssetStore
from orchestrator.deletion_cost import DeletionCosts
from orchestrator.jobs.database import open_database
from orchestrator.jobs.operations import OperationsServicer
from orchestrator.jobs.service import Jobs
from orchestrator.jobs.webhooks import check_secret
from orchestrator.lyrics import LyricsServicer
from orchestrator.servicer import MusicServicer
from orchestrator.settings import PREFIX, Settings
from orchestrator.stages import Stages, connect_stages
from orchestrator.tenants.guard import Guard, open_guard


async def _stages(settings: Settings) -> Stages:
    if not settings.embedded:
        try:
            return connect_stages(
                settings.encoder,
                settings.diffusion,
                settings.vae,
                ready_seconds=settings.stage_wait_seconds,
                security=settings.stage_security,
                snapshot_seconds=settings.snapshot_seconds,
                max_snapshot_bytes=settings.max_snapshot_bytes,
            )
        except OSError as error:
            raise ValueError(f"cannot read the certificates for the stages: {error}") from error
    from orchestrator.embedded import load  # brings torch: only where the stages are

    assert settings.checkpoint is not None
    return await load(settings.checkpoint, settings.device, settings.dtype, settings.threads, settings.adapters, settings.warm_adapters)


class _Orchestrator:
    """What is built and later closed.

    Args:
        settings: Of the server.
        data: Folder for what has no other place.
    """

    def __init__(self, settings: Settings, data: Path) -> None:
        self._settings = settings
        self._data = data
        self._jobs: Jobs | None = None
        self._guard: Guard | None = None
        self._costs: asyncio.Task[None] | None = None

    async def build(self) -> Sequence[Registration]:
        settings = self._settings
        if settings.data is None and not settings.database_url:
            log("jobs_end_with_this_process", level=logging.WARNING, setting=f"{PREFIX}DATA")
        if settings.webhook_secret:
            check_secret(f"{PREFIX}WEBHOOK_SECRET", settings.webhook_secret)
        if settings.authentication and settings.tls is None and settings.host not in ("127.0.0.1", "::1", "localhost"):
            log("credentials_in_plain_text", level=logging.WARNING, setting=f"{PREFIX}TLS_CERT")
        stages = await _stages(settings)
        if settings.pod_deletion_cost:
            addresses = {"encoder": settings.encoder, "diffusion": settings.diffusion, "vae": settings.vae}
            self._costs = asyncio.create_task(DeletionCosts(addresses, stages.loads).run())
        self._data.mkdir(parents=True, exist_ok=True)
        database = await open_database(settings.database_url or f"sqlite:///{self._data / 'jobs.sqlite'}")
        self._guard = open_guard(settings, database)
        assets = AssetStore(settings.store or str(self._data / "store"))
        jobs = self._jobs = Jobs(database, stages, assets, settings, self._guard.quotas)
        jobs.start()
        servicer = MusicServicer(stages, jobs)
        return (
            Registration("acestep_rpc.v1.MusicService", servicer, music_pb2_grpc.add_MusicServiceServicer_to_server),
            Registration("acestep_rpc.v1.AdapterService", AdapterServicer(stages), adapter_pb2_grpc.add_AdapterServiceServicer_to_server),
            Registration("acestep_rpc.v1.LyricsService", LyricsServicer(stages), lyrics_pb2_grpc.add_LyricsServiceServicer_to_server),
            Registration("google.longrunning.Operations", OperationsServicer(jobs), operations_pb2_grpc.add_OperationsServicer_to_server),
        )

    async def guard(self, method: str, context: Any) -> None:
        assert self._guard is not None
        await self._guard(method, context)

    async def give_jobs_back(self) -> None:
        assert self._jobs is not None
        await self._jobs.stop()

    async def close(self) -> None:
        if self._costs is not None:
            self._costs.cancel()
        assert self._jobs is not None
        await self._jobs.close()


def main() -> None:
    """Read the settings and serve until a signal comes."""
    try:
        settings = from_environment(Settings, PREFIX, os.environ)
    except SettingsError as error:
        sys.exit(str(error))
    with tempfile.TemporaryDirectory(prefix="acestep-data-") as temporary:
        orchestrator = _Orchestrator(settings, settings.data or Path(temporary))
        guard = orchestrator.guard if settings.authentication else None
        run("orchestrator", settings, orchestrator.build, orchestrator.give_jobs_back, orchestrator.close, guard)


if __name__ == "__main__":
    main()
