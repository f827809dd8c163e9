"""The voice: flite speaks a line, WORLD takes it apart and puts it together on the notes of the melody, a syllable a note."""

import dataclasses
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from training.corpus.song import SAMPLE_RATE, SILENCE, VOICE, VOWELS, Note, Phone, Song

Array = NDArray[np.float64]

VOICES = {"female vocals": "slt", "male vocals": "rms"}
FRAME = 0.005  # seconds from one WORLD frame to the next
SUNG_SHARE = 0.97  # of a note; the rest lets go
CONSONANT_SHARE = 0.7  # at most, of a note
MIN_CONSONANT_FRAMES, MIN_SQUEEZED_FRAMES = 4, 2
GLIDE_SECONDS = 0.06
VIBRATO_DEPTH, VIBRATO_HZ, VIBRATO_DELAY_SECONDS = 0.012, 5.5, 0.2
TAIL_FRAMES = 60
SILENCE_POWER = 1e-12
PHONE_END = re.compile(r"(\S+):([\d.]+)")


class Spoken(NamedTuple):
    """A spoken line: its phones, and its pitch [frames], spectral envelope and aperiodicity [frames, bins] every 5 ms."""

    phones: tuple[Phone, ...]
    pitch: Array
    envelope: Array
    aperiodicity: Array
    sample_rate: int


