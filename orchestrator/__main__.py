"""Serve the orchestrator: python -m orchestrator."""

import os
import sys
from collections.abc import Sequence

from acestep_rpc.server import Registration, run
from acestep_rpc.settings import SettingsError, from_environment
from acestep_rpc.v1 import music_pb2_grpc
from orchestrator.servicer import MusicServicer
from orchestrator.settings import PREFIX, Settings
from orchestrator.stages import Stages, connect_stages


async def _stages(settings: Settings) -> Stages:
    if not settings.embedded:
        return connect_stages(settings.encoder, settings.diffusion, settings.vae)
    from orchestrator.embedded import load  # brings torch: only where the stages are

    assert settings.checkpoint is not None
    return await load(settings.checkpoint, settings.device, settings.dtype, settings.threads)


async def _build(settings: Settings) -> Sequence[Registration]:
    servicer = MusicServicer(await _stages(settings))  # type: ignore[abstract]  # what is not built: the base class answers UNIMPLEMENTED
    return (Registration("acestep_rpc.v1.MusicService", servicer, music_pb2_grpc.add_MusicServiceServicer_to_server),)


def main() -> None:
    """Read the settings and serve until a signal comes."""
    try:
        settings = from_environment(Settings, PREFIX, os.environ)
    except SettingsError as error:
        sys.exit(str(error))
    run("orchestrator", settings, lambda: _build(settings))


if __name__ == "__main__":
    main()
