"""Adapters: what the server's store has, and what it holds in memory."""

import html
from collections.abc import Awaitable, Callable
from typing import Any

import gradio as gr

from acestep_client import AsyncClient
from acestep_rpc.errors import AcestepError
from acestep_rpc.v1 import adapter_pb2
from clients.web import views
from clients.web.parts import Parts
from clients.web.requests import NO_ADAPTER


def build(parts: Parts) -> None:
    """A list, and what can be done with one of them."""
    gr.Markdown("LoRA adapters of the server. A song that names one loads it by itself; loading it before saves the first song the wait.")
    with gr.Row(elem_classes="source-row"):
        chosen = gr.Dropdown([], label="Adapter", elem_id="adapter-chosen", scale=3, min_width=240)
        load = gr.Button("Load", size="md", elem_id="adapter-load", min_width=90)
        unload = gr.Button("Unload", size="md", elem_id="adapter-unload", min_width=90)
        use = gr.Button("Use in the song", size="md", variant="primary", elem_id="adapter-use", min_width=130)
    message = gr.HTML(elem_id="adapter-message")
    table = gr.HTML(elem_id="adapter-table")

    def handler(action: Callable[[AsyncClient, str], Awaitable[Any]] | None) -> Callable[..., Awaitable[dict[gr.Component, Any]]]:
        async def handle(name: str | None, request: gr.Request) -> dict[gr.Component, Any]:
            try:
                _, client = parts.who(request)
                if action is not None and name:
                    await action(client, name)
                found = await client.adapters()
            except AcestepError as error:
                return {message: views.failure(error, {"name": "Adapter"})[0]}
            names = [adapter.name for adapter in found]
            known = name if name in names else next(iter(names), None)
            in_song = parts.controls.components["adapters"]
            return {
                table: rows(found),
                message: "",
                chosen: gr.update(choices=names, value=known),
                in_song: gr.update(choices=[NO_ADAPTER, *names]),
            }

        return handle

    def connect() -> None:
        in_song = parts.controls.components["adapters"]
        outputs = [table, message, chosen, in_song]
        load.click(handler(AsyncClient.load_adapter), chosen, outputs, api_visibility="private")
        unload.click(handler(AsyncClient.unload_adapter), chosen, outputs, api_visibility="private")
        use.click(lambda name: name or NO_ADAPTER, chosen, in_song, api_visibility="private", show_progress="hidden")
        parts.on_open["adapters"].select(handler(None), chosen, outputs, api_visibility="private", show_progress="hidden")

    parts.late.append(connect)


def rows(adapters: list[adapter_pb2.Adapter]) -> str:
    """The store as a table."""
    if not adapters:
        return (
            '<div class="empty-result"><strong>The server has no adapters</strong>'
            "It is given a folder of them when it starts: <code>acestep ui --adapters DIR</code>.</div>"
        )
    lines = "".join(
        f"<tr><td>{html.escape(adapter.name)}</td><td>{'in memory' if adapter.loaded else 'in the store'}</td>"
        f"<td>{('states it' if adapter.has_trained_scale else 'does not') if adapter.HasField('has_trained_scale') else ''}</td></tr>"
        for adapter in adapters
    )
    return f'<div class="lines"><table><tr><th>Name</th><th>Where</th><th>Trained scale</th></tr>{lines}</table></div>'
