"""The controls that every task shares: what is sung, how it sounds, how it is sampled."""

import json
from collections.abc import Sequence

import gradio as gr

from acestep_client.requests import CFG_TYPES, FORMATS, SCHEDULERS
from acestep_rpc.v1 import sampling_pb2
from clients.web.controls import Controls
from clients.web.presets import CUSTOM, EXAMPLES, GENRES, TAG_IDEAS
from clients.web.requests import DURATION, MORE_ADAPTERS, NO_ADAPTER, TRAINED_SCALE

_APPEND_TAG = "(text) => (text.trim() ? text.replace(/[,\\s]+$/, '') + ', ' : '') + %s"
_APPEND_SECTION = "(text) => (text.trim() ? text.replace(/\\s+$/, '') + '\\n\\n' : '') + %s + '\\n'"
_FORMAT_WORDS = {
    "wav": "WAV",
    "wav24": "WAV 24 bit",
    "wav32f": "WAV 32 bit float",
    "flac": "FLAC",
    "mp3": "MP3",
    "ogg": "Ogg Vorbis",
    "opus": "Ogg Opus",
}


def build_prompt(controls: Controls) -> None:
    """Tags and lyrics, with what helps to write them."""
    first = EXAMPLES[0]
    preset = gr.Dropdown([CUSTOM, *GENRES], value=CUSTOM, label="Genre preset", info="Sets the tags; Custom clears them", elem_id="preset")
    tags = controls.text(
        "prompt.tags", "Tags", "Style, instruments, mood, voice and tempo, separated by commas", default=first.tags, lines=3, max_lines=6
    )
    with gr.Accordion("Tag ideas", open=False):
        for kind, ideas in TAG_IDEAS.items():
            _add_chips(kind, ideas, tags, _APPEND_TAG)
    lyrics = controls.text(
        "prompt.lyrics",
        "Lyrics",
        "Structure tags such as [verse] and [chorus] on lines of their own; [inst] alone for instrumental music; no style tags here",
        default=first.lyrics,
        lines=10,
        max_lines=24,
    )
    structure = list(controls.limits.capabilities.structure_tags)
    if structure:
        _add_chips("Add a section", structure, lyrics, _APPEND_SECTION)
    preset.input(lambda name: GENRES.get(name, ""), preset, tags, api_visibility="private", show_progress="hidden")


def build_basic(controls: Controls) -> None:
    """The settings that most songs need."""
    capabilities = controls.limits.capabilities
    with gr.Row():
        controls.slider("sampling.infer_step", "Steps", "More is slower and finer", step=1)
        controls.slider("sampling.guidance_scale", "Guidance scale", "How strictly the tags are followed", step=0.1, maximum=30)
    with gr.Row():
        controls.text("seeds", "Seeds", "The same seed is the same song; empty: drawn", placeholder="as 7, 42")
        controls.slider("num_variants", "Songs", "Made at once, each of its own seed", step=1)
    with gr.Row():
        formats = [(words, name) for name, words in _FORMAT_WORDS.items() if FORMATS[name] in capabilities.formats]
        controls.choice("output.format", "Format", choices=formats, default="wav")
        adapters = gr.Dropdown(
            [NO_ADAPTER, *capabilities.adapters],
            value=NO_ADAPTER,
            label="LoRA",
            info="An adapter of the server",
            allow_custom_value=True,
            elem_id="field-adapters",
        )
        controls.add("adapters", "LoRA", NO_ADAPTER, adapters)
    controls.slider("adapters.scale", "LoRA weight", step=0.1)


