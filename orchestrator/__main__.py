"""Serve the orchestrator: python -m orchestrator."""

import os
import sys
import tempfile
from collections.abc import Sequence

from acestep_rpc.server import Registration, run
from acestep_rpc.settings import SettingsError, from_environment
from acestep_rpc.v1 import adapter_pb2_grpc, lyrics_pb2_grpc, music_pb2_grpc
from orchestrator.adapters import AdapterServicer
from orchestrator.assets import AssetStore
from orchestrator.lyrics import LyricsServicer
from orchestrator.servicer import MusicServicer
from orchestrator.settings import PREFIX, Settings
from orchestrator.sources import Sources
from orchestrator.stages import Stages, connect_stages


async def _stages(settings: Settings) -> Stages:
    if not settings.embedded:
        return connect_stages(settings.encoder, settings.diffusion, settings.vae)
    from orchestrator.embedded import load  # brings torch: only where the stages are

    assert settings.checkpoint is not None
    return await load(settings.checkpoint, settings.device, settings.dtype, settings.threads, settings.adapters, settings.warm_adapters)


async def _build(settings: Settings, store: str) -> Sequence[Registration]:
    stages = await _stages(settings)
    sources = Sources(AssetStore(store), stages)
    servicer = MusicServicer(stages, sources)  # type: ignore[abstract]  # what is not built: the base class answers UNIMPLEMENTED
    return (
        Registration("acestep_rpc.v1.MusicService", servicer, music_pb2_grpc.add_MusicServiceServicer_to_server),
        Registration("acestep_rpc.v1.AdapterService", AdapterServicer(stages), adapter_pb2_grpc.add_AdapterServiceServicer_to_server),
        Registration("acestep_rpc.v1.LyricsService", LyricsServicer(stages), lyrics_pb2_grpc.add_LyricsServiceServicer_to_server),
    )


def main() -> None:
    """Read the settings and serve until a signal comes."""
    try:
        settings = from_environment(Settings, PREFIX, os.environ)
    except SettingsError as error:
        sys.exit(str(error))
    with tempfile.TemporaryDirectory(prefix="acestep-store-") as temporary:
        run("orchestrator", settings, lambda: _build(settings, settings.store or temporary))


if __name__ == "__main__":
    main()
