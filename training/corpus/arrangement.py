"""Composing: from a seed and an index to a song with all its notes and words, before any sound is made."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from training.corpus import drums, genres, lyrics, melody, playing, theory
from training.corpus.form import draw_form, draw_players
from training.corpus.genres import GENRES, INSTRUMENTS, Genre
from training.corpus.song import (
    BASS,
    CHORDS,
    DRUMS,
    FRAME_SECONDS,
    LEAD,
    PARTS,
    SONG_FRAMES,
    VOICE,
    LyricLine,
    Note,
    Section,
    Song,
)

FULL, DROPPED, A_CAPPELLA = "full", "one dropped", "a cappella"
# Part of the songs in which only these play; the others have the genre's whole band.
STEM_SHARES = {DRUMS: 0.12, LEAD: 0.08, CHORDS: 0.06, "bass+drums": 0.06, DROPPED: 0.13, A_CAPPELLA: 0.08, FULL: 0.47}
LEAD_SHARE = 0.85  # of full arrangements that nobody sings in
SAME_PROGRESSION_SHARE = 0.5
JITTER_SECONDS = 0.001
BEATS_PER_BAR = 4


@dataclass(frozen=True)
class Wishes:
    """What is asked of a song; the rest is drawn.

    Attributes:
        split: "train" draws pairs of genre and tempo that are not held out, "held_out" only those that are.
        genre: One of `genres.GENRES`.
        beat_frames: Length of a beat in latent frames; any tempo goes when the genre is given too.
        tonic: Pitch class of the key.
        mode: "major" or "minor".
        stem: One of `STEM_SHARES`.
        instrument: A name of `genres.INSTRUMENTS` that plays: the chords where the genre has it so, else the lead.
        seconds: Length of the song, rounded to whole latent frames.
    """

    split: str = "train"
    genre: str | None = None
    beat_frames: float | None = None
    tonic: int | None = None
    mode: str | None = None
    stem: str | None = None
    instrument: str | None = None
    seconds: float = SONG_FRAMES * FRAME_SECONDS


@dataclass(frozen=True)
class Band:
    """Who plays what in a song."""

    genre_name: str
    beat_frames: float
    tonic: int
    mode: str
    chords: tuple[str, str]
    lead: str
    voice: str | None
    parts: tuple[str, ...]

    @property
    def genre(self) -> Genre:
        """How the genre sounds."""
        return GENRES[self.genre_name]

    @property
    def chord_root(self) -> int:
        """Pitch of the tonic in the tenor range, 44 to 55."""
        return self.tonic + (48 if self.tonic < 8 else 36)

    @property
    def bass_root(self) -> int:
        """Pitch of the tonic in the bass range, 29 to 40."""
        return self.tonic + (36 if self.tonic < 5 else 24)


def possible_stems(genre: Genre) -> set[str]:
    """The stems a genre can give: drums need drums, a cappella a genre that is sung."""
    missing: set[str] = set() if genre.drums and genre.bass else {"bass+drums"}
    missing |= set() if genre.drums else {DRUMS}
    missing |= set() if genre.voice_share else {A_CAPPELLA}
    return set(STEM_SHARES) - missing


def _draw_genre(wishes: Wishes, rng: random.Random) -> tuple[str, float]:
    if wishes.split not in ("train", "held_out"):
        raise ValueError(f"split is {wishes.split!r}, not train or held_out")
    if wishes.genre is not None and wishes.genre not in GENRES:
        raise ValueError(f"no genre is called {wishes.genre!r}; there are {', '.join(GENRES)}")
    if wishes.stem is not None and wishes.stem not in STEM_SHARES:
        raise ValueError(f"no stem is called {wishes.stem!r}; there are {', '.join(STEM_SHARES)}")
    if wishes.genre is not None and wishes.beat_frames is not None:
        return wishes.genre, wishes.beat_frames
    pairs = {
        name: [beat for beat in genres.tempi(name, wishes.split) if wishes.beat_frames in (None, beat)]
        for name, genre in GENRES.items()
        if wishes.genre in (None, name) and (wishes.stem is None or wishes.stem in possible_stems(genre))
    }
    names = [name for name, beats in pairs.items() if beats]
    if not names:
        raise ValueError(f"no genre of the {wishes.split} split fits {wishes}")
    name = rng.choice(names)
    return name, rng.choice(pairs[name])


def _draw_stem(genre: Genre, wishes: Wishes, rng: random.Random) -> str:
    possible = possible_stems(genre)
    if wishes.stem is not None:
        if wishes.stem not in possible:
            raise ValueError(f"{wishes.genre} has no stem {wishes.stem!r}")
        return wishes.stem
    if wishes.instrument is not None:
        possible &= {FULL, CHORDS if wishes.instrument in dict(genre.chords) else LEAD}
    names = [name for name in STEM_SHARES if name in possible]
    return rng.choices(names, [STEM_SHARES[name] for name in names])[0]


def _draw_parts(genre: Genre, stem: str, wishes: Wishes, rng: random.Random) -> tuple[str, ...]:
    wants_lead = wishes.instrument is not None and wishes.instrument not in dict(genre.chords)
    sung = not wants_lead and rng.random() < genre.voice_share
    has_lead = wants_lead or (not sung and rng.random() < LEAD_SHARE)
    band = [CHORDS] + [BASS] * bool(genre.bass) + [LEAD] * has_lead + [DRUMS] * bool(genre.drums) + [VOICE] * sung
    dropped = rng.choice(band)
    if stem == FULL:
        return tuple(band)
    if stem == DROPPED:
        return tuple(part for part in band if part != dropped or len(band) <= 2)
    if stem == A_CAPPELLA:
        return (VOICE,)
    return tuple(stem.split("+"))


def draw_band(wishes: Wishes, rng: random.Random) -> Band:
    """Genre, tempo, key and players.

    Raises:
        ValueError: A wish that nothing fits.
    """
    name, beat_frames = _draw_genre(wishes, rng)
    genre = GENRES[name]
    if wishes.instrument is not None and wishes.instrument not in INSTRUMENTS:
        raise ValueError(f"no instrument is called {wishes.instrument!r}; there are {', '.join(INSTRUMENTS)}")
    tonic, mode = rng.randrange(12), rng.choice(genre.modes)
    chords, lead = rng.choice(genre.chords), rng.choice(genre.leads)
    if wishes.instrument is not None:
        styles = dict(genre.chords)
        if wishes.instrument in styles:
            chords = (wishes.instrument, styles[wishes.instrument])
        else:
            lead = wishes.instrument
    parts = _draw_parts(genre, _draw_stem(genre, wishes, rng), wishes, rng)
    voice = rng.choice(("female vocals", "male vocals"))
    return Band(
        genre_name=name,
        beat_frames=beat_frames,
        tonic=tonic if wishes.tonic is None else wishes.tonic,
        mode=mode if wishes.mode is None else wishes.mode,
        chords=chords,
        lead=lead,
        voice=voice if VOICE in parts else None,
        parts=parts,
    )


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
        self.new_lines = iter(rng.sample(lyrics.all_lines(), 4 * len(self.form)))
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


def compose(seed: int, index: int, wishes: Wishes = Wishes()) -> Song:
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
