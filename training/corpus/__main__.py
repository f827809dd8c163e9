"""`python -m training.corpus --songs 100 --output corpus`: write songs as audio, prompt, lyrics and labels."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import soundfile

from training.corpus.arrangement import compose
from training.corpus.band import STEM_SHARES, Wishes
from training.corpus.genres import BEAT_FRAMES, GENRES, INSTRUMENTS
from training.corpus.render import SOUNDFONT, Renderer, mix
from training.corpus.singer import Singer
from training.corpus.song import SAMPLE_RATE, Song, song_from_json


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; every wish left out is drawn for each song."""
    parser = argparse.ArgumentParser(prog="python -m training.corpus", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for X.flac, X_prompt.txt, X_lyrics.txt and X.json")
    parser.add_argument("--songs", type=int, required=True, help="how many")
    parser.add_argument("--first", type=int, default=0, help="index of the first song; give each of several processes its own range")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("train", "held_out"), default="train", help="pairs of genre and tempo to draw from")
    parser.add_argument("--format", choices=("flac", "wav"), default="flac", help="of the audio, 16 bit")
    parser.add_argument("--soundfont", type=Path, default=SOUNDFONT, help="default: %(default)s")
    parser.add_argument("--voice-cache", type=Path, help="folder for analyses of spoken lines, default: OUTPUT/.voices")
    parser.add_argument("--genre", choices=tuple(GENRES))
    parser.add_argument("--beat-frames", type=float, choices=BEAT_FRAMES, help="length of a beat in latent frames of 92.9 ms")
    parser.add_argument("--tonic", type=int, choices=range(12), help="0 is C")
    parser.add_argument("--mode", choices=("major", "minor"))
    parser.add_argument("--stem", choices=tuple(STEM_SHARES))
    parser.add_argument("--instrument", choices=tuple(INSTRUMENTS), metavar="NAME", help=", ".join(INSTRUMENTS))
    parser.add_argument("--seconds", type=float, default=Wishes.seconds, help="length, default 30.09, rounded to latent frames")
    return parser.parse_args(arguments)


def write_song(song: Song, folder: Path, audio_format: str, renderer: Renderer, singer: Singer) -> bool:
    """Write a song's four files, its labels last; False when they are there already.

    Raises:
        ValueError: The labels that are there are another song's: other wishes gave the same names.
    """
    audio, labels = (folder / f"{song.key}.{ending}" for ending in (audio_format, "json"))
    prompt, lyrics = (folder / f"{song.key}_{text}.txt" for text in ("prompt", "lyrics"))
    if labels.exists():
        there = song_from_json(json.loads(labels.read_text(encoding="utf-8")))
        if dataclasses.replace(there, phones=()) != song:
            raise ValueError(f"{labels} is a song of other wishes: choose another folder or another range of songs")
        if audio.exists() and prompt.exists() and lyrics.exists():
            return False
    song, voice = singer.sing(song)
    part = audio.with_suffix(".part")
    soundfile.write(part, mix(renderer.render(song), voice).T, SAMPLE_RATE, subtype="PCM_16", format=audio_format)
    part.replace(audio)
    prompt.write_text(", ".join(song.tags) + "\n", encoding="utf-8")
    lyrics.write_text(song.lyrics + "\n", encoding="utf-8")
    unfinished = labels.with_suffix(".json.part")
    unfinished.write_text(json.dumps(song.to_json()), encoding="utf-8")
    unfinished.replace(labels)
    return True


def main() -> int:
    """Write what is asked for and not yet there."""
    options = parse_arguments()
    wishes = Wishes(
        split=options.split,
        genre=options.genre,
        beat_frames=options.beat_frames,
        tonic=options.tonic,
        mode=options.mode,
        stem=options.stem,
        instrument=options.instrument,
        seconds=options.seconds,
    )
    options.output.mkdir(parents=True, exist_ok=True)
    written = 0
    try:
        renderer, singer = Renderer(options.soundfont), Singer(options.voice_cache or options.output / ".voices")
        for index in range(options.first, options.first + options.songs):
            song = compose(options.seed, index, wishes)
            written += write_song(song, options.output, options.format, renderer, singer)
    except (RuntimeError, ValueError) as error:
        print(f"training.corpus: {error}", file=sys.stderr)
        return 1
    print(f"{written} songs written to {options.output}, {options.songs - written} were there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
