"""Repaint: new music in stretches of a song."""

import gradio as gr

from clients.web.parts import Parts
from clients.web.requests import FIRST_END, FIRST_START, MORE_REGIONS
from clients.web.source_panel import build_source

_LONGEST_SECONDS = 240.0  # of a source


def build(parts: Parts) -> None:
    """Source, stretches, and how they are joined to the rest."""
    controls = parts.controls
    build_source(parts, "repaint", "Song to repaint", pick=True)
    with gr.Row():
        controls.number(FIRST_START, "Repaint start", "Seconds", default=0, minimum=0, maximum=_LONGEST_SECONDS)
        controls.number(FIRST_END, "Repaint end", "Seconds", default=30, minimum=0, maximum=_LONGEST_SECONDS)
        controls.text(MORE_REGIONS, "Further stretches", "Seconds", placeholder="40-45, 60-62.5")
    with gr.Row():
        controls.slider("repaint.retake_variance", "Variance", "How much may change", step=0.01, default=0.2)
        controls.text("repaint.retake_seeds", "Repaint seeds", "One a song; empty: drawn")
    with gr.Accordion("How it is joined to the rest", open=False):
        controls.switch("repaint.splice_source", "Keep everything else exactly as it is", default=True)
        with gr.Row():
            controls.slider("repaint.feather_seconds", "Feather", "Soft edges inside the stretches, seconds", step=0.01)
            limit = controls.limits.range_of("repaint.context_seconds")
            controls.number(
                "repaint.context_seconds",
                "Context",
                "Seconds around each stretch that are computed anew; empty: the whole song",
                default=None,
                minimum=limit.minimum,
                maximum=limit.maximum,
            )
