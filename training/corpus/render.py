"""Instruments to sound: FluidSynth with a General MIDI soundfont, dry."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.corpus.song import BASS, CHORDS, DRUMS, LEAD, SAMPLE_RATE, VOICE, Song

SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
CHANNELS = {CHORDS: 0, BASS: 1, LEAD: 2, DRUMS: 9}
PAN = {CHORDS: 45, BASS: 64, LEAD: 80, DRUMS: 64}
VOLUME = {CHORDS: 88, BASS: 100, LEAD: 104, DRUMS: 105}
DRUM_BANK = 128
GAIN = 0.6
FIRST_FONT = 1  # number that FluidSynth gives to the first soundfont it loads
MIN_NOTE_SECONDS = 0.03
BLOCK_SAMPLES = 64  # FluidSynth works in blocks
RMS = 0.09  # of the instruments
VOICE_RMS, BESIDE_VOICE = 0.10, 0.8  # of the voice, and the factor of the instruments beside it
PEAK = 0.97


class Renderer:
    """Plays songs with a soundfont."""

    def __init__(self, soundfont: Path = SOUNDFONT) -> None:
        """Check that everything is there.

        Raises:
            RuntimeError: FluidSynth, its Python binding or the soundfont is missing; says what to install.
        """
        if not soundfont.is_file():
            raise RuntimeError(f"no soundfont at {soundfont}: install the Debian package fluid-soundfont-gm, or name one with --soundfont")
        try:
            import fluidsynth
        except ImportError as error:
            raise RuntimeError("FluidSynth is missing: install the Debian package libfluidsynth3 and the extra 'corpus'") from error
        self._write_float: Any = fluidsynth.cfunc(
            "fluid_synth_write_float",
            fluidsynth.c_int,
            *[("synth", fluidsynth.c_void_p, 1), ("len", fluidsynth.c_int, 1)],
            *[("lout", fluidsynth.c_void_p, 1), ("loff", fluidsynth.c_int, 1), ("lincr", fluidsynth.c_int, 1)],
            *[("rout", fluidsynth.c_void_p, 1), ("roff", fluidsynth.c_int, 1), ("rincr", fluidsynth.c_int, 1)],
        )
        self._soundfont = soundfont
        self._fluidsynth = fluidsynth
        self._kept = self._tune()  # reports a soundfont that cannot be read; others need not read it while one holds it

    def _tune(self) -> Any:
        """A synthesiser in its first state: one that has played before keeps traces of it, and songs would depend on their order."""
        synth = self._fluidsynth.Synth(gain=GAIN, samplerate=SAMPLE_RATE)
        synth.setting("synth.reverb.active", 0)
        synth.setting("synth.chorus.active", 0)
        if synth.sfload(str(self._soundfont)) < 0:
            raise RuntimeError(f"{self._soundfont} is no soundfont that FluidSynth can read")
        return synth

    def render(self, song: Song) -> NDArray[np.float32]:
        """The instruments of a song.

        Returns:
            Waveform [2, samples] at 44.1 kHz with RMS 0.09, zeros when only a voice sounds; peaks may pass 1.
        """
        num_samples = round(song.seconds * SAMPLE_RATE)
        played = np.zeros((2, -(-num_samples // BLOCK_SAMPLES) * BLOCK_SAMPLES), np.float32)
        if song.programs:
            synth = self._tune()
            try:
                self._play(song, self._prepare(synth, song), played)
            finally:
                synth.delete()
        waveform = played[:, :num_samples]
        return waveform * np.float32(RMS / (_rms(waveform) + 1e-6))

    def _prepare(self, synth: Any, song: Song) -> Any:
        for part, program in song.programs:
            channel = CHANNELS[part]
            synth.program_select(channel, FIRST_FONT, DRUM_BANK if part == DRUMS else 0, program)
            synth.cc(channel, 10, PAN[part])
            synth.cc(channel, 7, VOLUME[part])
        return synth

    def _play(self, song: Song, synth: Any, played: NDArray[np.float32]) -> None:
        """Write the song's sound into `played` [2, samples]; events fall on blocks of 64 samples, 1.5 ms."""
        events = []
        for note in song.notes:
            if note.part != VOICE:
                channel, end = CHANNELS[note.part], note.start_seconds + max(MIN_NOTE_SECONDS, note.duration_seconds)
                events += [(note.start_seconds, 1, channel, note.pitch, note.velocity), (end, 0, channel, note.pitch, 0)]
        left, right = (row.ctypes.data for row in played)
        done, total = 0, played.shape[1]
        for seconds, starts, channel, pitch, velocity in [*sorted(events), (song.seconds + 1, 0, 0, 0, 0)]:
            until = min(total, int(seconds * SAMPLE_RATE) // BLOCK_SAMPLES * BLOCK_SAMPLES)
            if until > done:
                self._write_float(synth.synth, until - done, left, done, 1, right, done, 1)
                done = until
            if done == total:
                return
            if starts:
                synth.noteon(channel, pitch, velocity)
            else:
                synth.noteoff(channel, pitch)


def _rms(waveform: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.square(waveform, dtype=np.float64).mean()))


def mix(instruments: NDArray[np.float32], voice: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Instruments and voice together, loud as the corpus is, no sample above 0.97.

    Args:
        instruments: [2, samples] from `Renderer.render`.
        voice: [samples], or None.
    """
    mixed = instruments
    if voice is not None:
        mixed = BESIDE_VOICE * instruments + voice[None] * np.float32(VOICE_RMS / (_rms(voice) + 1e-6))
    return (mixed / max(1.0, float(np.abs(mixed).max()) / PEAK)).astype(np.float32)
