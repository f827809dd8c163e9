"""What the parts of the page know of each other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from acestep_client import AsyncClient
from acestep_rpc.errors import Unauthenticated
from clients.web import library
from clients.web.controls import Controls
from clients.web.requests import DURATION
from clients.web.runs import Runs
from clients.web.sessions import Sessions, WithCookies

Choices = list[tuple[str, str]]
Updates = dict[gr.Component, Any]

TASK_LABELS = {
    "text_to_music": "Make the song",
    "retake": "Make a retake",
    "repaint": "Repaint",
    "edit": "Edit",
    "extend": "Extend",
    "audio_to_audio": "Make a song after it",
}
"""Tasks in the order of their tabs, and what their button says."""


@dataclass
class Parts:
    """Of one page.

    Args:
        controls: Everything that makes up a request.
        sessions: Who is there.
        runs: What is in the making.
    """

    controls: Controls
    sessions: Sessions
    runs: Runs
    tabs: gr.Tabs | None = None
    workspace: gr.Column | None = None
    make: gr.Button | None = None
    task: gr.State = field(default_factory=lambda: gr.State("text_to_music"))
    """Task of the tab that is open."""
    uploads: gr.State = field(default_factory=lambda: gr.State([]))
    """What was uploaded since the page was loaded: labels and names."""
    run_id: gr.BrowserState = field(default_factory=lambda: gr.BrowserState("", storage_key="acestep-run"))
    """Name of the last run of this browser: a page that is loaded anew finds it."""
    source_lists: list[gr.Dropdown] = field(default_factory=list)
    """Drop-downs of kept songs and uploads."""
    take_lists: list[gr.Dropdown | gr.Radio] = field(default_factory=list)
    """Lists of kept songs."""
    on_open: dict[str, gr.Tab] = field(default_factory=dict)
    """Tabs by name."""
    late: list[Callable[[], object]] = field(default_factory=list)
    """Called when all components are there: events whose outputs are built later than their triggers."""

    def who(self, request: WithCookies) -> tuple[str, AsyncClient]:
        """Owner and client of a browser.

        Raises:
            Unauthenticated: Nobody is logged in there.
        """
        owner = self.sessions.owner(request)
        if owner is None:
            raise Unauthenticated
        return owner, self.sessions.client(owner)

    async def list_updates(self, client: AsyncClient, uploads: Sequence[tuple[str, str]]) -> Updates:
        """New contents for all lists of songs."""
        songs: Choices = [(take.label, take.name) for take in await library.takes(client)]
        updates: Updates = {component: gr.update(choices=songs) for component in self.take_lists}
        return updates | {component: gr.update(choices=[*uploads, *songs]) for component in self.source_lists}

    def show_task(self, task: str) -> Updates:
        """Updates that make a task's own controls and button the ones that are seen; the tab is `tabs`' affair."""
        makes_songs = task in TASK_LABELS
        updates: Updates = {self.task: task, self.workspace: gr.update(visible=makes_songs)}
        if makes_songs:
            updates[self.make] = gr.update(value=TASK_LABELS[task])
            updates[self.controls.components[DURATION]] = gr.update(visible=task in ("text_to_music", "retake"))
        return updates

    def settings_shown(self, task: str, values: Mapping[str, Any], songs: Choices) -> Updates:
        """`setting_updates` and `show_task`, both kept where they are about one control."""
        updates = self.setting_updates(values, songs)
        for component, update in self.show_task(task).items():
            updates[component] = {**updates[component], **update} if component in updates else update
        return updates

    @property
    def task_outputs(self) -> list[gr.Component]:
        """Everything that `show_task` updates."""
        return [self.task, self.workspace, self.make, self.controls.components[DURATION]]

    @property
    def lists(self) -> list[gr.Component]:
        """Everything that `list_updates` updates."""
        return [*self.take_lists, *self.source_lists]

    def setting_updates(self, values: Mapping[str, Any], songs: Choices) -> Updates:
        """Updates that set controls; a source that is in no list is put into its own.

        Args:
            values: By field.
            songs: What lists of sources hold.
        """
        updates = self.controls.updates({name: value for name, value in values.items() if name in self.controls.components})
        for name, value in values.items():
            if name.endswith(".source"):
                known = value in [song for _, song in songs]
                updates[self.controls.components[name]] = gr.update(value=value, choices=songs if known else [(value, value), *songs])
        return updates
