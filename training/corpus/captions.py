"""Other ways to say what a song is: its tags with some left out, always in their one order."""

import random

from training.corpus.song import Song

DROP_TAG = 0.1
DROP_GENRE = 0.3
"""More often: a tempo learnt without its genre is one that holds with any."""


def caption_variants(song: Song, rng: random.Random, count: int) -> list[str]:
    """`count` captions: the first has all tags, the others leave some out, so that each tag is learnt apart from the rest."""
    return [", ".join(song.tags)] + [", ".join(_some_tags(song, rng)) for _ in range(count - 1)]


def _some_tags(song: Song, rng: random.Random) -> list[str]:
    return [tag for tag in song.tags if rng.random() >= (DROP_GENRE if tag == song.genre else DROP_TAG)] or list(song.tags)
