"""Songs as a run has them: played by other processes, kept on the device in 8 bits, drawn as crops.

B crops, T latent frames of a crop, L tags, N lyric tokens.
"""

import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from training.closed_form_codec import normalised_log_mel
from training.corpus.arrangement import compose
from training.corpus.band import Wishes
from training.corpus.captions import caption_variants
from training.corpus.labels import BEATS_PER_BAR, CLOCK_COLUMNS, SCORE_COLUMNS, score_features
from training.corpus.prepare import CLOCK_WEIGHT, NUM_CAPTIONS, standardised
from training.corpus.render import Renderer, mix
from training.corpus.song import SONG_FRAMES, Song
from vae_svc.model.mel import LogMel, MelConfig

MAX_TAGS = 12
LATENT_STEP = 1 / 14
"""Of latents in 8 bits: the error is 34 dB below them."""
HELD_OUT_SONGS = 64
PATCH_LEVELS = 3


def latent_matrix(pack: Mapping[str, Tensor], image: Tensor) -> Tensor:
    """What the closed-form codec encodes, log-mel images [2, 128, 8 T] -> [T, 8 * 16]."""
    patches = image[None]
    for _ in range(PATCH_LEVELS):
        patches = F.pixel_unshuffle(patches, 2)
    raw = F.conv2d(patches, pack["codec.weight"][..., None, None], pack["codec.bias"])[0]
    return ((raw - pack["codec.shift"]) * pack["codec.scale"]).flatten(0, 1).T


@dataclass(frozen=True)
class Prepared:
    """A song as arrays: latents [F, 128] and score [F, C] in 8 bits, tags of each caption [4, L] with -1 behind, frames of a beat."""

    latents: np.ndarray[Any, Any]
    score: np.ndarray[Any, Any]
    captions: np.ndarray[Any, Any]
    beat_frames: float


def eight_bits(latents: Tensor) -> np.ndarray[Any, Any]:
    """Latents as multiples of LATENT_STEP."""
    return (latents / LATENT_STEP).round().clamp(-127, 127).to(torch.int8).numpy()


def caption_rows(song: Song, tags: Mapping[str, int]) -> np.ndarray[Any, Any]:
    """Numbers of the tags of each caption, the end's behind them."""
    rows = np.full((NUM_CAPTIONS, MAX_TAGS), -1, np.int64)
    for row, caption in zip(rows, caption_variants(song, random.Random(song.key), NUM_CAPTIONS), strict=True):  # noqa: S311 - no secrets here
        numbers = [*(tags[tag] for tag in caption.split(", ")), tags[""]]
        row[: len(numbers)] = numbers
    return rows


def score_row(song: Song) -> np.ndarray[Any, Any]:
    """The score in 8 bits."""
    return np.round(255 * score_features(song, SONG_FRAMES)).astype(np.uint8)


class Player:
    """Plays songs that nobody sings.

    Args:
        pack: Of `read_pack`.
        tags: Numbers of the tags.
        soundfont: Of the band.
    """

    def __init__(self, pack: Mapping[str, Tensor], tags: Mapping[str, int], soundfont: Path) -> None:
        self.pack, self.tags, self.renderer = pack, tags, Renderer(soundfont)
        self.log_mel = LogMel(MelConfig(), torch.device("cpu"))

    @torch.inference_mode()
    def play(self, song: Song) -> Prepared:
        """A song."""
        waveform = torch.from_numpy(mix(self.renderer.render(song), None))
        latents = latent_matrix(self.pack, normalised_log_mel(waveform, self.log_mel))
        return Prepared(eight_bits(latents[:SONG_FRAMES]), score_row(song), caption_rows(song, self.tags), song.beat_frames)


def play_songs(work: Any, done: Any, pack_path: Path, soundfont: Path, seed: int) -> None:
    """A process that plays songs by number until there is no more work; the first ones are held out."""
    torch.set_num_threads(1)
    os.nice(5)
    pack, tags = read_pack(pack_path)
    player = Player(pack, tags, soundfont)
    while (number := work.get()) is not None:
        held_out = number < HELD_OUT_SONGS
        song = compose(seed, number, Wishes(split="held_out" if held_out else "train"))
        if song.voice is None:
            done.put((held_out, player.play(song)))


