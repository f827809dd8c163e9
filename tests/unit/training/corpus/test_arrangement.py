import itertools
from collections import Counter

import pytest

from training.corpus.arrangement import JITTER_SECONDS, compose
from training.corpus.band import STEM_SHARES, Wishes
from training.corpus.genres import GENRES, held_out
from training.corpus.lyrics import all_lines
from training.corpus.song import FRAME_SECONDS, PARTS, SONG_FRAMES


@pytest.fixture(scope="module")
def songs():
    return [compose(5, index) for index in range(300)]


def test_a_song_depends_on_seed_and_index_alone(songs):
    assert compose(5, 7) == songs[7]
    assert compose(6, 7) != songs[7]
    assert len({song.notes for song in songs}) == len(songs)


def test_songs_last_324_latent_frames(songs):
    assert {song.seconds for song in songs} == {SONG_FRAMES * FRAME_SECONDS}
    for song in songs:
        assert all(note.start_seconds >= 0 and note.start_seconds + note.duration_seconds <= song.seconds + 1e-4 for note in song.notes)


def test_sections_follow_each_other_on_bar_lines(songs):
    for song in songs:
        starts = [section.start_seconds for section in song.sections]
        assert starts[0] == 0
        assert [section.end_seconds for section in song.sections] == [*starts[1:], song.seconds]
        bars = [start / (4 * song.beat_seconds) for start in starts]
        assert all(abs(bar - round(bar)) < 1e-9 for bar in bars)
        assert all(round(after) - round(before) in (2, 3, 4, 5) for before, after in itertools.pairwise(bars))


def test_two_beats_are_whole_latent_frames(songs):
    assert all(2 * song.beat_frames % 1 == 0 for song in songs)


def test_notes_lie_on_sixteenths(songs):
    for song in songs:
        for note in song.notes:
            sixteenths = note.start_seconds / song.beat_seconds * 4
            late = abs(sixteenths - round(sixteenths)) * song.beat_seconds / 4
            strummed = "acoustic guitar" in song.instruments and note.part == "chords"
            assert late <= (0.06 if strummed else JITTER_SECONDS + 2e-5)


def test_only_leading_notes_and_power_chords_leave_the_key(songs):
    scales = {"major": {0, 2, 4, 5, 7, 9, 11}, "minor": {0, 2, 3, 5, 7, 8, 10}}
    for song in songs:
        for note in song.notes:
            in_key = (note.pitch - song.tonic) % 12 in scales[song.mode]
            beat = round(note.start_seconds / FRAME_SECONDS / song.beat_frames, 2) % 4
            leads = song.genre == "jazz" and note.part == "bass" and 2.9 < beat < 3.1  # to the next bar's chord
            power = song.genre == "rock" and note.part == "chords"  # whose fifths are perfect
            assert in_key or leads or power or note.part == "drums"


def test_train_and_held_out_draw_disjoint_pairs(songs):
    asked = [compose(5, index, Wishes(split="held_out")) for index in range(100)]
    assert not any(held_out(song.genre, song.beat_frames) for song in songs)
    assert all(held_out(song.genre, song.beat_frames) for song in asked)
    assert {song.genre for song in asked} == set(GENRES)
    assert {song.key for song in asked}.isdisjoint(song.key for song in songs)


def test_every_stem_and_key_occurs(songs):
    kinds = Counter(song.parts for song in songs)
    alone = sum(count for parts, count in kinds.items() if len(parts) == 1)
    assert 0.25 <= alone / len(songs) <= 0.45
    assert {("voice",), ("drums",), ("lead",), ("chords",), ("bass", "drums"), ("chords", "bass", "lead", "drums")} <= set(kinds)
    assert {song.tonic for song in songs} == set(range(12))
    assert 0.1 <= sum(song.voice is not None for song in songs) / len(songs) <= 0.25


def test_parts_and_instruments_are_those_that_sound(songs):
    for song in songs:
        assert song.parts == tuple(part for part in PARTS if any(note.part == part for note in song.notes))
        assert [part for part, _ in song.programs] == [part for part in song.parts if part != "voice"]
        assert bool(song.instruments) == bool({"chords", "bass", "lead"} & set(song.parts))


@pytest.mark.parametrize("stem", STEM_SHARES)
def test_a_stem_can_be_wished_for(stem):
    songs = [compose(1, index, Wishes(stem=stem)) for index in range(12)]
    if stem == "a cappella":
        assert {song.parts for song in songs} == {("voice",)}
    elif stem not in ("full", "one dropped"):
        assert {song.parts for song in songs} == {tuple(stem.split("+"))}
    else:
        assert all(len(song.parts) >= 2 or song.genre == "ambient" for song in songs)


@pytest.mark.parametrize("instrument", ["sitar", "kalimba", "piano"])
def test_a_wished_instrument_plays(instrument):
    songs = [compose(2, index, Wishes(instrument=instrument)) for index in range(30)]
    assert all(instrument in song.instruments for song in songs)


def test_wishes_are_kept():
    wishes = Wishes(genre="jazz", beat_frames=4.5, tonic=7, mode="minor", stem="full", seconds=10)
    song = compose(3, 0, wishes)
    assert (song.genre, song.beat_frames, song.tonic, song.mode) == ("jazz", 4.5, 7, "minor")
    assert song.seconds == 108 * FRAME_SECONDS


def test_a_tempo_alone_draws_a_genre_that_has_it():
    assert {compose(3, index, Wishes(beat_frames=4)).genre for index in range(60)} == {"pop", "rock", "electronic", "folk", "jazz", "funk"}


@pytest.mark.parametrize(
    "wishes",
    [
        Wishes(split="test"),
        Wishes(genre="polka"),
        Wishes(stem="tuba"),
        Wishes(instrument="tuba"),
        Wishes(genre="ambient", stem="drums"),
        Wishes(genre="ambient", beat_frames=9, stem="a cappella"),
        Wishes(beat_frames=3),
        Wishes(seconds=0.01),
        Wishes(stem="a cappella", seconds=1),
    ],
)
def test_a_wish_nothing_fits_is_an_error(wishes):
    with pytest.raises(ValueError, match=r"split|no genre|no stem|no instrument|one latent frame|too short"):
        compose(0, 0, wishes)


def test_sung_lines_are_one_note_a_syllable_and_the_chorus_returns(songs):
    syllables = {text: count for count, text in all_lines()}
    for song in songs:
        voice = [note for note in song.notes if note.part == "voice"]
        assert len(voice) == sum(syllables[line.text] for line in song.lyric_lines)
        for line in song.lyric_lines:
            assert sum(line.start_seconds <= note.start_seconds < line.end_seconds - 1e-4 for note in voice) == syllables[line.text]
        assert all(42 <= note.pitch <= 78 for note in voice)
        choruses = [block.split("\n")[1:] for block in song.lyrics.split("\n\n") if block.startswith("[chorus]\n")]
        assert all(lines[0] == choruses[0][0] for lines in choruses)


@pytest.mark.parametrize("beat_frames", [7.5, 8, 10])
def test_a_song_sung_throughout_has_words_to_its_end(beat_frames):
    for index in range(30):
        song = compose(8, index, Wishes(beat_frames=beat_frames, stem="a cappella", seconds=60))
        assert song.lyric_lines[-1].end_seconds > song.seconds - 2 * 4 * beat_frames * FRAME_SECONDS - 4
