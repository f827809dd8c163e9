"""Log-mel front end of the codec, always in float32. It knows nothing of the networks that read it.

B batch, S samples, F frames of `hop_length` samples, M mel bands, K linear frequency bins.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_FLOOR = 1e-5
"""Magnitudes below this are raised to it before the logarithm."""
POWER_EPSILON = 1e-6
"""Added to the squared magnitude: digital silence comes out near log(1e-3) plus the band's weight, not at the floor."""


@dataclass(frozen=True)
class MelConfig:
    """Geometry of the spectrogram; the official values."""

    sample_rate: int = 44100
    n_fft: int = 2048
    win_length: int = 2048
    hop_length: int = 512
    f_min: float = 40.0
    f_max: float = 16000.0
    n_mels: int = 128


class LogMel:
    """Natural-log mel magnitudes.

    Args:
        config: Geometry.
        device: Where waveforms will be.
    """

    def __init__(self, config: MelConfig, device: torch.device) -> None:
        self.config = config
        self.window = torch.hann_window(config.win_length, dtype=torch.float32, device=device)  # periodic
        self.filterbank = slaney_filterbank(config).to(device)

    def pad(self, waveform: Tensor) -> Tensor:
        """Reflect both ends, [B, S] -> [B, S + win_length - hop_length]; the right end takes an odd remainder."""
        total = self.config.win_length - self.config.hop_length
        return F.pad(waveform[:, None], (total // 2, total - total // 2), mode="reflect")[:, 0]

    def magnitudes(self, padded: Tensor) -> Tensor:
        """Spectrum of a padded waveform or of any stretch of one that starts at a multiple of the hop.

        Args:
            padded: [B, F * hop_length + win_length - hop_length], float32.
        Returns:
            [B, K, F]
        """
        config = self.config
        spectrum = torch.stft(
            padded, config.n_fft, config.hop_length, config.win_length, self.window, center=False, return_complex=True
        )  # [B, K, F]
        return torch.sqrt(torch.view_as_real(spectrum).square().sum(-1) + POWER_EPSILON)

    def frames(self, padded: Tensor) -> Tensor:
        """Log-mel of what `magnitudes` takes -> [B, M, F]."""
        return torch.matmul(self.filterbank.t(), self.magnitudes(padded)).clamp_min(LOG_FLOOR).log()

    def __call__(self, waveform: Tensor) -> Tensor:
        """Log-mel of a whole waveform, [B, S] -> [B, M, F]."""
        return self.frames(self.pad(waveform))


def slaney_filterbank(config: MelConfig) -> Tensor:
    """Triangular filters on the Slaney mel scale with Slaney's area normalisation, [K, M] float32."""
    frequencies = torch.linspace(0, config.sample_rate // 2, config.n_fft // 2 + 1, dtype=torch.float64)
    mels = torch.linspace(_hertz_to_mel(config.f_min), _hertz_to_mel(config.f_max), config.n_mels + 2, dtype=torch.float64)
    corners = _mel_to_hertz(mels)
    widths = corners.diff()  # [M + 1]
    slopes = corners[None, :] - frequencies[:, None]  # [K, M + 2]
    rising = -slopes[:, :-2] / widths[:-1]
    falling = slopes[:, 2:] / widths[1:]
    triangles = torch.minimum(rising, falling).clamp_min(0.0)
    return (triangles * (2.0 / (corners[2:] - corners[:-2]))).float()


# Slaney's scale: linear up to 1 kHz, 15 mels there; then 27 mels for each factor of 6.4.
_LINEAR_HERTZ_PER_MEL = 200.0 / 3.0
_BREAK_HERTZ = 1000.0
_BREAK_MEL = _BREAK_HERTZ / _LINEAR_HERTZ_PER_MEL  # 15
_LOG_STEP = math.log(6.4) / 27.0


def _hertz_to_mel(hertz: float) -> float:
    if hertz < _BREAK_HERTZ:
        return hertz / _LINEAR_HERTZ_PER_MEL
    return _BREAK_MEL + math.log(hertz / _BREAK_HERTZ) / _LOG_STEP


def _mel_to_hertz(mels: Tensor) -> Tensor:
    logarithmic = _BREAK_HERTZ * torch.exp(_LOG_STEP * (mels - _BREAK_MEL))
    return torch.where(mels < _BREAK_MEL, _LINEAR_HERTZ_PER_MEL * mels, logarithmic)
