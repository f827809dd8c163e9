"""Edit: other words or another style on the same song."""

import gradio as gr

from clients.web.parts import Parts
from clients.web.source_panel import build_source

EDIT_TYPES = {"only_lyrics": (0.6, 1.0), "remix": (0.2, 0.4)}
"""Shares of the schedule: other words on the same music, or the same song in another style."""


def build(parts: Parts) -> None:
    """Source, what it shall become, and how freely."""
    controls = parts.controls
    build_source(parts, "edit", "Song to edit")
    gr.Markdown("Tags and lyrics below say what the song is now. What shall it become?")
    with gr.Row():
        controls.text("edit.target.tags", "Edit tags", "Empty: unchanged", lines=4, max_lines=8)
        controls.text("edit.target.lyrics", "Edit lyrics", "Empty: unchanged", lines=4, max_lines=24)
    with gr.Row():
        kind = gr.Radio(list(EDIT_TYPES), value="only_lyrics", label="Edit type", info="Sets the next two", elem_id="edit-type")
        n_min, n_max = EDIT_TYPES["only_lyrics"]
        low = controls.slider("edit.edit_n_min", "edit_n_min", "Share of the steps that is skipped", step=0.01, default=n_min)
        high = controls.slider("edit.edit_n_max", "edit_n_max", "Share that follows the source", step=0.01, default=n_max)
    with gr.Row():
        controls.slider("edit.edit_n_avg", "edit_n_avg", "Noise draws averaged a step", step=1)
        controls.text("edit.retake_seeds", "Edit seeds", "One a song; empty: drawn")
    kind.input(lambda name: EDIT_TYPES[name], kind, [low, high], api_visibility="private", show_progress="hidden")
