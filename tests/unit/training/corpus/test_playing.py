import pytest

from training.corpus.drums import CLAP, CRASH, FILLS, FULL, LIGHT, NORMAL, SNARE, play_drums
from training.corpus.genres import GENRES
from training.corpus.playing import play_bass, play_chord

DRUM_PATTERNS = sorted({genre.drums for genre in GENRES.values() if genre.drums})


@pytest.mark.parametrize("style", sorted({style for genre in GENRES.values() for _, style in genre.chords}))
@pytest.mark.parametrize("chord", [[48, 52, 55], [48, 52, 55, 58]])
def test_accompaniment_plays_its_chord_in_each_bar(style, chord):
    hits = play_chord(style, chord)
    assert all(0 <= hit.offset < 4 for hit in hits)
    assert {hit.pitch % 12 for hit in hits} <= {pitch % 12 for pitch in chord}


@pytest.mark.parametrize("style", sorted({genre.bass[1] for genre in GENRES.values() if genre.bass}))
@pytest.mark.parametrize("tonic", range(29, 41))
def test_bass_stays_low_and_begins_on_the_root(style, tonic):
    hits = play_bass(style, [tonic, tonic + 4, tonic + 7], tonic + 5)
    assert hits[0].pitch % 12 == tonic % 12
    assert all(23 <= hit.pitch <= 60 for hit in hits)


@pytest.mark.parametrize("pattern", DRUM_PATTERNS)
def test_drums_get_denser(pattern):
    light, normal, full = (play_drums(pattern, density) for density in (LIGHT, NORMAL, FULL))
    assert len(light) <= len(normal)
    assert normal != full
    assert not {hit.pitch for hit in light} & {SNARE, CLAP}


@pytest.mark.parametrize("fill", range(len(FILLS)))
def test_a_fill_takes_over_the_end_of_the_bar(fill):
    start = FILLS[fill][0][0]
    plain, filled = play_drums("pop", NORMAL), play_drums("pop", NORMAL, fill=fill)
    assert [hit for hit in filled if hit.offset < start] == [hit for hit in plain if hit.offset < start]
    assert sorted((hit.offset, hit.pitch) for hit in filled if hit.offset >= start) == sorted(FILLS[fill])


def test_a_section_opens_with_a_crash():
    assert CRASH in {hit.pitch for hit in play_drums("rock", FULL, opens=True)}
    assert CRASH not in {hit.pitch for hit in play_drums("rock", FULL)}


def test_unknown_ways_of_playing_are_errors():
    with pytest.raises(ValueError, match="tremolo"):
        play_chord("tremolo", [48, 52, 55])
    with pytest.raises(ValueError, match="tremolo"):
        play_bass("tremolo", [36, 40, 43], 36)
    with pytest.raises(ValueError, match="polka"):
        play_drums("polka", NORMAL)
