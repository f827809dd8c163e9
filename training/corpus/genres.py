"""What sets the genres apart: tempi, instruments, ways of playing, moods. Tempi lie on the grid of the latent frames."""

from dataclasses import dataclass

from training.corpus.song import FRAME_SECONDS

BEAT_FRAMES = (4, 4.5, 5, 5.5, 6, 6.5, 7, 7.5, 8, 9, 10)  # 161, 144, 129, 117, 108, 99, 92, 86, 81, 72, 65 bpm

# General MIDI programs by the names the tags use.
INSTRUMENTS = {
    "piano": 0,
    "electric piano": 4,
    "harpsichord": 6,
    "clavinet": 7,
    "glockenspiel": 9,
    "music box": 10,
    "vibraphone": 11,
    "marimba": 12,
    "organ": 16,
    "accordion": 21,
    "harmonica": 22,
    "nylon guitar": 24,
    "acoustic guitar": 25,
    "jazz guitar": 26,
    "clean guitar": 27,
    "overdriven guitar": 29,
    "distorted guitar": 30,
    "upright bass": 32,
    "bass": 33,
    "slap bass": 36,
    "synth bass": 38,
    "violin": 40,
    "cello": 42,
    "pizzicato strings": 45,
    "harp": 46,
    "strings": 48,
    "choir": 52,
    "trumpet": 56,
    "trombone": 57,
    "brass": 61,
    "saxophone": 65,
    "oboe": 68,
    "clarinet": 71,
    "flute": 73,
    "pan flute": 75,
    "square lead": 80,
    "saw lead": 81,
    "synth pad": 88,
    "warm pad": 89,
    "sitar": 104,
    "banjo": 105,
    "kalimba": 108,
    "fiddle": 110,
}
# Leads that sound an octave above the chords.
HIGH_LEADS = frozenset(
    ["flute", "pan flute", "oboe", "violin", "harp", "glockenspiel", "music box", "vibraphone", "marimba", "kalimba"],
) | {"square lead", "saw lead"}
STANDARD_KIT, POWER_KIT, TR808_KIT, JAZZ_KIT = 0, 16, 25, 32


@dataclass(frozen=True)
class Genre:
    """How a genre sounds.

    Attributes:
        beat_frames: Lengths of a beat it may have, in latent frames.
        held_out: Those of them kept out of training.
        modes: Drawn evenly; a repeat makes a mode likelier.
        chords: (instrument, way of playing it).
        bass: The same for the bass, None where there is none.
        drums: Its drum pattern, None where there are no drums.
        kit: Bank 128 preset of the drum kit.
        voice_share: Part of its full arrangements that are sung; 0: a genre nobody sings in.
        chord_tones: Notes in a chord.
        calm: Long notes in the melody.
    """

    beat_frames: tuple[float, ...]
    held_out: tuple[float, ...]
    modes: tuple[str, ...]
    chords: tuple[tuple[str, str], ...]
    bass: tuple[str, str] | None
    drums: str | None
    leads: tuple[str, ...]
    moods: tuple[str, ...]
    voice_share: float = 0.2
    kit: int = STANDARD_KIT
    chord_tones: int = 3
    calm: bool = False


