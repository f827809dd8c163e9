import random

import pytest

from training.corpus.melody import LEAD_DEGREES, VOICE_DEGREES, draw_motif, line_beats, play_lead, sing_line, voice_root

CHORDS = [{0, 2, 4}, {4, 6, 1}, {5, 0, 2}, {3, 5, 0}]


def test_strong_beats_land_on_chord_notes():
    major = {0: 0, 2: 1, 4: 2, 5: 3, 7: 4, 9: 5, 11: 6}
    for seed in range(40):
        bars = play_lead(draw_motif(LEAD_DEGREES, False, random.Random(seed)), 48, "major", CHORDS)
        for chord, hits in zip(CHORDS, bars, strict=True):
            assert all(major[(hit.pitch - 48) % 12] in chord for hit in hits if hit.offset in (0, 2))


def test_the_motif_returns_over_the_same_chords():
    motif = draw_motif(LEAD_DEGREES, False, random.Random(3))
    bars = play_lead(motif, 48, "minor", [CHORDS[0]] * 8)
    assert bars[0] == bars[2] == bars[4]
    assert bars[3] == bars[7]
    assert [hit.offset for hit in bars[3]] == [0, 1, 2]


@pytest.mark.parametrize("beats", [4, 8])
@pytest.mark.parametrize("syllables", [6, 7, 8, 9])
def test_a_line_gives_each_syllable_a_note_in_turn(syllables, beats):
    motif = draw_motif(VOICE_DEGREES, False, random.Random(1))
    hits = sing_line(motif, 58, "major", syllables, beats, CHORDS[: beats // 4], answers=False)
    assert len(hits) == syllables
    ends = [hit.offset + hit.duration for hit in hits]
    assert ends[:-1] == pytest.approx([hit.offset for hit in hits[1:]])
    assert ends[-1] < beats


@pytest.mark.parametrize("tonic", range(12))
def test_voices_keep_to_their_range(tonic):
    assert voice_root("female vocals", tonic) == voice_root("male vocals", tonic) + 12
    assert 46 <= voice_root("male vocals", tonic) <= 57
    assert voice_root("male vocals", tonic) % 12 == tonic


def test_a_line_lasts_a_few_seconds_at_every_tempo():
    assert {beat: line_beats(beat) * beat for beat in (4, 7.5, 8, 10)} == {4: 32, 7.5: 60, 8: 32, 10: 40}
