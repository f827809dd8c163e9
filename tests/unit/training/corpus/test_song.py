import json
import re
from dataclasses import replace

import pytest

from training.corpus.arrangement import compose
from training.corpus.band import Wishes
from training.corpus.song import song_from_json


@pytest.fixture(scope="module")
def songs():
    return [compose(11, index) for index in range(60)]


def test_tags_have_one_order(songs):
    song = compose(0, 0, Wishes(genre="rock", stem="full", beat_frames=6, tonic=3, mode="minor", instrument="clean guitar"))
    song = replace(song, mood="powerful")
    chords = song.instruments[0]
    assert song.tags == ("rock", "108 bpm", "Eb minor", chords, "bass", "clean guitar", "drums", "instrumental", "powerful")


def test_drums_alone_have_no_key():
    song = compose(0, 1, Wishes(stem="drums"))
    assert song.tags == (song.genre, f"{song.bpm} bpm", "drums", "instrumental", song.mood)


def test_a_voice_alone_is_a_key_and_a_voice():
    song = compose(0, 1, Wishes(stem="a cappella"))
    assert song.tags == (song.genre, f"{song.bpm} bpm", song.key_name, song.voice, song.mood)


def test_lyrics_are_the_sung_lines_under_the_tags_of_their_sections(songs):
    for song in songs:
        blocks = song.lyrics.split("\n")
        sung = [row for row in blocks if row and not row.startswith("[")]
        tags = [row for row in blocks if row.startswith("[")]
        assert sung == [line.text for line in song.lyric_lines]
        assert tags == ([f"[{section.name}]" for section in song.sections] if song.voice else ["[inst]"])
    assert any(song.voice for song in songs)


def test_lyrics_read_as_a_song_sheet():
    song = next(song for song in (compose(0, index, Wishes(stem="a cappella")) for index in range(50)) if song.beat_frames == 6)
    assert re.fullmatch(r"(\[(verse|chorus|bridge)\](\n[a-z ]+)+(\n\n|$))+", song.lyrics)


def test_json_carries_the_whole_song(songs):
    for song in songs:
        assert song_from_json(json.loads(json.dumps(song.to_json()))) == song
