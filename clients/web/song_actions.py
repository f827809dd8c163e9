"""What can be done with a kept song: see its parameters, load them, start a task from it."""

from collections.abc import Callable, Coroutine
from typing import Any

import gradio as gr

from acestep_client import AsyncClient
from acestep_rpc.errors import AcestepError
from clients.web import library, views
from clients.web.parts import Parts, Updates
from clients.web.receipts import UnreadableFile, settings_of

_USES = {"retake": "Retake", "repaint": "Repaint", "edit": "Edit", "extend": "Extend", "audio_to_audio": "Follow it"}


class SongActions:
    """Builds the buttons under a song.

    Args:
        parts: Of the page.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def build(self, chosen: gr.Component, prefix: str) -> gr.HTML:
        """Add the buttons.

        Args:
            chosen: Its value is the song's name.
            prefix: Of element ids.
        Returns:
            Where the receipt is shown.
        """
        gr.HTML('<span class="chips-title">Use this song for</span>')
        with gr.Row(elem_classes="chips"):
            buttons = {task: gr.Button(words, size="sm", elem_id=f"{prefix}-use-{task}") for task, words in _USES.items()}
            load = gr.Button("Load its settings", size="sm", elem_id=f"{prefix}-load")
        message = gr.HTML(elem_id=f"{prefix}-use-message")
        with gr.Accordion("Receipt: every parameter of the song", open=False):
            receipt = gr.HTML(views.receipt(None), elem_id=f"{prefix}-receipt")

        def connect() -> None:
            parts = self._parts
            outputs = [*parts.controls.components.values(), *parts.task_outputs, parts.tabs, message]
            unique = list(dict.fromkeys(outputs))
            load.click(self._handler(message, None), [chosen, parts.uploads], unique, api_visibility="private", show_progress="hidden")
            for task, button in buttons.items():
                handle = self._handler(message, task)
                button.click(handle, [chosen, parts.uploads], unique, api_visibility="private", show_progress="hidden")

        self._parts.late.append(connect)
        return receipt

    def _handler(self, message: gr.HTML, task: str | None) -> Callable[..., Coroutine[Any, Any, Updates]]:
        async def handle(name: str | None, uploads: Any, request: gr.Request) -> Updates:
            if not name:
                return {message: views.notice("Choose a song first.")}
            try:
                _, client = self._parts.who(request)
                return {message: "", **await self._start(client, name, uploads, task)}
            except AcestepError as error:
                return {message: views.failure(error, {})[0]}
            except UnreadableFile as error:
                return {message: views.notice(str(error), bad=True)}

        return handle

    async def _start(self, client: AsyncClient, name: str, uploads: Any, task: str | None) -> Updates:
        """Set the controls as the song's receipt says, for its own task or for another one that starts from it."""
        parts, songs = self._parts, await library.takes(client)
        take = await library.take(client, name)
        settings = settings_of(take.receipt)
        values = dict(settings.values)
        if task is not None and task != settings.task:
            own = {f"{settings.task}."} if settings.task != "text_to_music" else set()
            values = {field: value for field, value in values.items() if not field.startswith(tuple(own) or ("\0",))}
            if settings.task == "edit":  # what it became is what it is
                target = take.receipt
                values |= {"prompt.tags": target.get("edit_target_prompt", ""), "prompt.lyrics": target.get("edit_target_lyrics", "")}
        if task is not None and task != "retake":
            values |= {f"{task}.source": name, "seeds": "", "num_variants": 1}
        choices = [*uploads, *((song.label, song.name) for song in songs)]
        chosen = task or settings.task
        return {**parts.settings_shown(chosen, values, choices), parts.tabs: gr.update(selected=chosen)}
