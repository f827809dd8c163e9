"""Windowed-sinc resampling between any two integer rates, in pieces with exact state, always in float32.

The kernel is torchaudio's default (Hann-windowed sinc, 6 zero crossings, roll-off 0.99). With o and n the rates over their greatest
common divisor, output m lies at m * o / n on the input's clock; only the inputs within `_half_width` of it have a weight, so a table of
[n, taps] holds the whole kernel even where o and n are coprime and a dense polyphase kernel would take gigabytes. Every output is the
same sum in the same order wherever a piece ends: pieces put together equal the whole bit for bit.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

ZERO_CROSSINGS = 6
ROLL_OFF = 0.99
BLOCK_SAMPLES = 1 << 20
"""A whole waveform is resampled in blocks of this size: the indices of one output take as much memory as four stereo samples."""


def num_output_samples(num_samples: int, from_rate: int, to_rate: int) -> int:
    """Length after resampling: the ceiling of num_samples * to_rate / from_rate."""
    return -(-num_samples * to_rate // from_rate)


class Resampler:
    """Resamples one waveform that arrives in pieces.

    Args:
        from_rate: Rate of the pieces in Hz.
        to_rate: Rate of the result in Hz; equal rates pass the pieces on unchanged.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        divisor = math.gcd(from_rate, to_rate)
        self._old = from_rate // divisor
        self._new = to_rate // divisor
        self._half = _half_width(self._old, self._new)
        self._received = 0
        self._sent = 0
        self._tail: Tensor | None = None  # inputs that later outputs still need; the first is input number _tail_start
        self._tail_start = 0

    def push(self, piece: Tensor, last: bool = False) -> Tensor:
        """Take the next samples and give every output that they complete.

        Args:
            piece: [..., S] float32, next in order; all pieces agree on the leading sizes.
            last: No more pieces come: the rest is completed with zeros.
        Returns:
            [..., any]
        """
        if self._old == self._new:
            return piece
        held = piece if self._tail is None else torch.cat([self._tail, piece], dim=-1)
        self._received += piece.shape[-1]
        if last:
            stop = num_output_samples(self._received, self._old, self._new)
        else:
            # output m reaches up to input floor(m * o / n) + half + 1
            complete = self._received - self._half - 1
            stop = max(num_output_samples(complete, self._old, self._new), self._sent)
        output = self._outputs(held, self._sent, stop)
        self._sent = stop
        keep = max(stop * self._old // self._new - self._half, 0)
        self._tail = held[..., keep - self._tail_start :]
        self._tail_start = keep
        return output

    def _outputs(self, held: Tensor, start: int, stop: int) -> Tensor:
        if start == stop:
            return held.new_zeros(*held.shape[:-1], 0)
        kernel = _kernel(self._old, self._new).to(held.device)  # [n, taps]
        taps = kernel.shape[1]
        # Outputs in whole turns of n: every turn takes the same places of its o inputs and of those that follow. What lies outside of start
        # and stop is cut off again. Turns come last, so that what one output of every turn takes is one stretch of memory.
        first_turn, turns = start // self._new, -(-stop // self._new) - start // self._new
        places = torch.arange(self._new, device=held.device) * self._old // self._new
        followers = (int(places[-1]) + taps - 1) // self._old
        before = self._tail_start - (first_turn * self._old - self._half)  # inputs outside of the signal are zero
        after = (turns + followers) * self._old - before - held.shape[-1]
        padded = torch.nn.functional.pad(held, (before, after))
        by_place = padded.reshape(*held.shape[:-1], turns + followers, self._old).transpose(-1, -2)
        seen = torch.cat([by_place[..., index : index + turns] for index in range(followers + 1)], dim=-2)
        output = held.new_zeros(*held.shape[:-1], self._new, turns)
        for tap in range(taps):
            output.addcmul_(seen.index_select(-2, places + tap), kernel[:, tap, None])
        skipped = start - first_turn * self._new
        return output.transpose(-1, -2).flatten(-2)[..., skipped : skipped + stop - start].contiguous()


def resample(waveform: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Resample a whole waveform, [..., S] -> [..., ceil(S * to_rate / from_rate)]."""
    resampler = Resampler(from_rate, to_rate)
    pieces = torch.split(waveform, BLOCK_SAMPLES, dim=-1)
    return torch.cat([resampler.push(piece, last=index == len(pieces) - 1) for index, piece in enumerate(pieces)], dim=-1)


def _base(old: int, new: int) -> float:
    return min(old, new) * ROLL_OFF


def _half_width(old: int, new: int) -> int:
    return math.ceil(ZERO_CROSSINGS * old / _base(old, new))


@lru_cache(maxsize=8)
def _kernel(old: int, new: int) -> Tensor:
    """Weights [n, 2 * half + 2]: row p, column c weigh input floor(p * o / n) - half + c for outputs of phase p."""
    half = _half_width(old, new)
    base = _base(old, new)
    phases = torch.arange(new, dtype=torch.int64)[:, None]
    inputs = phases * old // new - half + torch.arange(2 * half + 2)[None, :]
    times = (-phases.double() / new + inputs.double() / old) * base
    times = times.clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)  # the window is zero at the ends
    window = torch.cos(times * math.pi / ZERO_CROSSINGS / 2).square()
    return (window * torch.sinc(times) * base / old).float()
