"""A vocoder without weights: mel bands to linear bins, a first guess of the phases, then fast Griffin-Lim. Always float32.

Griffin-Lim sees as far as it iterates, so a song is solved in windows at fixed places. Each holds the samples that the one before has
settled, so a window's sound depends neither on how a decode is cut nor on what comes after the window:

    frames of a window   0 ... 24 ...... 32 ............... 448 ........ 472 ...... 480 ...... 512
                         known,  known,     new                the next window's known ones    solved once more by the next
                         history faded in

Spectra are of the front end's geometry, frames without centring over samples padded by half of n_fft - hop_length on both sides, so a
reconstruction needs no shift.

B channels, M mel bands, K linear bins, F mel frames, S = F * hop_length samples, P = S + n_fft - hop_length padded samples.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vae_svc.model.griffin_lim_config import GriffinLimConfig
from vae_svc.model.mel import POWER_EPSILON, slaney_filterbank

SEED = 0
"""Of the first frame's phases."""
HANN_GAMMA = 0.25645
"""A Hann window of n samples is close to the Gaussian exp(-pi t^2 / (HANN_GAMMA n^2)), Prusa, Balazs and Sondergaard, 2017."""
LOG_FLOOR = 1e-10


class MelGriffinLim:
    """Log-mel to waveform.

    Args:
        config: Parameters.
        device: Where mels will be.
    """

    class_name = "MelGriffinLim"
    """As a checkpoint's config names it."""

    def __init__(self, config: GriffinLimConfig, device: torch.device) -> None:
        self.config = config
        self.window = torch.hann_window(config.mel.n_fft, dtype=torch.float32, device=device)
        self.filterbank = slaney_filterbank(config.mel).to(device)  # [K, M]
        self.halo = config.overlap_frames - config.known_frames
        """Mel frames at an end of a window that are not settled, for want of what lies beyond."""
        self.margin = (config.mel.n_fft - config.mel.hop_length) // 2

    def __call__(self, mel: Tensor) -> Tensor:
        """Synthesise a whole song, [B, M, F] -> [B, S]."""
        return torch.cat(list(self.stream(lambda start, stop: mel[..., start:stop], [(0, mel.shape[-1])])), dim=-1)

    def stream(self, read_mel: Callable[[int, int], Tensor], cuts: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
        """Synthesise a song piece by piece.

        Args:
            read_mel: Gives the frames start to stop, [B, M, stop - start].
            cuts: (start, stop) of consecutive spans of frames; windows lie where they lie, so only the end of the last one counts.
        Yields:
            [B, any], together the song.
        """
        config, hop_length = self.config, self.config.mel.hop_length
        num_frames = cuts[-1][1]
        hop = config.window_frames - config.overlap_frames
        held = config.known_frames - config.fade_frames  # frames of a window that went out with the one before
        known: Tensor | None = None
        mel = read_mel(0, min(config.window_frames, num_frames))
        for start in range(0, max(num_frames - config.overlap_frames, 1), hop):
            padded = self._solve(mel, known)
            begin = self.margin + (held * hop_length if start else 0)
            stop = start + config.window_frames
            if stop >= num_frames:
                yield padded[:, begin : self.margin + mel.shape[-1] * hop_length]
                return
            yield padded[:, begin : self.margin + (hop + held) * hop_length]
            known = padded[:, hop * hop_length : self.margin + (hop + config.known_frames) * hop_length].clone()
            mel = torch.cat([mel[..., hop:], read_mel(stop, min(stop + hop, num_frames))], dim=-1)

    def _solve(self, mel: Tensor, known: Tensor | None) -> Tensor:
        """One window, [B, M, F] and the padded samples that it starts with -> [B, P]; the known samples are kept, faded at their end."""
        magnitudes = self.linear_magnitudes(mel)
        if known is None:
            known = magnitudes.new_empty(magnitudes.shape[0], 0)
        spectrum = torch.polar(magnitudes, self._first_phases(magnitudes, known))
        previous: Tensor | None = None
        for _ in range(self.config.iterations):
            padded = self._synthesise(spectrum)
            padded[:, : known.shape[-1]] = known
            estimate = self._analyse(padded)
            moved = estimate if previous is None else estimate + self.config.momentum * (estimate - previous)
            previous = estimate
            spectrum = magnitudes * moved / moved.abs().clamp_min(LOG_FLOOR)
        padded = self._synthesise(spectrum)
        if known.shape[-1]:
            fade = torch.ones(known.shape[-1], device=known.device)
            fade_samples = self.config.fade_frames * self.config.mel.hop_length
            fade[-fade_samples:] = torch.linspace(1, 0, fade_samples + 2, device=known.device)[1:-1]
            padded[:, : known.shape[-1]] += fade * (known - padded[:, : known.shape[-1]])
        return padded

    def linear_magnitudes(self, mel: Tensor) -> Tensor:
        """Spread mel bands over linear bins, [B, M, F] -> [B, K, F].

        Expectation maximisation from the filterbank's transpose, which is smooth where a pseudo-inverse leaves holes. What the front end
        adds to each squared magnitude goes off again, so silence is silent.
        """
        bands = mel.exp()
        per_bin = self.filterbank.sum(dim=1)[:, None]
        per_band = self.filterbank.sum(dim=0)[:, None]
        magnitudes = self.filterbank @ (bands / per_band) / (per_bin + 1e-4) + 1e-7
        for _ in range(self.config.em_steps):
            ratios = bands / (self.filterbank.t() @ magnitudes + 1e-8)
            factors = (self.filterbank @ ratios / (per_bin + 1e-6)).clamp(0.1, 10.0)
            magnitudes = torch.where(per_bin > 0, magnitudes * factors, magnitudes)
        return (magnitudes.square() - POWER_EPSILON).clamp_min(0.0).sqrt()

    def _first_phases(self, magnitudes: Tensor, known: Tensor) -> Tensor:
        """Phases from the gradients of the log-magnitudes, [B, K, F], continuing those of the known samples.

        Under a Gaussian window each gradient of the phase is one of the log-magnitude. They are integrated along time at each frame's
        peaks, and from every peak along frequency to the bins around it. All channels share the gradients of their mean: their phases stay
        together, so that their sum sounds as they do.
        """
        geometry = self.config.mel
        num_bins, num_frames = magnitudes.shape[1:]
        mean = magnitudes.mean(dim=0)  # [K, F]
        log = mean.clamp_min(LOG_FLOOR).log()
        scale = HANN_GAMMA * geometry.n_fft / geometry.hop_length
        bins = torch.arange(num_bins, device=log.device)
        carrier = (geometry.hop_length * bins % geometry.n_fft) * (2 * math.pi / geometry.n_fft)
        steps = carrier[:, None] + _midpoints(_slopes(log, 0), 1) / scale  # from one frame to the next
        tilt = torch.cumsum(_midpoints(-scale * _slopes(log, 1), 0), dim=0)  # from bin 0
        peaks = _peaks(mean)
        tilt = tilt - tilt.gather(0, peaks)

        phases = torch.empty_like(magnitudes)
        if known.shape[-1]:
            settled = self._analyse(known)
            # phases refer to the frames' centres, spectra to their starts: half a turn a bin
            start = settled.shape[-1]
            phases[..., :start] = settled.angle() - math.pi * bins[:, None]
        else:
            start = 1
            first = torch.rand(num_bins, generator=torch.Generator().manual_seed(SEED)) * (2 * math.pi)
            phases[..., 0] = first.to(log.device)[peaks[:, 0]] + tilt[:, 0]
        for frame in range(start, num_frames):
            moved = phases[..., frame - 1] + steps[:, frame]
            phases[..., frame] = (moved[:, peaks[:, frame]] + tilt[:, frame]).remainder(2 * math.pi)
        return phases + math.pi * bins[:, None]

    def _analyse(self, padded: Tensor) -> Tensor:
        """Spectrum, [B, P] -> [B, K, F]."""
        n_fft = self.config.mel.n_fft
        return torch.stft(padded, n_fft, self.config.mel.hop_length, n_fft, self.window, center=False, return_complex=True)

    def _synthesise(self, spectrum: Tensor) -> Tensor:
        """Samples whose spectrum is nearest, [B, K, F] -> [B, P]."""
        frames = torch.fft.irfft(spectrum.transpose(1, 2), n=self.config.mel.n_fft) * self.window
        weights = self.window.square().expand(1, frames.shape[1], -1)
        return self._overlap_add(frames) / self._overlap_add(weights).clamp_min(1e-6)  # the outermost window ends are zero

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """[B, F, n_fft] -> [B, P]."""
        hop_length = self.config.mel.hop_length
        batch, num_frames, n_fft = frames.shape
        parts = frames.reshape(batch, num_frames, n_fft // hop_length, hop_length)
        total = frames.new_zeros(batch, num_frames + parts.shape[2] - 1, hop_length)
        for part in range(parts.shape[2]):
            total[:, part : part + num_frames] += parts[:, :, part]
        return total.flatten(1)


def _slopes(values: Tensor, dim: int) -> Tensor:
    """Central differences, 0 at both ends; same shape."""
    inner = (values.narrow(dim, 2, values.shape[dim] - 2) - values.narrow(dim, 0, values.shape[dim] - 2)) / 2
    return F.pad(inner, (0, 0, 1, 1) if dim == 0 else (1, 1))


def _midpoints(values: Tensor, dim: int) -> Tensor:
    """Mean with the value before, 0 at the start; same shape."""
    means = (values.narrow(dim, 1, values.shape[dim] - 1) + values.narrow(dim, 0, values.shape[dim] - 1)) / 2
    return F.pad(means, (0, 0, 1, 0) if dim == 0 else (1, 0))


def _peaks(magnitudes: Tensor) -> Tensor:
    """The local maximum above each bin that climbing leads to, [K, F] -> [K, F] bins."""
    num_bins = magnitudes.shape[0]
    padded = F.pad(magnitudes, (0, 0, 1, 1), value=-1.0)
    uphill = torch.stack([magnitudes, padded[:-2], padded[2:]]).argmax(dim=0)  # 0 stay, 1 down, 2 up
    bins = torch.arange(num_bins, device=magnitudes.device)[:, None]
    peaks = bins - (uphill == 1).long() + (uphill == 2).long()
    for _ in range(num_bins.bit_length()):
        peaks = peaks.gather(0, peaks)
    return peaks
