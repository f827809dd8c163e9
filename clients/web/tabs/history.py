"""History: the songs that the server keeps, and what is in the making."""

from typing import Any

import gradio as gr

from acestep_rpc.errors import AcestepError
from clients.web import library, views
from clients.web.parts import Parts
from clients.web.song_actions import SongActions


def build(parts: Parts, actions: SongActions) -> None:
    """A list of songs beside the one that is chosen."""
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            songs = gr.Radio([], label="Songs, the newest first", elem_id="history-songs")
            refresh = gr.Button("Refresh", size="sm", elem_id="history-refresh")
        with gr.Column(scale=3, min_width=280):
            player = gr.HTML(
                '<div class="empty-result"><strong>Choose a song</strong>Its player, settings and downloads appear here.</div>'
            )
            message = gr.HTML(elem_id="history-message")
            receipt = actions.build(songs, "history")
            delete = gr.Button("Delete from the server", variant="stop", size="sm", elem_id="history-delete")
    parts.take_lists.append(songs)

    async def show(name: str | None, request: gr.Request) -> dict[gr.Component, Any]:
        if not name:
            return {player: "", receipt: views.receipt(None), message: ""}
        try:
            _, client = parts.who(request)
            take = await library.take(client, name)
        except AcestepError as error:
            return {message: views.failure(error, {})[0]}
        return {player: views.player(take), receipt: views.receipt(take.receipt), message: ""}

    async def remove(name: str | None, uploads: Any, request: gr.Request) -> dict[gr.Component, Any]:
        if not name:
            return {message: views.notice("Choose a song first.")}
        try:
            _, client = parts.who(request)
            await client.delete(name.partition("/results/")[0])
            updates: dict[gr.Component, Any] = await parts.list_updates(client, uploads)
        except AcestepError as error:
            return {message: views.failure(error, {})[0]}
        updates[songs] = gr.update(choices=updates[songs]["choices"], value=None)
        return updates | {player: "", receipt: views.receipt(None), message: views.notice("Deleted.")}

    async def list_again(uploads: Any, request: gr.Request) -> dict[gr.Component, Any]:
        try:
            _, client = parts.who(request)
            return {**await parts.list_updates(client, uploads), message: ""}
        except AcestepError as error:
            return {message: views.failure(error, {})[0]}

    def connect() -> None:
        songs.change(show, songs, [player, receipt, message], api_visibility="private", show_progress="hidden")
        delete.click(remove, [songs, parts.uploads], [*parts.lists, player, receipt, message], api_visibility="private")
        for trigger in (refresh.click, parts.on_open["history"].select):
            trigger(list_again, parts.uploads, [*parts.lists, message], api_visibility="private", show_progress="hidden")

    parts.late.append(connect)
