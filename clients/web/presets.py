"""Words to start from: genres, structure tags, and songs of our own."""

from dataclasses import dataclass

CUSTOM = "Custom"
GENRES = {
    "Modern Pop": "pop, synth, drums, guitar, 120 bpm, upbeat, catchy, vibrant, female vocals, polished vocals",
    "Rock": "rock, electric guitar, drums, bass, 130 bpm, energetic, rebellious, gritty, male vocals, raw vocals",
    "Hip Hop": "hip hop, 808 bass, hi-hats, synth, 90 bpm, bold, urban, intense, male vocals, rhythmic vocals",
    "Country": "country, acoustic guitar, steel guitar, fiddle, 100 bpm, heartfelt, rustic, warm, male vocals, twangy vocals",
    "EDM": "edm, synth, bass, kick drum, 128 bpm, euphoric, pulsating, energetic, instrumental",
    "Reggae": "reggae, guitar, bass, drums, 80 bpm, chill, soulful, positive, male vocals, smooth vocals",
    "Classical": "classical, orchestral, strings, piano, 60 bpm, elegant, emotive, timeless, instrumental",
    "Jazz": "jazz, saxophone, piano, double bass, 110 bpm, smooth, improvisational, soulful, male vocals, crooning vocals",
    "Metal": "metal, electric guitar, double kick drum, bass, 160 bpm, aggressive, intense, heavy, male vocals, screamed vocals",
    "R&B": "r&b, synth, bass, drums, 85 bpm, sultry, groovy, romantic, female vocals, silky vocals",
}
"""Tags of a genre, by the name of its preset."""

TAG_IDEAS = {
    "Mood": ("energetic", "calm", "melancholic", "uplifting", "dark", "romantic", "dreamy"),
    "Instruments": ("piano", "acoustic guitar", "electric guitar", "synth", "strings", "saxophone", "drums", "bass"),
    "Voice": ("female vocals", "male vocals", "choir", "instrumental"),
    "Tempo": ("70 bpm", "90 bpm", "105 bpm", "120 bpm", "140 bpm"),
}
"""Tags that a click adds."""


@dataclass(frozen=True)
class Example:
    """A song to begin with."""

    name: str
    tags: str
    lyrics: str
    duration_seconds: float


EXAMPLES = (
    Example(
        "Funk night",
        "funk, pop, soul, guitar, bass, drums, keyboard, 105 bpm, energetic, groovy, warm",
        "[verse]\nStreetlights humming on the avenue\nShoes are tapping out a song for two\nBassline rolling like a summer train\n"
        "Shake the silence, call it by its name\n\n[chorus]\nTurn it up and let the night begin\nEvery window let the rhythm in\n"
        "Hand in hand until the morning glow\nFeel it in the floor and let it go",
        30,
    ),
    Example(
        "Piano ballad",
        "ballad, piano, strings, 70 bpm, calm, melancholic, female vocals",
        "[verse]\nLetters folded in a drawer of rain\nEvery word I kept still knows your name\n\n[chorus]\n"
        "Stay a little, let the evening fall\nLeave your shadow leaning on the wall",
        40,
    ),
    Example("Night drive", "electronic, saw lead, synth bass, drums, 129 bpm, D minor, instrumental, energetic", "[inst]", 30),
    Example("Slow reggae", "reggae, organ, bass, trumpet, drums, 92 bpm, A minor, instrumental, relaxed", "[inst]", 30),
    Example("Chamber piece", "classical, piano, cello, flute, 81 bpm, C major, instrumental, elegant", "[inst]", 40),
)
"""The first is what the page opens with."""
