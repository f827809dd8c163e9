import random

import pytest

from training.corpus.form import draw_form, draw_players
from training.corpus.song import PARTS


@pytest.mark.parametrize("num_bars", range(1, 25))
def test_a_form_fills_the_song(num_bars):
    for seed in range(30):
        form = draw_form(num_bars, sung_throughout=False, rng=random.Random(seed))
        assert sum(bars for _, bars in form) == num_bars
        assert all(2 <= bars <= 5 or num_bars < 4 for _, bars in form)


def test_a_form_sung_throughout_has_no_intro_and_no_outro():
    forms = [draw_form(13, sung_throughout=True, rng=random.Random(seed)) for seed in range(50)]
    assert not {name for form in forms for name, _ in form} & {"intro", "outro"}


def test_verse_and_chorus_are_played_by_everybody_and_no_section_by_nobody():
    for seed in range(30):
        players = draw_players(("chords", "bass", "lead", "drums"), random.Random(seed))
        assert players["verse"] == players["chorus"] == PARTS[:4]
        assert 1 <= len(players["intro"]) <= 2
        assert draw_players(("lead",), random.Random(seed)) == dict.fromkeys(players, ("lead",))
