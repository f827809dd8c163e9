"""An evaluation: prompts, listeners, clips, and the columns of figures at one length.

Three columns: generated clips; real songs of the same prompts after the codec's round trip, the most that can be expected; and real songs
held against other prompts, what comes without listening to the prompt.
"""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import figures, report
from benchmarks.quality.clips import Band, Generator, Prompt, Sounds, load_mel, prompt_of
from benchmarks.quality.figures import Ears, has_a_beat, measure, measure_swapped, of_the_prompt
from benchmarks.quality.listener import WINDOW_SECONDS, Listener
from benchmarks.quality.notes import note_structure
from benchmarks.quality.rhythm import swapped_beat
from benchmarks.quality.singing import PhoneListener, lines_recognised
from training.corpus.arrangement import compose
from training.corpus.band import A_CAPPELLA, Wishes
from training.corpus.genres import GENRES, INSTRUMENTS, bpm_of
from training.corpus.song import Song

CODEC_SONGS = 10
"""Real songs that the codec's error is measured on."""
WRONG_SHIFTS = (1, 2, 3, 4, 5)
"""Clips further on that a sung line is held against for the floor."""
TRAINING_SEED = 1_000_000
"""Added to the seed for the songs that listeners learn from."""


@dataclass(frozen=True)
class Sizes:
    """How much is evaluated.

    Attributes:
        prompts: Held-out prompts at each length, the genres in turn.
        seeds: Clips a prompt.
        sung_prompts: Held-out unaccompanied prompts, a clip each; 0: lyrics are not judged.
        listener_songs: Songs of 10 s that genre and instruments are learnt from.
        sung_listener_songs: The same for phones.
        phone_epochs: Passes over those.
        corpus_seed: Of all songs.
    """

    prompts: int = 100
    seeds: int = 3
    sung_prompts: int = 40
    listener_songs: int = 400
    sung_listener_songs: int = 80
    phone_epochs: int = 30
    corpus_seed: int = 0


def held_out_songs(count: int, seconds: float, seed: int, stem: str | None = None) -> list[Song]:
    """Songs of held-out pairs of genre and tempo, the genres in turn; the stem leaves out genres that do not have it."""
    names = [name for name, genre in GENRES.items() if stem != A_CAPPELLA or genre.voice_share]
    wishes = [Wishes(split="held_out", genre=names[index % len(names)], stem=stem, seconds=seconds) for index in range(count)]
    return [compose(seed, index, wish) for index, wish in enumerate(wishes)]


