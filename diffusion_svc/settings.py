"""Deployment settings of the diffusion stage, from ACESTEP_DIFFUSION_*."""

from dataclasses import dataclass
from pathlib import Path

from acestep_rpc.settings import ServerSettings, SettingsError

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
    step_seconds: float = 0.25
    """Time that a forward may take: the start measures how many rows x frames take about so long, and no forward that songs share has more.
    Lower: a song waits less for the others. One that takes longer in a single step runs alone, in turn with the others."""
    max_requests: int = 64
    """Requests under way and waiting; one more is refused."""
    memory_bytes: int = 0
    """Memory for requests under way (keys and values of their conditions, latents); what does not fit yet waits. 0: on CUDA 0.8 of what is
    free once the weights are loaded and the largest forward has been run, on a CPU 8 GiB."""
    adapters: Path | None = None
    """Folder of adapters (LoRA), one folder each, that requests can name."""
    max_loaded_adapters: int = 4
    """Adapters kept in memory, the least recently used goes first; 0 keeps none."""
    warm_adapters: tuple[str, ...] = ()
    """Adapters loaded at the start, separated by commas; one that cannot be loaded stops it."""

    def __post_init__(self) -> None:
        if not 0.001 <= self.step_seconds <= 60:
            raise SettingsError(f"{PREFIX}STEP_SECONDS={self.step_seconds:g} is not allowed; allowed: 0.001 to 60")
        for name, least in (("max_requests", 1), ("memory_bytes", 0)):
            if getattr(self, name) < least:
                raise SettingsError(f"{PREFIX}{name.upper()}={getattr(self, name)} is not allowed; allowed: {least} or more")
        if self.max_loaded_adapters < 0:
            raise SettingsError(f"{PREFIX}MAX_LOADED_ADAPTERS={self.max_loaded_adapters} is not allowed; allowed: 0 or more")
        if self.warm_adapters and (self.adapters is None or len(self.warm_adapters) > self.max_loaded_adapters):
            allowed = f"with {PREFIX}ADAPTERS, and at most {PREFIX}MAX_LOADED_ADAPTERS ({self.max_loaded_adapters})"
            raise SettingsError(f"{PREFIX}WARM_ADAPTERS={','.join(self.warm_adapters)!r} is not allowed; allowed: {allowed}")
