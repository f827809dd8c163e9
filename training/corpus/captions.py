"""Other ways to say what a song is: its tags with some left out, always in their one order."""

import random

from training.corpus.song import Song

DROP_TAG = 0.1


def caption_variants(song: Song, rng: random.Random, count: int) -> list[str]:
    """`count` captions: the first has all tags, the others leave some out, so that each tag is learnt apart from the rest.

    The genre is only left out where the tempo is too: the transformer counts time from a tag's place in the prompt, and a tempo that stood
    first in one caption and second in another would begin its beats a frame earlier there.
    """
    return [", ".join(song.tags)] + [", ".join(_some_tags(song, rng)) for _ in range(count - 1)]


def _some_tags(song: Song, rng: random.Random) -> list[str]:
    kept = [tag for tag in song.tags if rng.random() >= DROP_TAG]
    if f"{song.bpm} bpm" in kept and song.genre not in kept:
        kept.insert(0, song.genre)
    return kept or list(song.tags)
