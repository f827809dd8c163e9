"""What is heard in each latent frame, as numbers: targets for the trainer and truth for the evaluation."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.corpus import drums
from training.corpus.song import BASS, CHORDS, DRUMS, FRAME_SECONDS, KEY_NAMES, LEAD, PHONES, SECTION_NAMES, SILENCE, VOICE, Note, Song

BEATS_PER_BAR = 4
CHROMA_COLUMNS = {CHORDS: 0, BASS: 12, LEAD: 24, VOICE: 24}  # first of twelve, C to B; lead and voice share theirs
KICKS = {drums.KICK}
SNARES = {drums.RIMSHOT, drums.SNARE, drums.CLAP}
HATS = {drums.CLOSED_HAT, drums.PEDAL_HAT, drums.OPEN_HAT}
DRUM_COLUMN, BEAT_COLUMN, PHASE_COLUMN, SECTION_COLUMN = 36, 40, 43, 47
CLOCK_COLUMNS = slice(BEAT_COLUMN, SECTION_COLUMN)
"""What follows from the tempo alone: where beats and bars begin, and how far they are."""
SCORE_COLUMNS = (
    *(f"{part} {pitch_class}" for part in ("chords", "bass", "melody") for pitch_class in KEY_NAMES),
    *("kick", "snare", "hat", "other drum"),
    *("beat", "half beat", "downbeat"),
    *("beat phase sin", "beat phase cos", "bar phase sin", "bar phase cos"),
    *SECTION_NAMES,
)

# An onset late in a frame is heard in the next one; drums are labelled by their attack, held notes by where they sound.
DRUM_LATENESS, NOTE_TOLERANCE = 0.3, 0.05


def score_features(song: Song, num_frames: int) -> NDArray[np.float32]:
    """The score, frame by frame.

    Args:
        song: The song; its start is the start of the first frame.
        num_frames: Length, in latent frames; may pass the song's end.
    Returns:
        [num_frames, len(SCORE_COLUMNS)], each in 0..1; phases are 0.5 + 0.5 sin and cos.
    """
    features = np.zeros((num_frames, len(SCORE_COLUMNS)), np.float32)
    for note in song.notes:
        if note.part == DRUMS:
            onset = max(0, round(note.start_seconds / FRAME_SECONDS - DRUM_LATENESS))
            features[onset : onset + 1, DRUM_COLUMN + _drum(note.pitch)] = 1
        else:
            features[_sounding(note), CHROMA_COLUMNS[note.part] + note.pitch % 12] = 1
    _mark_time(features, song.beat_frames)
    for section in song.sections:
        first, last = (round(seconds / FRAME_SECONDS) for seconds in (section.start_seconds, section.end_seconds))
        features[first:last, SECTION_COLUMN + SECTION_NAMES.index(section.name)] = 1
    return features


def phone_features(song: Song, num_frames: int) -> NDArray[np.float32]:
    """The phone that fills most of each frame; silence where phones fill less than half of it.

    Args:
        song: A song as the singer returned it.
        num_frames: Length, in latent frames.
    Returns:
        One-hot [num_frames, len(PHONES)].
    """
    shares = np.zeros((num_frames, len(PHONES)), np.float64)
    for phone in song.phones:
        start, end = phone.start_seconds / FRAME_SECONDS, phone.end_seconds / FRAME_SECONDS
        for frame in range(int(start), min(num_frames, int(np.ceil(end)))):
            shares[frame, PHONES.index(phone.symbol)] += max(0.0, min(end, frame + 1) - max(start, frame))
    shares[:, PHONES.index(SILENCE)] = np.where(shares.sum(1) < 0.5, 1.0, 0.0)
    one_hot = np.zeros((num_frames, len(PHONES)), np.float32)
    one_hot[np.arange(num_frames), shares.argmax(1)] = 1
    return one_hot


def _drum(pitch: int) -> int:
    """Column of a drum, counted from `DRUM_COLUMN`."""
    groups: Sequence[set[int]] = (KICKS, SNARES, HATS)
    return next((column for column, group in enumerate(groups) if pitch in group), len(groups))


def _sounding(note: Note) -> slice:
    """Frames in which a note sounds, one at least."""
    first = int(note.start_seconds / FRAME_SECONDS + NOTE_TOLERANCE)
    last = int((note.start_seconds + note.duration_seconds) / FRAME_SECONDS + NOTE_TOLERANCE)
    return slice(first, max(first + 1, last))


def _mark_time(features: NDArray[np.float32], beat_frames: float) -> None:
    """Flags of the frames in which beats, half beats and bars begin, and how far beat and bar are at each frame's start."""
    num_frames = len(features)
    bar_frames = BEATS_PER_BAR * beat_frames
    for column, period in enumerate((beat_frames, beat_frames / 2, bar_frames)):
        starts = np.floor(np.arange(0, num_frames, period)).astype(np.int64)
        features[starts, BEAT_COLUMN + column] = 1
    frames = np.arange(num_frames)
    for column, period in ((PHASE_COLUMN, beat_frames), (PHASE_COLUMN + 2, bar_frames)):
        angle = 2 * np.pi * frames / period
        features[:, column], features[:, column + 1] = 0.5 + 0.5 * np.sin(angle), 0.5 + 0.5 * np.cos(angle)