class Singer:
    """Sings the voice part of songs, keeping the analysis of each spoken line in a folder."""

    def __init__(self, cache: Path) -> None:
        """Check that everything is there.

        Args:
            cache: Folder for the analyses, made if needed; a file for each voice, line and version of flite.
        Raises:
            RuntimeError: flite or pyworld is missing; says what to install.
        """
        flite = shutil.which("flite")
        if flite is None:
            raise RuntimeError("flite is missing: install the Debian package flite")
        try:
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # pyworld 0.3.5 imports pkg_resources
                import pyworld
            import scipy.signal
        except ImportError as error:
            raise RuntimeError(f"{error.name} is missing: install the extra 'corpus'") from error
        self._flite, self._world, self._signal = flite, pyworld, scipy.signal
        version = subprocess.run([flite, "--version"], capture_output=True, check=False).stdout
        self._version = version + pyworld.__version__.encode()
        self._cache = cache
        cache.mkdir(parents=True, exist_ok=True)

    def sing(self, song: Song) -> tuple[Song, NDArray[np.float32] | None]:
        """Sing a song's lines on the notes of its voice part.

        Returns:
            The song with its phones, and the voice [samples] at 44.1 kHz; None when nobody sings.
        """
        if song.voice is None:
            return song, None
        notes = [note for note in song.notes if note.part == VOICE]
        voice = np.zeros(round(song.seconds * SAMPLE_RATE), np.float32)
        phones: list[Phone] = []
        for line in song.lyric_lines:
            spoken = self.speak(line.text, VOICES[song.voice])
            sung = [note for note in notes if line.start_seconds - 1e-4 <= note.start_seconds < line.end_seconds - 1e-4]
            start, waveform, line_phones = self._sing_line(spoken, sung)
            first = round(start * SAMPLE_RATE)
            waveform = waveform[: len(voice) - first]
            voice[first : first + len(waveform)] += waveform
            phones += [phone for phone in line_phones if phone.start_seconds < song.seconds]
        return dataclasses.replace(song, phones=tuple(phones)), voice

    def speak(self, text: str, voice: str) -> Spoken:
        """The analysis of a spoken line, from the cache where it is there."""
        digest = hashlib.sha256(b"\0".join([self._version, voice.encode(), text.encode()])).hexdigest()[:24]
        path = self._cache / f"{voice}-{digest}.npz"
        if not path.exists():
            self._write_analysis(path, text, voice)
        with np.load(path) as stored:
            ends = stored["phone_ends"].tolist()
            phones = tuple(
                Phone(symbol, start, end) for symbol, start, end in zip(stored["phones"].tolist(), [0.0, *ends], ends, strict=False)
            )
            envelope, aperiodicity = (stored[name].astype(np.float64) for name in ("envelope", "aperiodicity"))
            return Spoken(phones, stored["pitch"], envelope, aperiodicity, int(stored["sample_rate"]))

    def _write_analysis(self, path: Path, text: str, voice: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            speech = Path(folder) / "speech.wav"
            command = [self._flite, "-voice", voice, "-psdur", "-t", text, "-o", str(speech)]
            printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            waveform, sample_rate = soundfile.read(speech, dtype="float64")
        found = PHONE_END.findall(printed)
        pitch, times = self._world.dio(waveform, sample_rate)
        pitch = self._world.stonemask(waveform, pitch, times, sample_rate)
        part = path.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as file:
            np.savez(
                file,
                phones=np.array([symbol for symbol, _ in found]),
                phone_ends=np.array([float(end) for _, end in found]),
                pitch=pitch,
                envelope=self._world.cheaptrick(waveform, pitch, times, sample_rate).astype(np.float32),
                aperiodicity=self._world.d4c(waveform, pitch, times, sample_rate).astype(np.float32),
                sample_rate=sample_rate,
            )
        part.replace(path)

    def _sing_line(self, spoken: Spoken, notes: list[Note]) -> tuple[float, NDArray[np.float32], list[Phone]]:
        """Start in seconds of the song, waveform at 44.1 kHz and phones of one line."""
        syllables = split_syllables(spoken.phones)
        if len(syllables) != len(notes):
            raise ValueError(f"{len(syllables)} syllables for {len(notes)} notes: {[phone.symbol for phone in spoken.phones]}")
        lengths = [_phone_frames(syllable, note.duration_seconds) for syllable, note in zip(syllables, notes, strict=True)]
        leads = [sum(frames[: _vowel(syllable)]) for syllable, frames in zip(syllables, lengths, strict=True)]
        origin = max(0.0, notes[0].start_seconds - leads[0] * FRAME)
        num_frames = round((notes[-1].start_seconds + notes[-1].duration_seconds - origin) / FRAME) + TAIL_FRAMES
        pitch = np.zeros(num_frames)
        envelope = np.full((num_frames, spoken.envelope.shape[1]), SILENCE_POWER)
        aperiodicity = np.ones_like(envelope)
        phones: list[Phone] = []
        previous_hz = None
        for syllable, frames, lead, note in zip(syllables, lengths, leads, notes, strict=True):
            hz = 440.0 * 2 ** ((note.pitch - 69) / 12)
            start = max(0, round((note.start_seconds - origin) / FRAME) - lead)  # the vowel begins with the note
            for phone, length in zip(syllable, frames, strict=True):
                source = _stretched(phone, length, len(spoken.pitch))
                end = min(num_frames, start + length)
                source = source[: end - start]
                envelope[start:end], aperiodicity[start:end] = spoken.envelope[source], spoken.aperiodicity[source]
                is_vowel = phone.symbol in VOWELS
                sung = _sung_pitch(hz, previous_hz, len(source)) if is_vowel else np.full(len(source), hz)
                pitch[start:end] = sung if is_vowel else np.where(spoken.pitch[source] > 0, sung, 0.0)
                phones.append(Phone(phone.symbol, round(origin + start * FRAME, 5), round(origin + end * FRAME, 5)))
                start = end
            previous_hz = hz
        waveform: Any = self._world.synthesize(pitch, envelope, aperiodicity, spoken.sample_rate)
        resampled = self._signal.resample_poly(waveform, SAMPLE_RATE // 100, spoken.sample_rate // 100)
        return origin, resampled.astype(np.float32), without_overlaps(phones)


def split_syllables(phones: tuple[Phone, ...]) -> list[list[Phone]]:
    """One group of phones a vowel: the consonants before it, and after the last one also those behind."""
    syllables: list[list[Phone]] = [[]]
    for phone in phones:
        if phone.symbol == SILENCE:
            continue
        if syllables[-1] and syllables[-1][-1].symbol in VOWELS:
            syllables.append([])
        syllables[-1].append(phone)
    if len(syllables) > 1 and syllables[-1][-1].symbol not in VOWELS:
        coda = syllables.pop()
        syllables[-1] += coda
    return syllables


def without_overlaps(phones: list[Phone]) -> list[Phone]:
    """The phones, each ending at the latest where the next one begins."""
    starts = [*(phone.start_seconds for phone in phones[1:]), float("inf")]
    cut = [dataclasses.replace(phone, end_seconds=min(phone.end_seconds, start)) for phone, start in zip(phones, starts, strict=True)]
    return [phone for phone in cut if phone.end_seconds > phone.start_seconds]


def _vowel(syllable: list[Phone]) -> int:
    return next(number for number, phone in enumerate(syllable) if phone.symbol in VOWELS)


def _phone_frames(syllable: list[Phone], note_seconds: float) -> list[int]:
    """Length of each phone: consonants as spoken, unless they would crowd the note, and the vowel for the rest of the note."""
    vowel = _vowel(syllable)
    note = round(note_seconds * SUNG_SHARE / FRAME)
    frames = [max(MIN_CONSONANT_FRAMES, int((phone.end_seconds - phone.start_seconds) / FRAME)) for phone in syllable]
    consonants = sum(frames) - frames[vowel]
    if consonants > note * CONSONANT_SHARE:
        squeeze = note * CONSONANT_SHARE / consonants
        frames = [max(MIN_SQUEEZED_FRAMES, int(length * squeeze)) for length in frames]
    frames[vowel] = max(MIN_CONSONANT_FRAMES, note - sum(frames[vowel + 1 :]))
    return frames


def _stretched(phone: Phone, length: int, num_frames: int) -> NDArray[np.int64]:
    """Frames of the spoken line that make up a phone of `length` frames."""
    first, last = phone.start_seconds / FRAME, phone.end_seconds / FRAME - 1
    return np.linspace(first, max(first, last), length).astype(np.int64).clip(0, num_frames - 1)


def _sung_pitch(hz: float, previous_hz: float | None, length: int) -> Array:
    """Pitch of a vowel: a glide from the note before, and vibrato once the note has settled."""
    seconds = np.arange(length) * FRAME
    onset = np.clip((seconds - VIBRATO_DELAY_SECONDS) / VIBRATO_DELAY_SECONDS, 0, 1)
    pitch: Array = hz * (1 + VIBRATO_DEPTH * onset * np.sin(2 * np.pi * VIBRATO_HZ * seconds))
    if previous_hz is not None:
        glide = np.clip(seconds / GLIDE_SECONDS, 0, 1)
        pitch = pitch**glide * previous_hz ** (1 - glide)
    return pitch
