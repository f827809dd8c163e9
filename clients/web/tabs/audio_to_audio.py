"""Audio to audio: a song that follows a recording."""

from clients.web.parts import Parts
from clients.web.source_panel import build_source


def build(parts: Parts) -> None:
    """Reference, and how closely it is followed."""
    build_source(parts, "audio_to_audio", "Reference audio")
    parts.controls.slider("audio_to_audio.ref_audio_strength", "Refer audio strength", "0: not at all, 1: the reference itself", step=0.01)
