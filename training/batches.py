"""Which songs and crops the micro-batches of a run hold: a pure function of the seed and the micro-batch's number.

So a resumed run sees what the uninterrupted one would have seen, and several processes see what one process with accumulation would.
Crops of a batch have one length, a bucket; shorter songs are padded and masked.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler

from training.conditions import Conditions
from training.shards import DatasetError, PreparedSong, ShardedDataset

logger = logging.getLogger(__name__)

SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Bucket:
    """Crops of one length.

    Attributes:
        num_frames: Length of a crop in latent frames.
        batch_size: Crops of a micro-batch.
        share: Relative frequency of such micro-batches.
    """

    num_frames: int
    batch_size: int
    share: float = 1.0


@dataclass(frozen=True)
class Batch:
    """One micro-batch.

    Attributes:
        number: Of the micro-batch in the run; random numbers of its step come from it.
        latents: [B, 8, 16, T], padded with zeros.
        frame_mask: [B, T], 1 = real; None: no padding.
        conditions: Before dropout.
        features: Projection targets of the songs, [F, C] each, by the name of the encoder; only encoders that every song has.
        keys: Of the songs.
        captions: Of the songs.
    """

    number: int
    latents: Tensor
    frame_mask: Tensor | None
    conditions: Conditions
    features: dict[str, list[Tensor]]
    keys: tuple[str, ...]
    captions: tuple[str, ...]

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on a device."""
        return replace(
            self,
            latents=self.latents.to(device),
            frame_mask=None if self.frame_mask is None else self.frame_mask.to(device),
            conditions=self.conditions.to(device),
            features={name: [feature.to(device) for feature in features] for name, features in self.features.items()},
        )


def collate(number: int, songs: Sequence[PreparedSong]) -> Batch:
    """Pad crops into a batch."""
    num_frames = max(song.num_frames for song in songs)
    latents = torch.zeros(len(songs), *songs[0].latents.shape[:2], num_frames)
    mask = torch.zeros(len(songs), num_frames)
    for index, song in enumerate(songs):
        latents[index, ..., : song.num_frames] = song.latents
        mask[index, : song.num_frames] = 1
    names = set.intersection(*(set(song.features) for song in songs))
    conditions = Conditions(
        text=pad_sequence([song.texts[0] for song in songs], batch_first=True),
        text_mask=pad_sequence([torch.ones(len(song.texts[0])) for song in songs], batch_first=True),
        speaker=torch.stack([song.speaker for song in songs]),
        lyric_ids=pad_sequence([song.lyric_ids for song in songs], batch_first=True),
        lyric_mask=pad_sequence([torch.ones(len(song.lyric_ids)) for song in songs], batch_first=True),
    )
    return Batch(
        number,
        latents,
        None if bool(mask.all()) else mask,
        conditions,
        {name: [song.features[name] for song in songs] for name in sorted(names)},
        tuple(song.key for song in songs),
        tuple(song.captions[0] for song in songs),
    )


class MicroBatches(Dataset[Batch]):
    """Micro-batches by number, for as long as a run lasts.

    A song that cannot be read is logged by name and replaced by the next one of its order; a dataset without a readable song ends the run.

    Args:
        dataset: The songs.
        buckets: Lengths to train on.
        seed: Of the run's order.
    """

    def __init__(self, dataset: ShardedDataset, buckets: Sequence[Bucket], seed: int) -> None:
        self.dataset = dataset
        self.buckets = tuple(buckets)
        self.seed = seed

    def __getitem__(self, number: int) -> Batch:
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, number, 0))
        bucket = self._bucket(generator)
        songs: list[PreparedSong] = []
        problems: list[str] = []
        # Songs are drawn without replacement inside a batch; over the run every song is as likely as every other.
        for index in torch.randperm(len(self.dataset), generator=generator).tolist():
            if len(songs) == bucket.batch_size:
                break
            draws = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
            try:
                songs.append(self._crop(index, bucket.num_frames, draws[0], draws[1]))
            except DatasetError as error:
                problems.append(str(error))
                logger.warning("skipped: %s", error)
        if not songs:
            more = f"\nand {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
            raise DatasetError("no song can be read:\n" + "\n".join(problems[:SHOWN_PROBLEMS]) + more)
        return collate(number, songs)

    def _bucket(self, generator: torch.Generator) -> Bucket:
        shares = torch.tensor([bucket.share for bucket in self.buckets])
        return self.buckets[int(torch.multinomial(shares, 1, generator=generator))]

    def _crop(self, index: int, length: int, where: float, caption: float) -> PreparedSong:
        total = self.dataset.num_frames[index]
        start = 0
        if total > length:
            starts = self.dataset.crop_starts(index)
            if starts is None:
                start = math.floor(where * (total - length + 1))
            else:
                possible = starts[starts <= total - length]
                start = int(possible[math.floor(where * len(possible))]) if len(possible) else 0
        return self.dataset.read(index, math.floor(caption * 2**16), start, length)


class Numbers(Sampler[int]):
    """Numbers of the micro-batches of one process of a run: rank, rank + world_size, ... below end.

    Args:
        end: Micro-batches of the run, of all processes.
        rank: Of the process.
        world_size: Number of processes.
        done: How many of its own the process has behind it. They are passed over, and still count in the length: Lightning, which counts
            them too, then ends the run where it should.
    """

    def __init__(self, end: int, rank: int = 0, world_size: int = 1, done: int = 0) -> None:
        self.numbers = range(rank, end, world_size)
        self.done = done

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers[self.done :])

    def __len__(self) -> int:
        return len(self.numbers)


def mixed_seed(seed: int, number: int, purpose: int) -> int:
    """A seed of 63 bits for one purpose of one micro-batch; neighbours share nothing (SplitMix64)."""
    value = (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + purpose * 0x94D049BB133111EB + 0x632BE59BD9B4E019) & (2**64 - 1)
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (value ^ (value >> 31)) >> 1
