"""Where a task's source is chosen: a kept song or a file of this machine, with its waveform."""

from pathlib import Path
from typing import Any

import gradio as gr

from acestep_rpc.errors import AcestepError
from clients.web import views
from clients.web.parts import Choices, Parts


def build_source(parts: Parts, task: str, label: str, pick: bool = False) -> None:
    """Add the panel.

    Args:
        parts: Of the page.
        task: Whose source it is.
        label: Of the list of songs.
        pick: Stretches of the source can be chosen on its waveform.
    """
    field = f"{task}.source"
    with gr.Row(elem_classes="source-row"):
        songs = gr.Dropdown(
            [],
            value=None,
            label=label,
            info="A song that the server keeps, or a file",
            elem_id=f"field-{task}-source",
            scale=4,
            min_width=240,
        )
        upload = gr.UploadButton("Upload a file", file_types=["audio"], size="md", scale=1, min_width=140, elem_id=f"upload-{task}")
    message = gr.HTML()
    wave = gr.HTML(elem_id=f"wave-{task}")
    parts.controls.add(field, label, None, songs)
    parts.source_lists.append(songs)

    def show(name: str | None) -> str:
        return views.source_player(name or "", "Source", pick)

    async def send(path: str, uploads: Choices, request: gr.Request) -> dict[gr.Component, Any]:
        try:
            _, client = parts.who(request)
            stored = await client.upload(Path(path))
        except AcestepError as error:
            return {message: views.failure(error, {"data": label})[0]}
        known = [choice for choice in uploads if choice[1] != stored.name]
        added: Choices = [(f"{Path(path).name} · {stored.duration_seconds:.1f} s · uploaded", stored.name), *known]
        updates: dict[gr.Component, Any] = await parts.list_updates(client, added)
        updates |= {parts.uploads: added, message: ""}
        updates[songs] = gr.update(choices=updates[songs]["choices"], value=stored.name)
        return updates

    songs.change(show, songs, wave, api_visibility="private", show_progress="hidden")
    parts.late.append(
        lambda: upload.upload(send, [upload, parts.uploads], [*parts.lists, parts.uploads, message], api_visibility="private")
    )
