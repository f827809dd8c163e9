import random

import pytest

from training.corpus.arrangement import compose
from training.corpus.band import Wishes
from training.corpus.captions import caption_variants


@pytest.fixture
def song():
    return compose(0, 0, Wishes(genre="pop", stem="full"))


def test_the_first_caption_has_all_tags(song):
    assert caption_variants(song, random.Random(0), 1) == [", ".join(song.tags)]


def test_the_others_leave_tags_out_in_order_and_the_tempo_stays_second(song):
    captions = [caption.split(", ") for caption in caption_variants(song, random.Random(0), 2001)[1:]]
    for tags in captions:
        assert tags == [tag for tag in song.tags if tag in tags]
        assert f"{song.bpm} bpm" not in tags or tags.index(f"{song.bpm} bpm") == 1
    kept = [sum(tag in tags for tags in captions) / len(captions) for tag in song.tags]
    assert song.tags[:2] == (song.genre, f"{song.bpm} bpm")
    assert kept == pytest.approx([0.99] + [0.9] * (len(song.tags) - 1), abs=0.03)


class Lowest(random.Random):
    """Draws that leave every tag out."""

    def random(self) -> float:
        return 0.0


def test_a_caption_is_never_empty(song):
    assert caption_variants(song, Lowest(), 2) == [", ".join(song.tags)] * 2


def test_captions_depend_on_the_random_state_alone(song):
    assert caption_variants(song, random.Random(4), 5) == caption_variants(song, random.Random(4), 5)