def build_advanced(controls: Controls) -> None:
    """The rest."""
    sampling = controls.limits.sampling
    with gr.Row():
        controls.choice(
            "sampling.scheduler_type",
            "Scheduler type",
            "Solver of the flow",
            choices=[(name, name) for name, number in SCHEDULERS.items() if number in controls.limits.capabilities.schedulers],
            default=_word(sampling_pb2.SchedulerType.Name(sampling.scheduler_type)),
            radio=True,
        )
        controls.choice(
            "sampling.cfg_type",
            "CFG type",
            "Guidance rule",
            choices=[(name, name) for name, number in CFG_TYPES.items() if number in controls.limits.capabilities.cfg_types],
            default=_word(sampling_pb2.CfgType.Name(sampling.cfg_type)),
            radio=True,
        )
    with gr.Row():
        controls.switch("sampling.use_erg_tag", "ERG for tags", default=sampling.use_erg_tag)
        controls.switch("sampling.use_erg_lyric", "ERG for lyrics", default=False)  # off on the page, as users of the reference know it
        controls.switch("sampling.use_erg_diffusion", "ERG for diffusion", default=sampling.use_erg_diffusion)
    with gr.Row():
        hint = "Above 1 together with the other one they replace the guidance scale"
        controls.slider("sampling.guidance_scale_text", "Guidance scale text", f"{hint}; try 5", step=0.1)
        controls.slider("sampling.guidance_scale_lyric", "Guidance scale lyric", f"{hint}; try 1.5", step=0.1)
    with gr.Row():
        controls.slider(
            "sampling.guidance_interval", "Guidance interval", "Share of the steps that is guided; 0.5: the middle half", step=0.01
        )
        controls.slider("sampling.guidance_interval_decay", "Guidance interval decay", "How far the guidance falls over them", step=0.01)
    with gr.Row():
        controls.slider("sampling.min_guidance_scale", "Min guidance scale", "Where a full decay ends", step=0.1)
        controls.slider("sampling.omega_scale", "Granularity scale (omega)", "0 leaves steps as they are", step=0.1)
    controls.text(
        "sampling.oss_steps", "OSS steps", "Steps to run instead of all", placeholder="16, 29, 52, 96, 129, 158, 172, 183, 189, 200"
    )
    controls.text("prompt.negative_tags", "Negative tags", "What to steer away from")
    with gr.Row():
        controls.text(MORE_ADAPTERS, "More LoRAs", "With their weights", placeholder="rap:0.8, choir:0.3")
        controls.switch(TRAINED_SCALE, "LoRAs with trained scale", "Times the scale that they were trained with", default=False)
    _build_reading(controls)


def _build_reading(controls: Controls) -> None:
    """How lyrics are read, and at what rate songs are written."""
    languages = [(code, code) for code in controls.limits.capabilities.lyric_languages]
    with gr.Row():
        controls.choice(
            "prompt.lyric_options.language", "Lyric language", "Of all lines", choices=[("found line by line", ""), *languages], default=""
        )
        rules = [("the server's", ""), ("reference", "reference"), ("revised", "revised")]
        controls.choice("prompt.lyric_options.lyric_rules", "Lyric rules", "As trained, or mended", choices=rules, default="")
        rates = [("48 kHz", "48000"), ("44.1 kHz", "44100")]
        controls.choice("output.sample_rate", "Sample rate", "Of the file", choices=rates, default="48000")
    with gr.Row():
        controls.switch("prompt.lyric_options.on_line_error", "Skip lines that cannot be read", default=False)
        controls.switch("prompt.lyric_options.tag_normalization", "Read [Verse 1] as [verse]", default=False)


def build_duration(controls: Controls) -> gr.Slider:
    """Length of a song that has no source."""
    return controls.slider(
        DURATION, "Audio duration", "Seconds; 0 or less: a random length of 30 to 240", step=0.00001, minimum=-1, default=-1
    )


def _add_chips(title: str, words: Sequence[str], target: gr.Textbox, script: str) -> None:
    gr.HTML(f'<span class="chips-title">{title}</span>')
    with gr.Row(elem_classes="chips"):
        for word in words:
            appended = script % json.dumps(word)
            gr.Button(word, size="sm", variant="secondary").click(None, target, target, js=appended, api_visibility="private")


def _word(name: str) -> str:
    return name.partition("_TYPE_")[2].lower()