GENRES = {
    "pop": Genre(
        beat_frames=BEAT_FRAMES[:-1],
        held_out=(6,),
        modes=("major", "major", "minor"),
        chords=(("piano", "block"), ("acoustic guitar", "strum"), ("electric piano", "block")),
        bass=("bass", "eighths"),
        drums="pop",
        leads=("flute", "square lead", "violin"),
        moods=("catchy", "upbeat"),
    ),
    "rock": Genre(
        beat_frames=BEAT_FRAMES[:-1],
        held_out=(5,),
        modes=("minor", "major"),
        chords=(("distorted guitar", "power"), ("overdriven guitar", "power")),
        bass=("bass", "eighths"),
        drums="rock",
        leads=("overdriven guitar", "clean guitar"),
        moods=("energetic", "powerful"),
        kit=POWER_KIT,
    ),
    "classical": Genre(
        beat_frames=BEAT_FRAMES[1:],
        held_out=(9,),
        modes=("major", "minor"),
        chords=(("piano", "alberti"), ("strings", "pad"), ("harp", "arpeggio")),
        bass=("cello", "long"),
        drums=None,
        leads=("violin", "flute", "clarinet"),
        moods=("elegant", "orchestral"),
        voice_share=0.0,
        calm=True,
    ),
    "electronic": Genre(
        beat_frames=BEAT_FRAMES[:-1],
        held_out=(4.5,),
        modes=("minor", "minor", "major"),
        chords=(("saw lead", "stab"), ("synth pad", "pad"), ("square lead", "arpeggio")),
        bass=("synth bass", "offbeats"),
        drums="house",
        leads=("saw lead", "square lead"),
        moods=("dance", "energetic"),
        kit=TR808_KIT,
    ),
    "hip hop": Genre(
        beat_frames=BEAT_FRAMES[1:],
        held_out=(7.5,),
        modes=("minor",),
        chords=(("electric piano", "block"), ("piano", "block"), ("vibraphone", "block")),
        bass=("synth bass", "sparse"),
        drums="boom bap",
        leads=("vibraphone", "flute"),
        moods=("chill", "groovy"),
        kit=TR808_KIT,
        chord_tones=4,
    ),
    "ambient": Genre(
        beat_frames=BEAT_FRAMES[1:],
        held_out=(8,),
        modes=("major", "minor"),
        chords=(("warm pad", "pad"), ("synth pad", "pad"), ("choir", "pad")),
        bass=None,
        drums=None,
        leads=("glockenspiel", "harp", "vibraphone"),
        moods=("calm", "dreamy"),
        voice_share=0.0,
        calm=True,
    ),
    "reggae": Genre(
        beat_frames=BEAT_FRAMES[1:],
        held_out=(7,),
        modes=("major", "minor"),
        chords=(("organ", "skank"), ("clean guitar", "skank")),
        bass=("bass", "reggae"),
        drums="one drop",
        leads=("trombone", "organ"),
        moods=("relaxed", "groovy"),
    ),
    "folk": Genre(
        beat_frames=BEAT_FRAMES[:-1],
        held_out=(6.5,),
        modes=("major", "major", "minor"),
        chords=(("acoustic guitar", "strum"), ("banjo", "roll"), ("nylon guitar", "arpeggio")),
        bass=("upright bass", "root and fifth"),
        drums=None,
        leads=("fiddle", "harmonica", "accordion"),
        moods=("warm", "acoustic"),
    ),
    "jazz": Genre(
        beat_frames=BEAT_FRAMES[:-1],
        held_out=(8,),
        modes=("major", "minor"),
        chords=(("piano", "comp"), ("jazz guitar", "comp")),
        bass=("upright bass", "walking"),
        drums="ride",
        leads=("saxophone", "trumpet", "clarinet"),
        moods=("smooth", "sophisticated"),
        kit=JAZZ_KIT,
        chord_tones=4,
    ),
    "funk": Genre(
        beat_frames=BEAT_FRAMES[:-1],
        held_out=(5.5,),
        modes=("minor", "minor", "major"),
        chords=(("clavinet", "sixteenths"), ("clean guitar", "sixteenths")),
        bass=("slap bass", "funk"),
        drums="funk",
        leads=("brass", "saxophone"),
        moods=("funky", "danceable"),
        chord_tones=4,
    ),
}


def bpm_of(beat_frames: float) -> int:
    """The tempo tag of a beat of this many latent frames."""
    return round(60 / (beat_frames * FRAME_SECONDS))


def held_out(genre: str, beat_frames: float) -> bool:
    """Whether a pair of genre and tempo is kept out of training, to be asked for in evaluation."""
    return beat_frames in GENRES[genre].held_out


def tempi(genre: str, split: str) -> tuple[float, ...]:
    """Lengths of a beat of a genre in a split, "train" or "held_out", in latent frames."""
    return tuple(frames for frames in GENRES[genre].beat_frames if held_out(genre, frames) == (split == "held_out"))