def listener_songs(count: int, seed: int) -> list[Song]:
    """Songs of the train split of 10 s, every other one with an instrument in turn, so that each of the table is heard."""
    genres, instruments = list(GENRES), list(INSTRUMENTS)
    songs = []
    for index in range(count):
        wishes = Wishes(genre=genres[index // 2 % len(genres)], seconds=WINDOW_SECONDS)
        if index % 2:
            wishes = Wishes(instrument=instruments[index // 2 % len(instruments)], seconds=WINDOW_SECONDS)
        songs.append(compose(TRAINING_SEED + seed, index, wishes))
    return songs


class Evaluation:
    """Evaluates one checkpoint.

    Args:
        sounds: The checkpoint's codec, and where clips are kept.
        band: Plays the real songs.
        generator: Of the checkpoint.
        sizes: How much.
    """

    def __init__(self, sounds: Sounds, band: Band, generator: Generator, sizes: Sizes) -> None:
        self.sounds, self.band, self.generator, self.sizes = sounds, band, generator, sizes
        self._started = time.process_time()

    def _tell(self, what: str) -> None:
        print(f"{time.process_time() - self._started:7.0f} cpu-s  {what}", flush=True)

    def _play(self, songs: Sequence[Song], what: str) -> list[Path]:
        paths = [self.band.play(song) for song in songs]
        self._tell(f"{len(songs)} {what}")
        return paths

    @functools.cached_property
    def listener(self) -> Listener:
        """Of genres and instruments."""
        songs = listener_songs(self.sizes.listener_songs, self.sizes.corpus_seed)
        paths = self._play(songs, "songs for the listener")
        listener = Listener([load_mel(path) for path in paths], songs)
        self._tell("listener trained")
        return listener

    @functools.cached_property
    def phone_listener(self) -> PhoneListener:
        """Of phones."""
        count, seed = self.sizes.sung_listener_songs, TRAINING_SEED + self.sizes.corpus_seed
        songs = [compose(seed, index, Wishes(stem=A_CAPPELLA, seconds=WINDOW_SECONDS)) for index in range(count)]
        paths = self._play(songs, "unaccompanied songs for the listener")
        sung = [self.band.phones(path) for path in paths]
        listener = PhoneListener([load_mel(path) for path in paths], sung, self.sizes.phone_epochs)
        self._tell("phone listener trained")
        return listener

    def evaluate(self, seconds: float) -> tuple[dict[str, report.Values], list[Path], list[Path]]:
        """The columns at a length, and the clips of the first seed and of the real songs."""
        songs = held_out_songs(self.sizes.prompts, seconds, self.sizes.corpus_seed)
        real = self._play(songs, f"real songs of {seconds:g} s")
        mels = [load_mel(path) for path in real]
        ears = Ears(self.listener, note_structure(mels))
        wanted = [(song.key, prompt_of(song)) for song in songs]
        generated = []
        for seed in range(self.sizes.seeds):
            generated.append(self.generator.generate(wanted, seconds, seed))
            self._tell(f"{len(wanted)} generated songs of {seconds:g} s, seed {seed}")
        waves = [self.sounds.waveform(path) for path in real]
        generated_waves = [self.sounds.waveform(path) for path in generated[0]]
        self._tell(f"{2 * len(songs)} sounds of {seconds:g} s")
        other = np.random.default_rng(self.sizes.corpus_seed).permutation(len(songs)).tolist()
        columns: dict[str, report.Values] = {
            report.REAL: [report.merge([measure(mels[at], waves[at], song, ears)]) for at, song in enumerate(songs)],
            report.WRONG: [
                report.merge([of_the_prompt(measure(mels[at], waves[at], song, ears))]) for at, song in zip(other, songs, strict=True)
            ],
            report.GENERATED: [
                self._measure_seeds([paths[at] for paths in generated], generated_waves[at], song, ears) for at, song in enumerate(songs)
            ],
        }
        self._add_real_diversity(columns[report.REAL], mels, songs)
        self._add_swapped(columns, songs, mels, seconds)
        if self.sizes.sung_prompts:
            self._add_lyrics(columns, seconds)
        columns[report.REAL] += [{figures.CODEC_ERROR: [self.band.codec_error(song)]} for song in songs[:CODEC_SONGS]]
        self._tell(f"figures of {seconds:g} s")
        return columns, generated[0], real

    def _measure_seeds(self, paths: Sequence[Path], waveform: NDArray[np.float32], song: Song, ears: Ears) -> dict[str, list[float]]:
        mels = [load_mel(path) for path in paths]
        waves: list[NDArray[np.float32] | None] = [waveform, *[None] * (len(mels) - 1)]
        merged = report.merge([measure(mel, wave, song, ears) for mel, wave in zip(mels, waves, strict=True)])
        return merged | {figures.DIVERSITY: figures.diversity(mels)}

    def _add_real_diversity(self, column: report.Values, mels: Sequence[NDArray[np.float32]], songs: Sequence[Song]) -> None:
        """Each song against the next one of its genre, whose held-out tempo is the same."""
        for at, song in enumerate(songs):
            later = next((index for index in range(at + 1, len(songs)) if songs[index].genre == song.genre), None)
            if later is not None:
                column[at][figures.DIVERSITY] = [figures.difference(mels[at], mels[later])]

    def _add_swapped(
        self, columns: dict[str, report.Values], songs: Sequence[Song], mels: Sequence[NDArray[np.float32]], seconds: float
    ) -> None:
        """Prompts with a beat, once each, with another tempo; a real song is its own answer, held against another tempo as the old one."""
        drummed = [
            (song, swapped_beat(song.genre, song.beat_frames), mel) for song, mel in zip(songs, mels, strict=True) if has_a_beat(song)
        ]
        wanted = [(song.key, prompt_of(song, bpm_of(new))) for song, new, _ in drummed]
        paths = self.generator.generate(wanted, seconds, 0)
        self._tell(f"{len(wanted)} generated songs of {seconds:g} s with the tempo swapped")
        for path, (song, new, mel) in zip(paths, drummed, strict=True):
            columns[report.GENERATED].append(report.merge([measure_swapped(load_mel(path), new, song.beat_frames)]))
            columns[report.REAL].append(report.merge([measure_swapped(mel, song.beat_frames, new)]))
            columns[report.WRONG].append(report.merge([measure_swapped(mel, new, song.beat_frames)]))

    def _add_lyrics(self, columns: dict[str, report.Values], seconds: float) -> None:
        songs = held_out_songs(self.sizes.sung_prompts, seconds, self.sizes.corpus_seed, A_CAPPELLA)
        evidence = [self.phone_listener.evidence(load_mel(path)) for path in self._play(songs, f"unaccompanied songs of {seconds:g} s")]
        wanted: list[tuple[str, Prompt]] = [(f"{song.key}-sung", prompt_of(song)) for song in songs]
        generated = [self.phone_listener.evidence(load_mel(path)) for path in self.generator.generate(wanted, seconds, 0)]
        self._tell(f"{len(wanted)} generated unaccompanied songs of {seconds:g} s")
        for column, clips, shifts in (
            (report.GENERATED, generated, [0]),
            (report.REAL, evidence, [0]),
            (report.WRONG, evidence, WRONG_SHIFTS),
        ):
            for at, song in enumerate(songs):
                heard = [clips[(at + shift) % len(songs)] for shift in shifts]
                lines = [right for clip in heard for right in lines_recognised(clip, song, self.band.singer)]
                columns[column].append({figures.LYRICS: lines})