def read_pack(path: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Tensors, and numbers of the tags, whose end is called ''."""
    tags = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return load_file(path), {tag: number for number, tag in enumerate(tags)}


class Store:
    """Songs on the device.

    Args:
        capacity: Songs.
        lyric_tokens: Of the longest lyrics.
        statistics: Of the score, [2, C].
        device: Where they stay.
    """

    def __init__(self, capacity: int, lyric_tokens: int, statistics: Tensor, device: torch.device) -> None:
        def empty(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(capacity, *shape, dtype=dtype, device=device)

        self.device = device
        self.count, self.count_there = 0, torch.zeros((), device=device)  # songs, for this program and for the device's
        self.latents = empty(SONG_FRAMES, 128, dtype=torch.int8)
        self.score = empty(SONG_FRAMES, len(SCORE_COLUMNS), dtype=torch.uint8)
        self.phones = empty(SONG_FRAMES, dtype=torch.uint8)
        self.captions = empty(NUM_CAPTIONS, MAX_TAGS, dtype=torch.int64)
        self.bar_frames = empty(dtype=torch.float32)
        self.lyric_ids = empty(lyric_tokens, dtype=torch.int64)
        self.lyric_from = torch.full_like(self.lyric_ids, 2**20)  # frames in which a token's line sounds
        self.lyric_to = torch.full_like(self.lyric_ids, -1)
        self.statistics = statistics.to(device)
        self._longest: dict[int, int] = {}

    def add(self, songs: Sequence[Prepared]) -> None:
        """Keep songs while there is room."""
        first, songs = self.count, songs[: len(self.latents) - self.count]
        if not songs:
            return
        rows = slice(first, first + len(songs))
        for name in ("latents", "score", "captions"):
            getattr(self, name)[rows] = torch.from_numpy(np.stack([getattr(song, name) for song in songs])).to(self.device)
        self.bar_frames[rows] = torch.tensor([BEATS_PER_BAR * song.beat_frames for song in songs], device=self.device)
        self.grow(first + len(songs))

    def grow(self, count: int) -> None:
        """The first `count` rows are filled now."""
        self.count = count
        self.count_there.fill_(count)

    def longest(self, length: int) -> int:
        """Most lyric tokens that a crop of a length has in the first songs; asked for once the lyrics are there."""
        if length not in self._longest:
            starts = torch.arange(SONG_FRAMES - length + 1, device=self.device)[:, None, None]
            heard = (self.lyric_from[:256] < starts + length) & (self.lyric_to[:256] > starts)
            self._longest[length] = int(heard.sum(-1).max())
        return self._longest[length]

    def draw(self, count: int, length: int, random_numbers: torch.Generator) -> "Crops":
        """Crops that begin with a bar."""
        uniform = torch.rand(count, 3, generator=random_numbers, device=self.device)
        songs = (uniform[:, 0] * self.count_there).long().minimum(self.count_there.long() - 1)
        bars = ((SONG_FRAMES - length) / self.bar_frames[songs]).floor() + 1
        starts = ((uniform[:, 1] * bars).floor() * self.bar_frames[songs]).ceil().long().clamp_max(SONG_FRAMES - length)
        frames = starts[:, None] + torch.arange(length, device=self.device)
        score = standardised(self.score[songs[:, None], frames].float() / 255, self.statistics)
        score[..., CLOCK_COLUMNS] *= CLOCK_WEIGHT
        captions = self.captions[songs, (uniform[:, 2] * NUM_CAPTIONS).long().clamp_max(NUM_CAPTIONS - 1)]
        # Lines that sound outside the crop are left out, and what is left moves together.
        heard = (self.lyric_from[songs] < starts[:, None] + length) & (self.lyric_to[songs] > starts[:, None])
        order = (~heard).long().argsort(dim=1, stable=True)
        latents = self.latents[songs[:, None], frames].float() * LATENT_STEP  # [B, T, 128]
        return Crops(
            torch.unflatten(latents.transpose(1, 2), 1, (8, 16)),
            score,
            self.phones[songs[:, None], frames].long(),
            captions,
            (self.lyric_ids[songs].gather(1, order) * heard.gather(1, order))[:, : self.longest(length)],
            heard.gather(1, order)[:, : self.longest(length)],
        )


@dataclass(frozen=True)
class Crops:
    """Latents [B, 8, 16, T], standardised score [B, T, C], phones [B, T], tags [B, L], lyric ids and their mask [B, N]."""

    latents: Tensor
    score: Tensor
    phones: Tensor
    captions: Tensor
    lyric_ids: Tensor
    lyric_mask: Tensor


def sung_store(pack: Mapping[str, Tensor], device: torch.device) -> Store:
    """The songs of the pack."""
    store = Store(len(pack["latents"]), pack["lyric_ids"].shape[1], pack["statistics"], device)
    for name in ("latents", "score", "phones", "captions", "bar_frames", "lyric_ids", "lyric_from", "lyric_to"):
        getattr(store, name).copy_(pack[name])
    store.grow(len(pack["latents"]))
    return store


def played_store(pack: Mapping[str, Tensor], capacity: int, device: torch.device) -> Store:
    """Room for songs without lyrics, whose lyric ids are all the same."""
    inst = pack["instrumental_ids"]
    store = Store(capacity, len(inst), pack["statistics"], device)
    store.lyric_ids[:] = inst.to(device)
    store.lyric_from[:], store.lyric_to[:] = -1, 2**20
    return store
