"""Retake: the song of a seed again, a little different."""

import gradio as gr

from clients.web.parts import Parts


def build(parts: Parts) -> None:
    """How different, and by which second seeds."""
    gr.Markdown("The song that the settings and seeds below make, a little different. **Use for: Retake** under a song fills them in.")
    with gr.Row():
        parts.controls.slider(
            "retake.retake_variances", "Variance", "0: the same song, 1: the song of the retake seed", step=0.01, default=0.2
        )
        parts.controls.text("retake.retake_seeds", "Retake seeds", "One a song; empty: drawn", placeholder="as 7, 42")
