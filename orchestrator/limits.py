"""Ranges of what a request may ask for, and the collector of what is out of them. The one source of what is accepted and published."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from acestep_rpc.errors import InvalidRequest

SAMPLE_RATES = (44100, 48000)


@dataclass(frozen=True)
class Limit:
    """Range of a numeric parameter, both ends allowed, and its value when unset (None: it has none)."""

    minimum: float
    maximum: float
    default: float | None = None

    def __str__(self) -> str:
        return f"{self.minimum:.10g} to {self.maximum:.10g}"


LIMITS = {
    "text_to_music.duration_seconds": Limit(1, 240, 60),
    "retake.duration_seconds": Limit(1, 240, 60),
    "retake.retake_variances": Limit(0, 1, 0.5),
    "retake.retake_seeds": Limit(0, 2**32 - 1),
    "repaint.retake_variance": Limit(0, 1, 0.5),
    "repaint.retake_seeds": Limit(0, 2**32 - 1),
    "repaint.context_seconds": Limit(0, 240),
    "repaint.feather_seconds": Limit(0, 5, 0),
    "extend.left_seconds": Limit(0, 720, 0),
    "extend.right_seconds": Limit(0, 720, 0),
    "extend.retake_seeds": Limit(0, 2**32 - 1),
    "edit.edit_n_min": Limit(0, 1, 0),
    "edit.edit_n_max": Limit(0, 1, 1),
    "edit.edit_n_avg": Limit(1, 16, 1),
    "edit.retake_seeds": Limit(0, 2**32 - 1),
    "audio_to_audio.ref_audio_strength": Limit(0, 1, 0.5),
    "num_variants": Limit(1, 16, 1),
    "seeds": Limit(0, 2**32 - 1),
    "sampling.infer_step": Limit(1, 200, 60),
    "sampling.guidance_scale": Limit(0, 200, 15),
    "sampling.omega_scale": Limit(-100, 100, 10),
    "sampling.guidance_interval": Limit(0, 1, 0.5),
    "sampling.guidance_interval_decay": Limit(0, 1, 0),
    "sampling.min_guidance_scale": Limit(0, 200, 3),
    "sampling.guidance_scale_text": Limit(0, 10, 0),
    "sampling.guidance_scale_lyric": Limit(0, 10, 0),
    "sampling.oss_steps": Limit(1, 1000),
    "output.sample_rate": Limit(SAMPLE_RATES[0], SAMPLE_RATES[-1], SAMPLE_RATES[-1]),
    "output.preview.at_steps": Limit(1, 200),
    "output.preview.window.start_seconds": Limit(0, 720),
    "output.preview.window.end_seconds": Limit(0, 720),
    "adapters.scale": Limit(-3, 3, 1),
}
"""By path in GenerateRequest; a repeated field's limit is that of each element."""


class Problems:
    """Collects violations; each check returns a value to go on with."""

    def __init__(self) -> None:
        self._violations: list[tuple[str, str]] = []

    def add(self, field: str, value: object, allowed: str) -> None:
        """Note a violation."""
        self._violations += InvalidRequest(field, value, allowed).violations

    def raise_if_any(self) -> None:
        """Raise InvalidRequest with all violations, if there are any."""
        if self._violations:
            raise InvalidRequest.from_violations(self._violations)

    def number(self, field: str, value: float | None) -> float:
        """The value, or the field's default for None."""
        limit = LIMITS[field]
        if value is None:
            assert limit.default is not None
            return limit.default
        if not limit.minimum <= value <= limit.maximum:  # NaN is in no range
            self.add(field, value, str(limit))
        return value

    def optional_number(self, field: str, value: float | None) -> float | None:
        """The value; None, which has a meaning of its own, stays."""
        return None if value is None else self.number(field, value)

    def each(self, field: str, values: Sequence[float]) -> None:
        """Check every value of a repeated field."""
        limit = LIMITS[field]
        for index, value in enumerate(values):
            if not limit.minimum <= value <= limit.maximum:
                self.add(f"{field}[{index}]", value, str(limit))

    def text(self, field: str, text: str, max_characters: int) -> str:
        """The text with line feeds as line breaks."""
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        if len(text) > max_characters:
            self.add(field, f"{len(text)} characters", f"at most {max_characters} characters")
        controls = sorted({character for character in text if unicodedata.category(character) == "Cc"} - {"\n", "\t"})
        if controls:
            self.add(field, "".join(controls), "no control characters but tab and line breaks")
        return text

    def enum(self, field: str, value: int, kind: EnumTypeWrapper) -> None:
        """Check that a number names a value."""
        if value not in kind.values():
            self.add(field, value, ", ".join(kind.keys()))
