"""`python -m training.corpus.prepare --songs corpus --checkpoint CHECKPOINT --output DATASET`: songs of the corpus to shards.

Its labels stand in for the projection targets, its bars say where crops may begin, and its lines when they are sung. With a checkpoint
that does not exist yet the untrained one of `training/embedded.py` is written first, its codec fitted to these songs.
"""

import argparse
import json
import math
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from encoder_svc import weights as encoder_weights
from encoder_svc.lyrics.lyric_tokenizer import LyricTokenizer
from encoder_svc.text_tokenizer import TextTokenizer
from training import embedded
from training.closed_form_codec import normalised_log_mel
from training.corpus.captions import caption_variants
from training.corpus.labels import BEATS_PER_BAR, CLOCK_COLUMNS, phone_features, score_features
from training.corpus.song import FRAME_SECONDS, Song, song_from_json
from training.shards import PreparedSong, write_manifest, write_shard
from vae_svc.codec import Codec
from vae_svc.model.mel import LogMel, MelConfig
from vae_svc.weights import load_codec

NUM_CAPTIONS = 4
SONGS_PER_SHARD = 64
FIT_EVERY = 8
"""One song in so many fits the codec."""
RARE = 0.1
"""Added to the spread of a column before division, so that rare labels are not blown up without bound."""
CLOCK_WEIGHT = 2.0
"""Of the columns of beats and bars: a tempo can be followed only by a network that can count."""


def read_song(labels: Path) -> tuple[Song, Tensor]:
    """Song and waveform [2, S] at 44.1 kHz of KEY.json and KEY.flac or KEY.wav beside it."""
    song = song_from_json(json.loads(labels.read_text(encoding="utf-8")))
    audio = next(path for path in (labels.with_suffix(".flac"), labels.with_suffix(".wav")) if path.exists())
    samples, _ = soundfile.read(audio, dtype="float32", always_2d=True)
    return song, torch.from_numpy(np.ascontiguousarray(samples.T))


class Preparer:
    """What the songs of one checkpoint are prepared with.

    Args:
        checkpoint: Folder in the official layout.
        statistics: Mean and spread of the score's columns over the corpus, [2, C].
    """

    def __init__(self, checkpoint: Path, statistics: Tensor) -> None:
        self.codec: Codec = load_codec(checkpoint, torch.device("cpu"), torch.float32).codec
        self.text_encoder = encoder_weights.load_text_encoder(checkpoint, torch.device("cpu"), torch.float32)
        self.text_tokenizer = TextTokenizer(checkpoint, self.text_encoder.umt5.config.vocab_size)
        config = encoder_weights.read_json(checkpoint / encoder_weights.TRANSFORMER_FOLDER / "config.json")
        self.lyric_tokenizer = LyricTokenizer(checkpoint / "lyric_vocab.json", config["lyric_encoder_vocab_size"])
        self.speaker_width = int(config["speaker_embedding_dim"])
        self.statistics = statistics

    @torch.inference_mode()
    def prepare(self, song: Song, waveform: Tensor) -> PreparedSong:
        """All that training needs of a song."""
        latents = self.codec.encode(waveform, 44_100)
        num_frames = latents.shape[-1]
        captions = caption_variants(song, random.Random(song.key), NUM_CAPTIONS)  # noqa: S311 - no secrets here
        texts = []
        for caption in captions:
            ids = torch.tensor([self.text_tokenizer.encode(caption)])
            texts.append(self.text_encoder(ids, torch.ones_like(ids))[0].half())
        ids, lines = self._lyrics(song)
        score = standardised(torch.from_numpy(score_features(song, num_frames)), self.statistics)
        score[:, CLOCK_COLUMNS] *= CLOCK_WEIGHT
        bars = torch.arange(0, num_frames, song.beat_frames * BEATS_PER_BAR)
        return PreparedSong(
            key=song.key,
            latents=latents.half(),
            texts=tuple(texts),
            captions=tuple(captions),
            lyric_ids=ids,
            speaker=torch.zeros(self.speaker_width),
            features={embedded.SCORE: score.half(), embedded.PHONE: torch.from_numpy(phone_features(song, num_frames)).half()},
            crop_starts=bars.ceil().long(),
            lyric_lines=lines,
        )

    def _lyrics(self, song: Song) -> tuple[Tensor, Tensor | None]:
        """Ids of the lyrics as the encoder stage gives them, and the frames and ids of each sung line with its line break."""
        encoded = self.lyric_tokenizer.encode(song.lyrics)
        sung = iter(song.lyric_lines)
        expected = next(sung, None)
        rows = []
        position = 1  # behind the start token
        for text, line in zip(song.lyrics.split("\n"), encoded.lines, strict=True):
            end = position + len(line.ids) + 1
            if expected is not None and text == expected.text:
                first, last = (seconds / FRAME_SECONDS for seconds in (expected.start_seconds, expected.end_seconds))
                rows.append((math.floor(first), math.ceil(last), position, end))
                expected = next(sung, None)
            position = end
        assert expected is None, f"{song.key}: a sung line is not in the lyrics"
        return torch.tensor(encoded.ids), torch.tensor(rows) if rows else None


def standardised(features: Tensor, statistics: Tensor) -> Tensor:
    """Features of the score [F, C] without the mean and in units of the spread of their columns, statistics [2, C]."""
    mean, spread = statistics.unbind()
    return (features - mean) / (spread + RARE)


def score_statistics(songs: Sequence[Song]) -> Tensor:
    """Mean and standard deviation of each column of the score, [2, C]."""
    features = torch.cat([torch.from_numpy(score_features(song, round(song.seconds / FRAME_SECONDS))) for song in songs])
    return torch.stack([features.mean(0), features.std(0)])


def _images(labels: Sequence[Path]) -> Iterator[Tensor]:
    log_mel = LogMel(MelConfig(), torch.device("cpu"))
    for path in labels:
        yield normalised_log_mel(read_song(path)[1], log_mel)


def main(arguments: list[str] | None = None) -> int:
    """Prepare every song of the folder; finished shards are not made again."""
    parser = argparse.ArgumentParser(prog="python -m training.corpus.prepare", description=__doc__)
    parser.add_argument("--songs", type=Path, required=True, help="folder that python -m training.corpus wrote")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="dataset folder")
    parser.add_argument("--seed", type=int, default=0, help="of a checkpoint that is not there yet")
    parser.add_argument("--limit", type=int, help="the first so many songs only")
    options = parser.parse_args(arguments)
    labels = sorted(options.songs.glob("*.json"))[: options.limit]
    if not labels:
        print(f"training.corpus.prepare: no songs in {options.songs}", file=sys.stderr)
        return 1
    if not options.checkpoint.exists():
        codec = embedded.write_untrained(options.checkpoint, _images(labels[::FIT_EVERY]), options.seed)
        print(f"{options.checkpoint}: codec fitted, mean squared error {codec.image_mse:.4f}", flush=True)
    statistics = score_statistics([read_song(path)[0] for path in labels[::FIT_EVERY]])
    preparer = Preparer(options.checkpoint, statistics)
    shards = []
    for first in range(0, len(labels), SONGS_PER_SHARD):
        shards.append(write_shard(options.output, [preparer.prepare(*read_song(path)) for path in labels[first : first + SONGS_PER_SHARD]]))
        write_manifest(options.output, shards, {"made_by": "training.corpus.prepare"})
        print(f"{min(first + SONGS_PER_SHARD, len(labels))} of {len(labels)} songs", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
