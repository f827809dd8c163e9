"""Composing: from a seed and an index to a song with all its notes and words, before any sound is made."""

import itertools
import random
from collections.abc import Iterator

from training.corpus import drums, genres, lyrics, melody, playing, theory
from training.corpus.band import NO_WISHES, Band, Wishes, draw_band
from training.corpus.form import draw_form, draw_players
from training.corpus.genres import INSTRUMENTS
from training.corpus.song import BASS, CHORDS, DRUMS, FRAME_SECONDS, LEAD, PARTS, VOICE, LyricLine, Note, Section, Song

SAME_PROGRESSION_SHARE = 0.5
JITTER_SECONDS = 0.001
BEATS_PER_BAR = 4


class Composer:
    """Writes the notes and words of one song for a band."""

    def __init__(self, band: Band, num_frames: int, rng: random.Random) -> None:
        self.band, self.rng = band, rng
        self.seconds = num_frames * FRAME_SECONDS
        self.beat_seconds = band.beat_frames * FRAME_SECONDS
        num_bars = num_frames / (BEATS_PER_BAR * band.beat_frames)
        self.form = draw_form(max(1, int(num_bars)), sung_throughout=band.parts == (VOICE,), rng=rng)
        if num_bars > max(1, int(num_bars)):  # the song ends inside a bar
            name, bars = self.form.pop()
            self.form.append((name, bars + 1))
        self.players = draw_players(band.parts, rng)
        self.fill = rng.randrange(len(drums.FILLS))
        first, second = self._draw_progressions()
        self.progressions = {"intro": first, "verse": first, "chorus": second, "bridge": second, "outro": first}
        self.lead_motifs = self._draw_motifs(melody.LEAD_DEGREES)
        self.voice_motifs = self._draw_motifs(melody.VOICE_DEGREES)
        self.new_lines = itertools.cycle(rng.sample(lyrics.all_lines(), len(lyrics.all_lines())))
        self.chorus_lines: list[tuple[int, str]] = []
        self.notes: list[Note] = []
        self.lyric_lines: list[LyricLine] = []

    def _draw_progressions(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        choices = (theory.JAZZ_PROGRESSIONS if self.band.genre_name == "jazz" else theory.PROGRESSIONS)[self.band.mode]
        first = self.rng.choice(choices)
        return first, first if self.rng.random() < SAME_PROGRESSION_SHARE else self.rng.choice(choices)

    def _draw_motifs(self, degrees: range) -> dict[str, melody.Motif]:
        verse, chorus = (melody.draw_motif(degrees, self.band.genre.calm, self.rng) for _ in range(2))
        return {"intro": verse, "verse": verse, "chorus": chorus, "bridge": melody.draw_motif(degrees, True, self.rng), "outro": verse}

    def write(self) -> list[Section]:
        """Fill `notes` and `lyric_lines`; returns the sections."""
        sections = []
        first_bar = 0
        for number, (name, bars) in enumerate(self.form):
            closes = number + 1 < len(self.form)
            self._write_section(name, first_bar, bars, closes)
            start, end = (self._seconds_at(bar, 0) for bar in (first_bar, first_bar + bars))
            sections.append(Section(name, start, min(end, self.seconds)))
            first_bar += bars
        return sections

    def _seconds_at(self, bar: int, offset: float) -> float:
        return (bar * BEATS_PER_BAR + offset) * self.beat_seconds

    def _degree(self, name: str, bar: int) -> int:
        progression = self.progressions[name]
        return progression[bar % len(progression)]

    def _chord_degrees(self, name: str, bars: range) -> list[set[int]]:
        return [{(self._degree(name, bar) + third) % 7 for third in (0, 2, 4)} for bar in bars]

    def _add(self, part: str, bar: int, hits: list[playing.Hit], louder: int = 0) -> None:
        for hit in hits:
            late = 0.0 if part == VOICE else self.rng.uniform(-JITTER_SECONDS, JITTER_SECONDS)
            loud = hit.velocity + louder + self.rng.randint(-3, 3)
            start = max(0.0, self._seconds_at(bar, hit.offset) + late)
            if start < self.seconds:
                duration = min(hit.duration * self.beat_seconds, self.seconds - start)
                self.notes.append(Note(round(start, 5), round(duration, 5), part, hit.pitch, min(max(loud, 1), 127)))

    def _write_section(self, name: str, first_bar: int, bars: int, closes: bool) -> None:
        band, players, louder = self.band, self.players[name], 5 if name == "chorus" else 0
        density = {"intro": drums.LIGHT, "outro": drums.LIGHT, "chorus": drums.FULL}.get(name, drums.NORMAL)
        chord_degrees = self._chord_degrees(name, range(bars))
        lead_root = band.chord_root + (12 if band.lead in genres.HIGH_LEADS else 0)
        lead = melody.play_lead(self.lead_motifs[name], lead_root, band.mode, chord_degrees)
        for bar in range(bars):
            at = first_bar + bar
            if CHORDS in players:
                self._add(CHORDS, at, playing.play_chord(band.chords[1], self._chord(name, bar)), louder)
            if BASS in players and band.genre.bass:
                self._add(BASS, at, playing.play_bass(band.genre.bass[1], self._bass(name, bar), self._bass(name, bar + 1)[0]), louder)
            if LEAD in players:
                self._add(LEAD, at, lead[bar])
            if DRUMS in players and band.genre.drums:
                fill = self.fill if closes and bar == bars - 1 else None
                self._add(DRUMS, at, drums.play_drums(band.genre.drums, density, opens=bar == 0, fill=fill))
        if VOICE in players and name not in ("intro", "outro"):
            self._write_lines(name, first_bar, bars)

    def _chord(self, name: str, bar: int) -> list[int]:
        band = self.band
        pitches = theory.chord_pitches(band.chord_root, band.mode, self._degree(name, bar), band.genre.chord_tones)
        return theory.close_voicing(pitches, band.chord_root + 12)

    def _bass(self, name: str, bar: int) -> list[int]:
        pitches = theory.chord_pitches(self.band.bass_root, self.band.mode, self._degree(name, bar))
        return [pitch - 12 for pitch in pitches] if pitches[0] >= 50 else pitches

    def _write_lines(self, name: str, first_bar: int, bars: int) -> None:
        band = self.band
        assert band.voice is not None
        root = melody.voice_root(band.voice, band.tonic)
        beats = melody.line_beats(band.beat_frames)
        for number, (offset, (syllables, text)) in enumerate(self._lines(name, first_bar, bars * BEATS_PER_BAR, beats)):
            line_bars = range(offset // BEATS_PER_BAR, (offset + beats - 1) // BEATS_PER_BAR + 1)
            motif = self.voice_motifs[name]
            chord_degrees = self._chord_degrees(name, line_bars)
            hits = melody.sing_line(motif, root, band.mode, syllables, beats, chord_degrees, answers=number % 2 == 1)
            start = first_bar * BEATS_PER_BAR + offset
            self._add(VOICE, 0, [hit._replace(offset=start + hit.offset) for hit in hits])
            end = start + hits[-1].offset + hits[-1].duration
            self.lyric_lines.append(LyricLine(text, round(start * self.beat_seconds, 5), round(end * self.beat_seconds, 5)))

    def _lines(self, name: str, first_bar: int, section_beats: int, beats: int) -> Iterator[tuple[int, tuple[int, str]]]:
        """Offset in beats and line, for as many lines as the section and the song have room for."""
        for number in range(section_beats // beats):
            if (first_bar * BEATS_PER_BAR + (number + 1) * beats) * self.beat_seconds > self.seconds + 1e-6:
                return
            if name != "chorus":
                yield number * beats, next(self.new_lines)
                continue
            if number == len(self.chorus_lines):
                self.chorus_lines.append(next(self.new_lines))
            yield number * beats, self.chorus_lines[number]


def compose(seed: int, index: int, wishes: Wishes = NO_WISHES) -> Song:
    """Song `index` of the corpus `seed`: the same two numbers and wishes always give the same song.

    Raises:
        ValueError: A wish that nothing fits, or a length in which the voice has no room for one line.
    """
    rng = random.Random(f"{seed}/{index}")  # noqa: S311
    band = draw_band(wishes, rng)
    num_frames = round(wishes.seconds / FRAME_SECONDS)
    if num_frames < 1:
        raise ValueError(f"seconds is {wishes.seconds}, less than one latent frame")
    composer = Composer(band, num_frames, rng)
    sections = composer.write()
    sounding = {note.part for note in composer.notes}
    parts = tuple(part for part in PARTS if part in sounding)
    if not parts:
        raise ValueError(f"{wishes.seconds} s are too short for a sung line")
    players = [(CHORDS, band.chords[0]), (BASS, band.genre.bass[0] if band.genre.bass else ""), (LEAD, band.lead)]
    names = [(part, name) for part, name in players if part in parts]
    programs = [(part, INSTRUMENTS[name]) for part, name in names] + [(DRUMS, band.genre.kit)] * (DRUMS in parts)
    return Song(
        key=f"{wishes.split}-{seed}-{index:06d}",
        genre=band.genre_name,
        beat_frames=band.beat_frames,
        bpm=genres.bpm_of(band.beat_frames),
        tonic=band.tonic,
        mode=band.mode,
        instruments=tuple(dict.fromkeys(name for _, name in names)),
        mood=rng.choice(band.genre.moods),
        voice=band.voice if VOICE in parts else None,
        parts=parts,
        programs=tuple(programs),
        seconds=num_frames * FRAME_SECONDS,
        sections=tuple(sections),
        notes=tuple(sorted(composer.notes, key=lambda note: (note.start_seconds, note.part, note.pitch))),
        lyric_lines=tuple(composer.lyric_lines),
    )
