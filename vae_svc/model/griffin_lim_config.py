"""Parameters of the vocoder without weights: its checkpoint's config."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from vae_svc.model.mel import MelConfig
from vae_svc.model.vocoder_config import MEL_KEYS, mel_config_from_dict

OVERLAP_PARTS = 8
"""Half of an overlap is kept from the window before, and the last quarter of that half is faded: all of it whole frames."""


@dataclass(frozen=True)
class GriffinLimConfig:
    """More iterations than these gain next to nothing: what the 128 bands do not hold, no phase brings back."""

    iterations: int = 32
    momentum: float = 0.99
    """Of the fast Griffin-Lim algorithm, below 1; 0 is the plain one."""
    em_steps: int = 30
    """Steps of the inversion from mel bands to linear bins."""
    window_frames: int = 512
    """Mel frames that are solved together, 5.9 s."""
    overlap_frames: int = 64
    """Mel frames that a window shares with the one before."""
    mel: MelConfig = field(default_factory=MelConfig)

    @property
    def known_frames(self) -> int:
        """Frames at a window's start whose samples the window before has settled."""
        return self.overlap_frames // 2

    @property
    def fade_frames(self) -> int:
        """Frames over which two windows are cross-faded, the last of the known ones."""
        return self.overlap_frames // OVERLAP_PARTS


def griffin_lim_config_from_dict(values: Mapping[str, Any]) -> GriffinLimConfig:
    """Read a checkpoint's config; what it leaves out has the default.

    Raises:
        ValueError: The values contradict each other, or a name is unknown.
    """
    names = {field.name for field in fields(GriffinLimConfig)} - {"mel"}
    if unknown := sorted(values.keys() - names - MEL_KEYS.keys()):
        raise ValueError(f"unknown: {', '.join(unknown)}")
    config = GriffinLimConfig(**{name: value for name, value in values.items() if name in names}, mel=mel_config_from_dict(values))
    hop, n_fft = config.mel.hop_length, config.mel.n_fft
    counts = (config.iterations, config.em_steps, config.window_frames, config.overlap_frames)
    requirements = {
        "iterations, em_steps, window_frames and overlap_frames must be whole numbers": all(isinstance(count, int) for count in counts),
        "iterations must be at least 1": config.iterations >= 1,
        "momentum must be 0 or more and below 1": 0 <= config.momentum < 1,
        "em_steps must not be negative": config.em_steps >= 0,
        "n_fft must equal win_length": n_fft == config.mel.win_length,
        "n_fft must be a multiple of hop_length, at least 4 of them": n_fft % hop == 0 and n_fft >= 4 * hop,
        f"overlap_frames must be a multiple of {OVERLAP_PARTS}": config.overlap_frames % OVERLAP_PARTS == 0,
        "half of overlap_frames must hold n_fft samples": config.known_frames * hop >= n_fft,
        "window_frames must be at least twice overlap_frames": config.window_frames >= 2 * config.overlap_frames,
    }
    for requirement, holds in requirements.items():
        if not holds:
            raise ValueError(requirement)
    return config
