"""Other ways to say what a song is: its tags with some left out, always in their one order."""

import random

from training.corpus.song import Song

DROP_TAG, DROP_BPM = 0.1, 0.03


def caption_variants(song: Song, rng: random.Random, count: int) -> list[str]:
    """`count` captions: the first has all tags, the others leave tags out, the tempo seldom and the genre never."""
    return [", ".join(song.tags)] + [", ".join(_some_tags(song, rng)) for _ in range(count - 1)]


def _some_tags(song: Song, rng: random.Random) -> list[str]:
    genre, bpm, *others = song.tags
    kept = [bpm] if rng.random() >= DROP_BPM else []
    return [genre, *kept, *(tag for tag in others if rng.random() >= DROP_TAG)]
