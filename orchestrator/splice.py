"""The kept part of a repainted song, put back from its source sample for sample. Knows waveforms, neither latents nor stages."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from acestep_rpc.errors import StageError
from acestep_rpc.v1 import tensor_pb2, vae_pb2
from orchestrator.audio import Waveform, read_waveform

FADE_SECONDS = 0.02
"""A frame, the shortest region, has room for two of them."""

ROUNDED_SAMPLES = 2
"""A kept song read at another rate is this much longer than its latents decoded at that rate: both lengths are rounded up."""


class Splice:
    """Replaces all but the regions of one decoded song by its source; ends the song where the source ends.

    Args:
        source: [S, 2] float32 at the song's rate.
        regions: Seconds (start, end), in any order, not overlapping.
        sample_rate: Of the song in Hz.
        source_rate: Of the source's file in Hz.
    """

    def __init__(self, source: npt.NDArray[np.float32], regions: Sequence[tuple[float, float]], sample_rate: int, source_rate: int) -> None:
        self._source = source
        self._source_rate = source_rate
        self._sample_rate = sample_rate
        self._fade = round(FADE_SECONDS * sample_rate)
        self._regions = _in_samples(regions, sample_rate, len(source))
        self._kept_samples = 0
        self._signal = self._noise = 0.0

    def apply(self, piece: vae_pb2.DecodeLatentsResponse) -> vae_pb2.DecodeLatentsResponse:
        """The piece with the source where it is kept; shorter, or empty, at the source's end.

        Raises:
            StageError: The song is shorter than its source, or no sound.
        """
        total = min(len(self._source), piece.total_samples)
        if total < len(self._source) - ROUNDED_SAMPLES:
            raise StageError(f"the vae stage sent a song of {piece.total_samples} samples for a source of {len(self._source)}")
        start = min(piece.start_sample, total)
        spliced = self.put_back(read_waveform(piece)[:, : total - start], start)
        waveform = tensor_pb2.Tensor(data_type=tensor_pb2.DATA_TYPE_FLOAT32, shape=spliced.shape, data=spliced.tobytes())
        return vae_pb2.DecodeLatentsResponse(
            waveform=waveform,
            start_sample=start,
            total_samples=total,
            sample_rate=piece.sample_rate,
        )

    def put_back(self, new: Waveform, start: int) -> Waveform:
        """A stretch of the song that begins at sample start, with the source where it is kept; ends where the source does."""
        new = new[:, : max(len(self._source) - start, 0)]
        source = np.ascontiguousarray(self._source[start : start + new.shape[1]].T)
        share = self._new_share(np.arange(start, start + new.shape[1]))
        angle = (share * (math.pi / 2)).astype(np.float32)
        kept, faded = share == 0, (share > 0) & (share < 1)
        spliced = np.where(kept, source, np.where(faded, np.cos(angle) * source + np.sin(angle) * new, new)).astype("<f4")
        self._measure(source[:, kept], spliced[:, kept])
        return spliced

    def describe(self) -> dict[str, Any]:
        """For the receipt: what is kept and how."""
        regions = [[start / self._sample_rate, end / self._sample_rate] for start, end in self._regions]
        resampled = self._source_rate != self._sample_rate
        return {
            "new_seconds": regions,
            "fade_seconds": self._fade / self._sample_rate,
            "source_sample_rate": self._source_rate,
            "resampled": resampled,
        }

    def kept_snr_db(self) -> float | str | None:
        """Signal to noise of the kept part so far, fades left out, before the file's format rounds it; None: nothing is kept."""
        if not self._kept_samples:
            return None
        if self._noise == 0:
            return "infinite"
        return round(10 * math.log10(max(self._signal, 1e-30) / self._noise), 2)

    def _new_share(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Position in the fades, 0 (source) to 1 (new). The ends of the song have no fades."""
        share = np.zeros(len(samples))
        for start, end in self._regions:
            rising = (samples + 0.5 - start) / self._fade if start > 0 else np.where(samples >= start, 1.0, 0.0)
            falling = (end - samples - 0.5) / self._fade if end < len(self._source) else np.where(samples < end, 1.0, 0.0)
            share = np.maximum(share, np.clip(np.minimum(rising, falling), 0, 1))
        return share

    def _measure(self, source: Waveform, spliced: Waveform) -> None:
        self._kept_samples += source.shape[1]
        self._signal += float(np.square(source, dtype=np.float64).sum())
        self._noise += float(np.square(spliced - source, dtype=np.float64).sum())


def _in_samples(regions: Sequence[tuple[float, float]], sample_rate: int, total: int) -> list[tuple[int, int]]:
    """Sorted, and those that touch made one: between them nothing is kept."""
    merged: list[tuple[int, int]] = []
    for start_seconds, end_seconds in sorted(regions):
        start, end = round(start_seconds * sample_rate), min(round(end_seconds * sample_rate), total)
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged
