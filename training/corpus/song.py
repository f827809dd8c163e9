"""A song as the band plays it: notes, sung lines and every label, before and after it becomes sound."""

import dataclasses
from dataclasses import dataclass
from typing import Any

SAMPLE_RATE = 44100
FRAME_SAMPLES = 4096  # one latent frame: 512 samples a mel frame x 8 mel frames
FRAME_SECONDS = FRAME_SAMPLES / SAMPLE_RATE  # 0.09288 s
SONG_FRAMES = 324  # 30.09 s

CHORDS, BASS, LEAD, DRUMS, VOICE = PARTS = ("chords", "bass", "lead", "drums", "voice")
SECTION_NAMES = ("intro", "verse", "chorus", "bridge", "outro")
KEY_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")

# flite's American English phones.
SILENCE = "pau"
VOWELS = ("aa", "ae", "ah", "ao", "aw", "ax", "ay", "eh", "er", "ey", "ih", "iy", "ow", "oy", "uh", "uw")
_PLOSIVES = ("b", "ch", "d", "g", "jh", "k", "p", "t")
_OTHER_CONSONANTS = ("dh", "f", "hh", "l", "m", "n", "ng", "r", "s", "sh", "th", "v", "w", "y", "z", "zh")
PHONES = (SILENCE, *VOWELS, *_PLOSIVES, *_OTHER_CONSONANTS)


@dataclass(frozen=True)
class Section:
    """A stretch of the form; sections follow each other without gaps and end with the song."""

    name: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Note:
    """One note or drum hit: part of `PARTS`, MIDI pitch and velocity."""

    start_seconds: float
    duration_seconds: float
    part: str
    pitch: int
    velocity: int


@dataclass(frozen=True)
class LyricLine:
    """A sung line, from its first syllable's vowel to the end of its last note."""

    text: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Phone:
    """A sung phone in flite's alphabet; gaps between phones are silence."""

    symbol: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Song:
    """One song of the corpus.

    Attributes:
        key: Name of the song and of its files.
        beat_frames: Length of a beat in latent frames, a multiple of one half.
        bpm: The tempo as its tag says it, rounded.
        tonic: Pitch class of the key, 0 is C.
        mode: "major" or "minor".
        instruments: Names of what plays chords, bass and lead, in that order and without repeats; drums and voices are not among them.
        voice: "female vocals", "male vocals" or None.
        parts: The parts that sound, in the order of `PARTS`.
        programs: (part, General MIDI program) of each part but the voice; for drums the number of the kit.
        phones: What the voice sings, known once the singer has sung: empty before.
    """

    key: str
    genre: str
    beat_frames: float
    bpm: int
    tonic: int
    mode: str
    instruments: tuple[str, ...]
    mood: str
    voice: str | None
    parts: tuple[str, ...]
    programs: tuple[tuple[str, int], ...]
    seconds: float
    sections: tuple[Section, ...]
    notes: tuple[Note, ...]
    lyric_lines: tuple[LyricLine, ...] = ()
    phones: tuple[Phone, ...] = ()

    @property
    def beat_seconds(self) -> float:
        """Length of a beat in seconds."""
        return self.beat_frames * FRAME_SECONDS

    @property
    def key_name(self) -> str:
        """Tonic and mode, such as "C minor"."""
        return f"{KEY_NAMES[self.tonic]} {self.mode}"

    @property
    def tags(self) -> tuple[str, ...]:
        """The prompt's tags in their one order: genre, tempo, key (unless drums play alone), instruments, drums, voice, mood."""
        key = () if self.parts == (DRUMS,) else (self.key_name,)
        drums = ("drums",) if DRUMS in self.parts else ()
        return (self.genre, f"{self.bpm} bpm", *key, *self.instruments, *drums, self.voice or "instrumental", self.mood)

    @property
    def lyrics(self) -> str:
        """A block for each section, its tag above its lines; "[inst]" when nobody sings."""
        if not self.lyric_lines:
            return "[inst]"
        return "\n\n".join("\n".join([f"[{section.name}]", *self._lines_of(section)]) for section in self.sections)

    def _lines_of(self, section: Section) -> list[str]:
        return [
            line.text
            for line in self.lyric_lines
            if section.start_seconds <= (line.start_seconds + line.end_seconds) / 2 < section.end_seconds
        ]

    def to_json(self) -> dict[str, Any]:
        """All labels, and the two texts made from them, as plain values for a JSON file."""
        return dataclasses.asdict(self) | {"key_name": self.key_name, "tags": list(self.tags), "lyrics": self.lyrics}


def song_from_json(labels: dict[str, Any]) -> Song:
    """The song that `Song.to_json` wrote."""
    values = {field.name: labels[field.name] for field in dataclasses.fields(Song)}
    records = {"sections": Section, "notes": Note, "lyric_lines": LyricLine, "phones": Phone}
    values |= {name: tuple(record(**value) for value in values[name]) for name, record in records.items()}
    values |= {name: tuple(values[name]) for name in ("instruments", "parts")}
    values["programs"] = tuple((part, program) for part, program in values["programs"])
    return Song(**values)
