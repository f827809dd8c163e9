"""The three stages in this process. The only file outside of the stages that imports them."""

from pathlib import Path
from typing import Any

import diffusion_svc.servicer
import diffusion_svc.settings
import encoder_svc.servicer
import encoder_svc.settings
import vae_svc.servicer
import vae_svc.settings
from acestep_rpc.inprocess import InProcessStub
from orchestrator.stages import Stages


async def load(
    checkpoint: Path, device: str, dtype: str, threads: int, adapters: Path | None = None, warm_adapters: tuple[str, ...] = ()
) -> Stages:
    """Load the stages one after another.

    Args:
        checkpoint: Folder in the official layout.
        device: Torch device, or auto.
        dtype: float32, bfloat16, or auto.
        threads: CPU threads; 0: one per core.
        adapters: Folder of adapters; None: none.
        warm_adapters: Those of them that are loaded at the start.
    """
    options: dict[str, Any] = {"checkpoint": checkpoint, "device": device, "dtype": dtype, "threads": threads}
    store: dict[str, Any] = {"adapters": adapters, "warm_adapters": warm_adapters}
    registrations = (
        await encoder_svc.servicer.load(encoder_svc.settings.Settings(**options, **store)),
        await diffusion_svc.servicer.load(diffusion_svc.settings.Settings(**options, **store)),
        await vae_svc.servicer.load(vae_svc.settings.Settings(**options)),
    )
    stubs = [{registration.full_name: InProcessStub(registration.servicer) for registration in stage} for stage in registrations]
    encoder, diffusion, vae = stubs

    async def adapter_stubs(deadline: float | None) -> list[InProcessStub]:
        return [stage["acestep_rpc.v1.AdapterService"] for stage in (encoder, diffusion)]

    return Stages(
        encoder=encoder["acestep_rpc.v1.EncoderService"],
        diffusion=diffusion["acestep_rpc.v1.DiffusionService"],
        vae=vae["acestep_rpc.v1.VaeService"],
        describers=[stage["acestep_rpc.v1.StageService"] for stage in stubs],
        adapters=adapter_stubs,
        lyrics=encoder["acestep_rpc.v1.LyricsService"],
    )
