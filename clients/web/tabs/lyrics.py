"""Lyrics preview: how the server reads each line, without making a song."""

import html
from typing import Any

import gradio as gr

from acestep_rpc.errors import AcestepError
from acestep_rpc.v1 import encoder_pb2, lyrics_pb2
from clients.web import views
from clients.web.parts import Parts, Updates
from clients.web.requests import DURATION, lyric_options

_HINTS = {
    lyrics_pb2.SINGABILITY_FITS: "the words fit",
    lyrics_pb2.SINGABILITY_TOO_DENSE: "too dense: words will be swallowed",
    lyrics_pb2.SINGABILITY_TOO_SPARSE: "too sparse: long stretches have no words",
}


def build(parts: Parts) -> None:
    """A text of its own, so that trying words leaves the song alone."""
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            text = gr.Textbox(label="Lyrics to read", lines=12, max_lines=24, elem_id="preview-lyrics")
            seconds = gr.Number(
                60, label="Length of the song", info="Seconds; says whether the words fit", minimum=1, elem_id="preview-seconds"
            )
            with gr.Row():
                take = gr.Button("Take from the song", size="md", min_width=120)
                give = gr.Button("Use in the song", size="md", min_width=120)
            read = gr.Button("Read the lyrics", size="md", variant="primary", elem_id="preview-read")
        with gr.Column(scale=3, min_width=280):
            table = gr.HTML(
                '<div class="empty-result"><strong>Every line, as the model is given it</strong>'
                "Language, tokens, syllables, warnings.</div>",
                elem_id="preview-table",
            )

    async def preview(inputs: dict[gr.Component, Any], request: gr.Request) -> str:
        options = lyric_options(parts.controls.values(inputs))
        try:
            _, client = parts.who(request)
            return reading(await client.preview_lyrics(inputs[text], options=options, duration_seconds=inputs[seconds] or None))
        except AcestepError as error:
            return views.failure(error, parts.controls.labels | {"lyrics": "Lyrics", "duration_seconds": "Length of the song"})[0]

    def taken(lyrics: str, duration: float) -> Updates:
        return {text: lyrics, **({seconds: round(duration, 2)} if duration > 0 else {})}

    def connect() -> None:
        controls = parts.controls.components
        lyrics = controls["prompt.lyrics"]
        read.click(preview, {text, seconds, *controls.values()}, table, api_visibility="private")
        take.click(taken, [lyrics, controls[DURATION]], [text, seconds], api_visibility="private", show_progress="hidden")
        give.click(lambda words: words, text, lyrics, api_visibility="private", show_progress="hidden")

    parts.late.append(connect)


def reading(response: lyrics_pb2.PreviewResponse) -> str:
    """The lines as a table."""
    said = f"{response.token_count} tokens, {response.syllables} syllables"
    if response.singability in _HINTS:
        said += f"; {response.syllables_per_second:.1f} syllables a second: {_HINTS[response.singability]}"
    rows = "".join(_row(line) for line in response.lines)
    head = "<th>Line</th><th>Language</th><th>Read as</th><th>Tokens</th><th>Syllables</th>"
    return (
        f'{views.notice(said)}<div class="lines" tabindex="0" role="region" aria-label="Lines"><table><tr>{head}</tr>{rows}</table></div>'
    )


def _row(line: encoder_pb2.LyricLine) -> str:
    language = f"{line.language} for {line.detected_language}" if line.detected_language not in ("", line.language) else line.language
    warnings = [*line.warnings]
    if line.unknown_characters:
        warnings.append(f"the model does not know {' '.join(line.unknown_characters)}")
    said = "".join(f'<div class="warning">{html.escape(warning)}</div>' for warning in warnings)
    why = html.escape(line.language_reason)
    return (
        f'<tr><td class="number">{line.line_number}</td><td title="{why}">{html.escape(language)}</td>'
        f"<td>{html.escape(line.normalized_text)}{said}</td>"
        f'<td class="number">{line.token_count}</td><td class="number">{line.syllables}</td></tr>'
    )
