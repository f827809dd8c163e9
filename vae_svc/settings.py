"""Deployment settings of the codec stage, from ACESTEP_VAE_*."""

from dataclasses import dataclass
from pathlib import Path

from acestep_rpc.settings import ServerSettings, SettingsError

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
    workers: int = 1
    """On a CPU: songs and files that are worked at at a time, each with so many threads. One thread and as many workers as there are cores
    make the most songs; one worker and all threads make one song the soonest. A GPU takes one."""
    max_requests: int = 64
    """Requests under way and waiting; one more is refused."""
    memory_bytes: int = 0
    """Memory for songs under way; what does not fit yet waits. 0: on CUDA 0.8 of what is free once the weights are loaded and a
    piece has been decoded, on a CPU 8 GiB."""
    max_latent_frames: int = 24 * 2583
    """Longest latents to decode; 2583 are 240 seconds."""
    max_file_bytes: int = 256 * 2**20
    """Largest audio file to encode."""
    max_duration_seconds: float = 600.0
    """Longest audio file to encode."""

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("max_requests", 1), ("memory_bytes", 0)):
            if getattr(self, name) < least:
                raise SettingsError(f"{PREFIX}{name.upper()}={getattr(self, name)} is not allowed; allowed: {least} or more")
