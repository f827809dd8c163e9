"""Deployment settings of the codec stage, from ACESTEP_VAE_*."""

from dataclasses import dataclass
from pathlib import Path

from acestep_rpc.settings import ServerSettings

PREFIX = "ACESTEP_VAE_"


@dataclass(frozen=True, kw_only=True)
class Settings(ServerSettings):
    """See ServerSettings for the rest."""

    checkpoint: Path
    """Folder in the official layout."""
    device: str = "auto"
    """Torch device, or auto: CUDA where there is one, else the CPU."""
    dtype: str = "auto"
    """float32, bfloat16, or auto: bfloat16 where the device computes it faster."""
    threads: int = 0
    """CPU threads; 0: one per core."""
    max_latent_frames: int = 24 * 2583
    """Longest latents to decode; 2583 are 240 seconds."""
    max_file_bytes: int = 256 * 2**20
    """Largest audio file to encode."""
    max_duration_seconds: float = 600.0
    """Longest audio file to encode."""
