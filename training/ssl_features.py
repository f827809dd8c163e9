"""Features of self-supervised audio encoders as targets of the projection losses.

The encoder itself is a callable: this file prepares what it hears and cuts what it says. Items do not influence each other: a batch only
shares forwards.

S samples of a waveform, K chunks, F feature frames, C feature channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vae_svc.model.resample import resample

SOURCE_RATE = 48_000
HOP_SAMPLES = 320
VARIANCE_FLOOR = 1e-7
CHUNKS_PER_FORWARD = 16

Extractor = Callable[[Tensor], Tensor]
"""Waveforms [K, S] to features [K, F, C], F at most ceil(S / HOP_SAMPLES) (more are cut)."""


@dataclass(frozen=True)
class SslInput:
    """What an encoder wants to hear.

    Attributes:
        sample_rate: In Hz; divides SOURCE_RATE.
        chunk_samples: Longest piece that it hears at once.
    """

    sample_rate: int
    chunk_samples: int


MERT = SslInput(sample_rate=24_000, chunk_samples=5 * 24_000)
MHUBERT = SslInput(sample_rate=16_000, chunk_samples=30 * 16_000)


def ssl_features(
    waveforms: Sequence[Tensor], ssl: SslInput, extractor: Extractor, chunks_per_forward: int = CHUNKS_PER_FORWARD
) -> list[Tensor]:
    """Features of each waveform, chunk after chunk.

    Args:
        waveforms: [channels, S] each, at SOURCE_RATE, without padding.
        ssl: The encoder's rate and chunks.
        extractor: The encoder.
        chunks_per_forward: Bounds memory; the features do not depend on it.
    Returns:
        [F, C] for each waveform: of a chunk with n real samples the first ceil(n / 320) frames, or as many as the encoder gives.
    Raises:
        ValueError: A waveform has not a single sample at the encoder's rate.
    """
    signals = [prepare(waveform, ssl.sample_rate) for waveform in waveforms]
    pieces = [piece for signal in signals for piece in torch.split(signal, ssl.chunk_samples)]
    chunks = torch.stack([torch.nn.functional.pad(piece, (0, ssl.chunk_samples - len(piece))) for piece in pieces])
    extracted = [features for group in torch.split(chunks, chunks_per_forward) for features in extractor(group)]
    trimmed = iter([features[: -(-len(piece) // HOP_SAMPLES)] for features, piece in zip(extracted, pieces, strict=True)])
    return [torch.cat([next(trimmed) for _ in range(-(-len(signal) // ssl.chunk_samples))]) for signal in signals]


def prepare(waveform: Tensor, sample_rate: int) -> Tensor:
    """Mono at another rate, with mean 0 and variance 1: [channels, S] -> [S * sample_rate // SOURCE_RATE].

    Raises:
        ValueError: Nothing is left.
    """
    num_samples = waveform.shape[-1] * sample_rate // SOURCE_RATE
    if num_samples == 0:
        raise ValueError(f"a waveform of {waveform.shape[-1]} samples has none at {sample_rate} Hz")
    signal = resample(waveform.float().mean(0), SOURCE_RATE, sample_rate)[:num_samples]
    # A single sample has no variance: it becomes 0, like any constant.
    variance = signal.var() if num_samples > 1 else signal.new_zeros(())
    return (signal - signal.mean()) / torch.sqrt(variance + VARIANCE_FLOOR)
