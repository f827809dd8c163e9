"""Losses between waveforms, in float32. B batch, S samples."""

from collections.abc import Sequence

import torch
from torch import Tensor

MAGNITUDE_FLOOR = 1e-7
"""Added to squared magnitudes: the square root's gradient stays finite in silence."""
LOG_FLOOR = 1e-3
"""Added to magnitudes before their logarithm, -60 dB of a bin of magnitude 1: what is quieter hardly counts."""


def multi_resolution_stft_loss(generated: Tensor, real: Tensor, sizes: Sequence[int]) -> Tensor:
    """Spectral convergence plus the mean difference of log magnitudes, averaged over resolutions.

    Args:
        generated: [B, S]
        real: [B, S]
        sizes: Samples of the windows; a window moves by a quarter of itself.
    Source: Yamamoto et al., "Parallel WaveGAN", 2020, equations 4 to 7.
    """
    losses = []
    for size in sizes:
        ours, theirs = magnitudes(generated, size, size // 4), magnitudes(real, size, size // 4)
        convergence = (ours - theirs).norm() / theirs.norm().clamp_min(LOG_FLOOR)
        losses.append(convergence + ((ours + LOG_FLOOR).log() - (theirs + LOG_FLOOR).log()).abs().mean())
    return torch.stack(losses).mean()


def magnitudes(waveform: Tensor, size: int, hop: int) -> Tensor:
    """Short-time spectrum, [B, S] -> [B, size // 2 + 1, 1 + S // hop]."""
    window = torch.hann_window(size, device=waveform.device)
    spectrum = torch.view_as_real(torch.stft(waveform, size, hop, size, window, return_complex=True))
    return (spectrum.square().sum(-1) + MAGNITUDE_FLOOR).sqrt()
