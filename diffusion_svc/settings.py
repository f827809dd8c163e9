"""Deployment settings of the diffusion stage, from ACESTEP_DIFFUSION_*."""

from dataclasses import dataclass
from pathlib import Path

from acestep_rpc.settings import ServerSettings

PREFIX = "ACESTEP_DIFFUSION_"


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
    max_rows: int = 16
    """Rows in one forward; a song that wants more in one step, as an edit with many draws may, runs alone."""
    max_requests: int = 64
    """Requests under way and waiting; one more is refused."""
