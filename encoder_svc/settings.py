"""Deployment settings of the encoder."""

from dataclasses import dataclass
from pathlib import Path

from acestep_rpc.settings import ServerSettings, SettingsError

PREFIX = "ACESTEP_ENCODER_"


@dataclass(frozen=True, kw_only=True)
class Settings(ServerSettings):
    """Environment variables under ACESTEP_ENCODER_."""

    checkpoint: Path
    """Folder in the official layout."""
    device: str = "auto"
    """Torch device; "auto" is CUDA where there is one, else the CPU."""
    dtype: str = "auto"
    """"float32", "bfloat16", or "auto": what the device does fast."""
    threads: int = 0
    """Threads of one operation on the CPU; 0 leaves torch's choice, all cores."""
    cache_bytes: int = 256 << 20
    """Memory for the results of recent prompts; 0 keeps none."""
    max_requests: int = 64
    """Requests under way and waiting; one more is refused."""
    adapters: Path | None = None
    """Folder of adapters (LoRA), one folder each, that requests can name."""
    max_loaded_adapters: int = 4
    """Adapters kept in memory, the least recently used goes first; 0 keeps none."""
    warm_adapters: tuple[str, ...] = ()
    """Adapters loaded at the start, separated by commas; one that cannot be loaded stops it."""

    def __post_init__(self) -> None:
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise SettingsError(f"{PREFIX}DTYPE={self.dtype!r} is not allowed; allowed: auto, float32, bfloat16")
        for name in ("threads", "cache_bytes", "max_loaded_adapters"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{PREFIX}{name.upper()}={getattr(self, name)} is not allowed; allowed: 0 or more")
        if self.max_requests < 1:
            raise SettingsError(f"{PREFIX}MAX_REQUESTS={self.max_requests} is not allowed; allowed: 1 or more")
        if self.warm_adapters and (self.adapters is None or len(self.warm_adapters) > self.max_loaded_adapters):
            allowed = f"with {PREFIX}ADAPTERS, and at most {PREFIX}MAX_LOADED_ADAPTERS ({self.max_loaded_adapters})"
            raise SettingsError(f"{PREFIX}WARM_ADAPTERS={','.join(self.warm_adapters)!r} is not allowed; allowed: {allowed}")
