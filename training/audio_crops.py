"""Micro-batches of waveforms for the codec's trainers, by number: a pure function of the seed and the micro-batch's number.

Crops are read from the songs' own files without reading the rest, so a song may be of any length.

B crops, C channels, S samples at 44.1 kHz.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from training.batches import SHOWN_PROBLEMS, mixed_seed
from training.records import Record
from training.shards import DatasetError
from training.songs import MIN_RMS, MIN_SECONDS
from vae_svc.audio_file import MAX_CHANNELS, MAX_PEAK, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from vae_svc.codec import SAMPLE_RATE
from vae_svc.model.resample import resample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CropBatch:
    """One micro-batch.

    Attributes:
        number: Of the micro-batch in the run.
        waveforms: [B, C, S], within -1 to 1.
        keys: Of the songs.
    """

    number: int
    waveforms: Tensor
    keys: tuple[str, ...]

    @property
    def audio_seconds(self) -> float:
        """Of all crops."""
        return self.waveforms.shape[0] * self.waveforms.shape[-1] / SAMPLE_RATE

    def to(self, device: torch.device) -> "CropBatch":
        """The batch with its tensor on a device."""
        return replace(self, waveforms=self.waveforms.to(device))


class AudioCrops(Dataset[CropBatch]):
    """Micro-batches by number, for as long as a run lasts.

    A song that cannot be read, or is silent where it is cropped, is logged by name and replaced by the next one of its order; a dataset
    without a usable song ends the run.

    Args:
        records: The songs.
        num_samples: Length of a crop; a shorter song ends in zeros.
        batch_size: Crops of a micro-batch; fewer if there are fewer songs.
        seed: Of the run's order.
        mono: One channel of each crop, drawn; else both, one that is alone doubled.
        quieter_db: Each crop is made quieter by 0 to so many decibels.
    """

    def __init__(
        self, records: Sequence[Record], num_samples: int, batch_size: int, seed: int, mono: bool = False, quieter_db: float = 0.0
    ) -> None:
        self.records = tuple(records)
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.mono = mono
        self.quieter_db = quieter_db
        self._reported: set[str] = set()

    def __getitem__(self, number: int) -> CropBatch:
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, number, 0))
        waveforms: list[Tensor] = []
        keys: list[str] = []
        problems: list[str] = []
        # As `MicroBatches`: without replacement inside a batch, every song as likely as every other over the run.
        for index in torch.randperm(len(self.records), generator=generator).tolist():
            if len(waveforms) == self.batch_size:
                break
            where, channel, gain = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
            record = self.records[index]
            try:
                waveform = read_crop(Path(record.filename), where, self.num_samples)
            except DatasetError as error:
                problems.append(f"{record.key}: {error}")
                self._report(record.key, problems[-1])
                continue
            waveform = waveform * 10 ** (-gain * self.quieter_db / 20)
            if self.mono:
                waveform = waveform[math.floor(channel * len(waveform))][None]
            waveforms.append(waveform)
            keys.append(record.key)
        if not waveforms:
            more = f"\nand {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
            raise DatasetError("no song can be read:\n" + "\n".join(problems[:SHOWN_PROBLEMS]) + more)
        return CropBatch(number, torch.stack(waveforms), tuple(keys))

    def _report(self, key: str, problem: str) -> None:
        """Once for each song: a long run meets it again and again."""
        if key not in self._reported:
            self._reported.add(key)
            logger.warning("skipped: %s", problem)


def read_crop(path: Path, where: float, num_samples: int) -> Tensor:
    """A stretch of a song as the codec hears it, [2, num_samples] float32.

    Args:
        path: Of a file that soundfile reads.
        where: 0, at the start, to below 1, at the end.
        num_samples: At 44.1 kHz.
    Raises:
        DatasetError: The file cannot be used, or is silent there.
    """
    if not path.is_file():
        raise DatasetError(f"no such file: {path}")
    try:
        with soundfile.SoundFile(path) as file:
            if file.channels > MAX_CHANNELS:
                raise DatasetError(f"{file.channels} channels: {path}")
            rate: int = file.samplerate
            if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
                raise DatasetError(f"{rate} Hz: {path}")
            wanted = -(-num_samples * rate // SAMPLE_RATE)
            start = math.floor(where * max(1, file.frames - wanted + 1))
            file.seek(start)
            samples = file.read(wanted, dtype="float32", always_2d=True)  # [S, C]
            expected = min(wanted, file.frames - start)
            exact = file.format != "MP3"  # whose length is often only an estimate
    except (soundfile.SoundFileError, OSError, MemoryError) as error:
        raise DatasetError(f"cannot be decoded: {path}: {error}") from error
    if exact and len(samples) < expected:
        raise DatasetError(f"cut off after {start + len(samples)} frames: {path}")
    if len(samples) < MIN_SECONDS * rate:
        raise DatasetError(f"too short, {len(samples) / rate:.3f} seconds: {path}")
    peak = float(np.abs(samples).max())
    if not peak <= MAX_PEAK:  # also false for NaN
        raise DatasetError(f"samples up to {peak:g}: {path}")
    if float(np.sqrt(np.square(samples, dtype=np.float64).mean())) < MIN_RMS:
        raise DatasetError(f"silent from {start / rate:.1f} to {(start + len(samples)) / rate:.1f} seconds: {path}")
    waveform = resample(torch.from_numpy(samples).t().contiguous(), rate, SAMPLE_RATE)[:, :num_samples]
    padded = F.pad(waveform, (0, num_samples - waveform.shape[-1])).clamp(-1, 1)
    return padded.expand(2, -1).contiguous()
