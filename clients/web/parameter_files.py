"""Loading parameter files: our receipts, and files of the reference."""

from pathlib import Path
from typing import Any

import gradio as gr

from acestep_rpc.errors import AcestepError
from clients.web import library, views
from clients.web.parts import Parts, Updates
from clients.web.receipts import UnreadableFile, read_parameter_file, settings_of


def build_loader(parts: Parts) -> None:
    """Add the button, and where it says what the file was."""
    upload = gr.UploadButton("Load a parameter file (JSON)", file_types=[".json"], size="sm", elem_id="load-parameters")
    message = gr.HTML(elem_id="load-message")

    async def load(path: str, uploads: Any, request: gr.Request) -> Updates:
        try:
            settings = settings_of(read_parameter_file(Path(path)))
            _, client = parts.who(request)
            songs = [*uploads, *((take.label, take.name) for take in await library.takes(client))]
        except UnreadableFile as error:
            return {message: views.notice(str(error), bad=True)}
        except AcestepError as error:
            return {message: views.failure(error, {})[0]}
        updates = parts.settings_shown(settings.task, settings.values, songs)
        return updates | {parts.tabs: gr.update(selected=settings.task), message: views.notice("Settings loaded", settings.notes)}

    def connect() -> None:
        outputs = list(dict.fromkeys([*parts.controls.components.values(), *parts.task_outputs, parts.tabs, message]))
        upload.upload(load, [upload, parts.uploads], outputs, api_visibility="private", show_progress="hidden")

    parts.late.append(connect)
