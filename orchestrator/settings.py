"""Deployment settings of the orchestrator, from ACESTEP_ORCHESTRATOR_*."""

from dataclasses import dataclass
from pathlib import Path

from acestep_rpc.settings import ServerSettings, SettingsError

PREFIX = "ACESTEP_ORCHESTRATOR_"


@dataclass(frozen=True, kw_only=True)
class Settings(ServerSettings):
    """Either the targets of the three stages, or embedded and a checkpoint. See ServerSettings for the rest."""

    encoder: str = ""
    """Target of the encoder stage, as "127.0.0.1:50051"."""
    diffusion: str = ""
    """Target of the diffusion stage."""
    vae: str = ""
    """Target of the vae stage."""
    embedded: bool = False
    """Run the stages in this process."""
    checkpoint: Path | None = None
    """Embedded: folder in the official layout."""
    device: str = "auto"
    """Embedded: torch device, or auto: CUDA where there is one, else the CPU."""
    dtype: str = "auto"
    """Embedded: float32, bfloat16, or auto: bfloat16 where the device computes it faster."""
    threads: int = 0
    """Embedded: CPU threads; 0: one per core."""
    adapters: Path | None = None
    """Embedded: folder of adapters (LoRA) that requests can name."""
    warm_adapters: tuple[str, ...] = ()
    """Embedded: adapters loaded at the start, separated by commas."""
    store: str = ""
    """Folder or fsspec URL for uploads, as "s3://bucket/prefix"; empty: a temporary folder that goes with this process."""

    def __post_init__(self) -> None:
        targets = {"ENCODER": self.encoder, "DIFFUSION": self.diffusion, "VAE": self.vae}
        given = sorted(PREFIX + name for name, target in targets.items() if target)
        missing = sorted(PREFIX + name for name, target in targets.items() if not target)
        if self.embedded:
            if self.checkpoint is None:
                raise SettingsError(f"{PREFIX}CHECKPOINT must be set when {PREFIX}EMBEDDED is true")
            if given:
                raise SettingsError(f"{', '.join(given)} must not be set when {PREFIX}EMBEDDED is true: the stages run in this process")
        elif missing:
            raise SettingsError(f"{', '.join(missing)} must be set unless {PREFIX}EMBEDDED is true")
        for name in ("checkpoint", "adapters", "warm_adapters"):
            if not self.embedded and getattr(self, name):
                raise SettingsError(f"{PREFIX}{name.upper()} must not be set unless {PREFIX}EMBEDDED is true: the stages have their own")
