"""Extend: a song made longer."""

import gradio as gr

from clients.web.parts import Parts
from clients.web.source_panel import build_source


def build(parts: Parts) -> None:
    """Source, and how much is added where."""
    controls = parts.controls
    build_source(parts, "extend", "Song to extend")
    with gr.Row():
        controls.slider("extend.left_seconds", "Left extend length", "Seconds before it", step=0.1, maximum=240, default=0)
        controls.slider("extend.right_seconds", "Right extend length", "Seconds after it", step=0.1, maximum=240, default=30)
        controls.text("extend.retake_seeds", "Extend seeds", "One a song; empty: drawn")
