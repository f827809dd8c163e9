"""Text to music: a song from nothing."""

import random

import gradio as gr

from clients.web.parts import Parts, Updates
from clients.web.presets import EXAMPLES, Example
from clients.web.requests import DURATION


def build(parts: Parts) -> None:
    """Examples to begin with."""
    gr.HTML('<span class="chips-title">Begin with an example</span>')
    with gr.Row(elem_classes="chips"):
        chosen = [(gr.Button(example.name, size="sm"), example) for example in EXAMPLES]
        surprise = gr.Button("Surprise me", size="sm", variant="primary")

    def settings(example: Example) -> Updates:
        values = {"prompt.tags": example.tags, "prompt.lyrics": example.lyrics, DURATION: example.duration_seconds}
        return parts.controls.updates(values)

    def connect() -> None:
        outputs = [parts.controls.components[name] for name in ("prompt.tags", "prompt.lyrics", DURATION)]
        for button, example in chosen:
            button.click(lambda example=example: settings(example), None, outputs, api_visibility="private", show_progress="hidden")
        draw = lambda: settings(random.choice(EXAMPLES))  # noqa: E731, S311  # no secret
        surprise.click(draw, None, outputs, api_visibility="private", show_progress="hidden")

    parts.late.append(connect)
