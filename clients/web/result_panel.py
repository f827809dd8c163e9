"""The right-hand side: what is being made, what was made, and two takes against each other."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from acestep_rpc.errors import AcestepError
from clients.web import library, views
from clients.web.parts import Parts, Updates
from clients.web.requests import build_request
from clients.web.runs import Run, State
from clients.web.song_actions import SongActions

_REDRAW_SECONDS = 0.25


class ResultPanel:
    """Builds the panel and makes songs into it.

    Args:
        parts: Of the page.
        actions: What can be done with a song.
    """

    def __init__(self, parts: Parts, actions: SongActions) -> None:
        self._parts = parts
        self._actions = actions

    def build(self) -> None:
        """Add the components."""
        self._status = gr.HTML(elem_id="run-status")
        self._songs = gr.HTML(views.NO_RESULT, elem_id="run-songs")
        self._errors = gr.HTML(elem_id="run-errors", elem_classes="unseen")
        with gr.Column(visible=False, elem_id="run-actions") as self._after:
            self._take = gr.Radio([], label="Take", elem_id="run-take", visible=False)
            self._receipt = self._actions.build(self._take, "run")
        with gr.Accordion("Compare two takes", open=False, elem_id="compare"):
            with gr.Row():
                a = gr.Dropdown([], value=None, label="Take A", elem_id="compare-a", min_width=200)
                b = gr.Dropdown([], value=None, label="Take B", elem_id="compare-b", min_width=200)
            both = gr.HTML(elem_id="compare-players")
        self._parts.take_lists += [a, b]
        for side in (a, b):
            side.change(self._compare, [a, b], both, api_visibility="private", show_progress="hidden")
        self._take.change(self._show_receipt, self._take, self._receipt, api_visibility="private", show_progress="hidden")

    def connect(self, page: gr.Blocks, make: gr.Button, cancel: gr.Button) -> None:
        """Wire the buttons and what happens when the page is loaded."""
        parts = self._parts
        self._make, self._cancel = make, cancel
        outputs = [
            self._status, self._songs, self._errors, self._after, self._take, self._receipt, make, cancel, parts.run_id, *parts.lists,
        ]  # fmt: skip
        inputs = {*parts.controls.components.values(), parts.task, parts.uploads}
        make.click(self._generate, inputs, outputs, api_visibility="private", show_progress="hidden", concurrency_limit=None)
        cancel.click(self._stop, parts.run_id, cancel, api_visibility="private", show_progress="hidden", concurrency_limit=None)
        page.load(
            self._reopen, [parts.run_id, parts.uploads], outputs, api_visibility="private", show_progress="hidden", concurrency_limit=None
        )

    async def _generate(self, inputs: dict[gr.Component, Any], request: gr.Request) -> AsyncIterator[Updates]:
        parts = self._parts
        try:
            owner, client = parts.who(request)
            wanted = build_request(inputs[parts.task], parts.controls.values(inputs), parts.controls.limits.sampling)
        except AcestepError as error:
            yield self._refused(error)
            return
        run = parts.runs.start(owner, client, wanted)
        async for updates in self._follow(run, inputs[parts.uploads]):
            yield updates

    async def _reopen(self, run_id: str | None, uploads: Any, request: gr.Request) -> AsyncIterator[Updates]:
        """Fill the lists of songs, and find the run that this browser started before it loaded the page anew."""
        parts = self._parts
        try:
            owner, client = parts.who(request)
            yield await parts.list_updates(client, uploads)
        except AcestepError as error:
            yield {self._status: views.failure(error, {})[0]}
            return
        run = parts.runs.get(owner, run_id)
        if run is not None and run.state in (State.RUNNING, State.DONE):
            async for updates in self._follow(run, uploads):
                yield updates

    async def _follow(self, run: Run, uploads: Any) -> AsyncIterator[Updates]:
        parts = self._parts
        shown = ""
        running = {self._make: gr.update(interactive=False), self._cancel: gr.update(visible=True, interactive=True)}
        yield {self._after: gr.update(visible=False), self._songs: "", self._errors: "", parts.run_id: run.request_id, **running}
        drawn = 0.0
        async for _ in run.changes():
            if run.state is not State.RUNNING:
                break
            if (wait := drawn + _REDRAW_SECONDS - time.monotonic()) > 0:
                await asyncio.sleep(wait)  # events come faster than anybody reads
            drawn = time.monotonic()
            songs = views.growing_songs(run)
            yield {self._status: views.progress(run), **({self._songs: songs} if songs != shown else {})}
            shown = songs
        yield await self._ended(run, uploads)

    async def _ended(self, run: Run, uploads: Any) -> Updates:
        rest: Updates = {self._make: gr.update(interactive=True), self._cancel: gr.update(visible=False)}
        if run.error is not None:
            return self._refused(run.error)
        if run.state is not State.DONE or run.result is None:
            return rest | {self._status: views.progress(run), self._songs: views.NO_RESULT}
        choices = [(f"Take {song.variant_index + 1} · seed {song.seed}", song.name) for song in run.result.songs]
        first = library.Take(choices[0][1], run.result.songs[0], "")
        rest |= {
            self._status: views.progress(run),
            self._songs: views.finished_songs(run),
            self._after: gr.update(visible=True),
            self._take: gr.update(choices=choices, value=choices[0][1], visible=len(choices) > 1),
            self._receipt: views.receipt(first.receipt),
        }
        try:
            return rest | await self._parts.list_updates(self._parts.sessions.client(run.owner), uploads)
        except AcestepError as error:  # the song is there; the lists will come with the next load
            return rest | {self._status: views.failure(error, {})[0]}

    def _refused(self, error: AcestepError) -> Updates:
        said, marks = views.failure(error, self._parts.controls.labels)
        buttons = {self._make: gr.update(interactive=True), self._cancel: gr.update(visible=False)}
        return {self._status: said, self._errors: marks, self._songs: views.NO_RESULT, **buttons}

    async def _stop(self, run_id: str, request: gr.Request) -> Any:
        owner, _ = self._parts.who(request)
        run = self._parts.runs.get(owner, run_id)
        if run is not None:
            await run.cancel()
        return gr.update(interactive=False)

    async def _compare(self, a: str | None, b: str | None, request: gr.Request) -> str:
        if not a or not b:
            return ""
        try:
            _, client = self._parts.who(request)
            return views.comparison(await library.take(client, a), await library.take(client, b))
        except AcestepError as error:
            return views.failure(error, {})[0]

    async def _show_receipt(self, name: str | None, request: gr.Request) -> str:
        try:
            _, client = self._parts.who(request)
            return views.receipt((await library.take(client, name)).receipt if name else None)
        except AcestepError as error:
            return views.failure(error, {})[0]
