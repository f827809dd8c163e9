"""Is it the same song? Two files compared by bytes, then by samples, then by what made them."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acestep_client.songs import Song

_RUN_FIELDS = {"request_id", "variant_index", "corrections", "timecosts", "kept_snr_db", "audio_path", "src_audio_path", "ref_audio_input"}
"""What tells of one run and not of the song."""
_LOSSY = {"mp3", "ogg_vorbis", "ogg_opus"}


@dataclass(frozen=True)
class Comparison:
    """What a replay gave.

    Attributes:
        same_file: Byte for byte.
        same_audio: Sample for sample; None: lengths differ, or it was not looked at.
        signal_to_noise_db: Of the new song against the old one, where it is not the same.
        reasons: What made the new song and did not make the old one, as "stages.diffusion.model_digest: abc -> def".
    """

    same_file: bool
    same_audio: bool
    signal_to_noise_db: float | None = None
    reasons: tuple[str, ...] = field(default=())


def compare(path: Path, parameters: Mapping[str, Any], song: Song) -> Comparison:
    """Hold a song against the file that it should be.

    Args:
        path: The file.
        parameters: Its receipt.
        song: Made by that receipt.
    Raises:
        ModuleNotFoundError: The extra "client" (numpy and soundfile) is not installed, and the files differ.
    """
    if hashlib.sha256(path.read_bytes()).hexdigest() == song.info.sha256:
        return Comparison(True, True)
    reasons = list(_differences("", parameters, song.receipt))
    import numpy as np

    old, old_rate = Song(song.info, path).to_numpy()
    new, new_rate = song.to_numpy()
    if old.shape != new.shape or old_rate != new_rate:
        reasons.append(f"length: {len(old)} samples at {old_rate} Hz -> {len(new)} at {new_rate} Hz")
        return Comparison(False, False, None, tuple(reasons))
    if np.array_equal(old, new):
        reasons.append("only what stands beside the samples differs: the file was tagged anew, or its receipt tells of another machine")
        return Comparison(False, True, None, tuple(reasons))
    if not reasons:
        reasons.append("nothing that the receipt names: a device that does not add up in the same order each time, or an edited file")
    if parameters.get("audio_format") in _LOSSY:
        reasons.append(f"{parameters['audio_format']} is lossy: its encoder makes a small difference a larger one")
    noise = float(np.mean((new - old).astype(np.float64) ** 2))
    signal = float(np.mean(old.astype(np.float64) ** 2))
    return Comparison(False, False, round(10 * float(np.log10(max(signal, 1e-20) / noise)), 1), tuple(reasons))


def _differences(prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """What both receipts have and say otherwise, or only one has."""
    for name in sorted((old.keys() | new.keys()) - (_RUN_FIELDS if not prefix else set())):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differences(f"{prefix}{name}.", before, after)
        elif before != after:
            yield f"{prefix}{name}: {before} -> {after}"
