"""Who plays: what is asked of a song, and the genre, tempo, key, instruments and parts drawn for it."""

import random
from dataclasses import dataclass

from training.corpus import genres
from training.corpus.genres import GENRES, INSTRUMENTS, Genre
from training.corpus.song import BASS, CHORDS, DRUMS, FRAME_SECONDS, LEAD, SONG_FRAMES, VOICE

FULL, DROPPED, A_CAPPELLA = "full", "one dropped", "a cappella"
# Part of the songs in which only these play; the others have the genre's whole band.
STEM_SHARES = {DRUMS: 0.12, LEAD: 0.08, CHORDS: 0.06, "bass+drums": 0.06, DROPPED: 0.13, A_CAPPELLA: 0.08, FULL: 0.47}
LEAD_SHARE = 0.85  # of full arrangements that nobody sings in


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


NO_WISHES = Wishes()


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
