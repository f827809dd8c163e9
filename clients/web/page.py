"""The page: a bar of tabs, what is the tab's own, and below it the song on the left and what came of it on the right."""

from collections.abc import Callable

import gradio as gr

from acestep_rpc.v1 import music_pb2
from clients.web import views
from clients.web.controls import Controls
from clients.web.limits import Limits
from clients.web.parameter_files import build_loader
from clients.web.parts import TASK_LABELS, Parts, Updates
from clients.web.result_panel import ResultPanel
from clients.web.runs import Runs
from clients.web.sessions import Sessions
from clients.web.song_actions import SongActions
from clients.web.song_form import build_advanced, build_basic, build_duration, build_prompt
from clients.web.tabs import adapters, audio_to_audio, edit, extend, history, lyrics, repaint, retake, text_to_music

TITLE = "ACE-Step"
HEAD = '<link rel="stylesheet" href="/page/page.css"><script src="/page/page.js" defer></script>'
_TABS: dict[str, tuple[str, Callable[[Parts], None]]] = {
    "text_to_music": ("Text to music", text_to_music.build),
    "retake": ("Retake", retake.build),
    "repaint": ("Repaint", repaint.build),
    "edit": ("Edit", edit.build),
    "extend": ("Extend", extend.build),
    "audio_to_audio": ("Audio to audio", audio_to_audio.build),
    "lyrics": ("Lyrics", lyrics.build),
    "adapters": ("Adapters", adapters.build),
}
_DELETE_UPLOADS_SECONDS = (600, 3600)  # look so often, delete what is so old: the server has its own copy
_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.Theme:
    """Calm, and made of fonts that every system has: nothing is fetched from elsewhere."""
    return gr.themes.Default(primary_hue="teal", neutral_hue="slate", radius_size="md", font=_FONT, font_mono=_MONO).set(
        # Darker than Gradio's own, to be read with ease: text against its background has a contrast of 4.5 or more.
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_600",
        button_cancel_background_fill="*neutral_100",
        button_cancel_background_fill_dark="*neutral_700",
        button_cancel_background_fill_hover="#fee2e2",
        button_cancel_background_fill_hover_dark="#7f1d1d",
        button_cancel_text_color="#b91c1c",
        button_cancel_text_color_dark="#fecaca",
        button_cancel_text_color_hover="#b91c1c",
        button_cancel_text_color_hover_dark="#fecaca",
        button_secondary_text_color="*neutral_800",
        slider_color="*primary_600",
        color_accent="*primary_700",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        error_text_color="#b91c1c",
        error_text_color_dark="#fca5a5",
        border_color_accent_subdued="*primary_300",
    )


def build_page(capabilities: music_pb2.GetCapabilitiesResponse, sessions: Sessions, runs: Runs) -> gr.Blocks:
    """All of it.

    Args:
        capabilities: Of the server: what controls offer.
        sessions: Who is there.
        runs: What is in the making.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=_DELETE_UPLOADS_SECONDS) as page:
        parts = Parts(Controls(Limits(capabilities)), sessions, runs)
        actions = SongActions(parts)
        gr.HTML(views.masthead(capabilities, sessions.need_login))
        with gr.Tabs(elem_id="tasks") as parts.tabs:
            for name, (label, build) in _TABS.items():
                if name in TASK_LABELS and name not in capabilities.tasks:
                    continue
                with gr.Tab(label, id=name) as parts.on_open[name]:
                    build(parts)
            with gr.Tab("History", id="history") as parts.on_open["history"]:
                history.build(parts, actions)
        with gr.Column(elem_id="workspace") as parts.workspace, gr.Row():
            with gr.Column(scale=5, min_width=300, elem_id="song"):
                build_duration(parts.controls)
                build_prompt(parts.controls)
                build_basic(parts.controls)
                with gr.Accordion("Advanced", open=False, elem_id="advanced"):
                    build_advanced(parts.controls)
                with gr.Row(elem_id="make-row"):
                    parts.make = gr.Button(TASK_LABELS["text_to_music"], variant="primary", size="lg", elem_id="make", scale=3)
                    cancel = gr.Button("Cancel", variant="stop", size="lg", elem_id="cancel", visible=False, scale=1)
                build_loader(parts)
            with gr.Column(scale=6, min_width=300, elem_id="result"):
                panel = ResultPanel(parts, actions)
                panel.build()
        for connect in parts.late:
            connect()
        panel.connect(page, parts.make, cancel)
        for name, tab in parts.on_open.items():
            tab.select(_show(parts, name), None, parts.task_outputs, api_visibility="private", show_progress="hidden")
    return page.queue(default_concurrency_limit=None)  # the server has limits; visitors do not wait for each other here


def _show(parts: Parts, name: str) -> Callable[[], Updates]:
    return lambda: parts.show_task(name)
