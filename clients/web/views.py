"""What the page shows of runs, songs and errors, as HTML. Everything that came from outside is escaped."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from acestep_client.requests import FORMATS
from acestep_rpc.errors import AcestepError, InvalidRequest, Overloaded, QuotaExceeded, StageUnavailable, Unauthenticated
from acestep_rpc.v1 import music_pb2
from clients.web.controls import element_id
from clients.web.library import Take
from clients.web.runs import Run, State

_STAGES = {
    music_pb2.STAGE_QUEUED: "Waiting",
    music_pb2.STAGE_ENCODE: "Reading words",
    music_pb2.STAGE_SOURCE: "Hearing the source",
    music_pb2.STAGE_SAMPLE: "Composing",
    music_pb2.STAGE_DECODE: "Sounding",
}
_ALIASES = {  # fields that have no control of their own
    "repaint.regions": "repaint.regions[0].start_seconds",
    "retake.duration_seconds": "text_to_music.duration_seconds",
    "prompt": "prompt.tags",
    "edit.target": "edit.target.tags",
    "extend": "extend.right_seconds",
    "lyric_options.language": "prompt.lyric_options.language",
    "adapters.name": "adapters",
}
NO_RESULT = (
    '<div class="empty-result"><strong>Your song appears here</strong>Describe it on the left and press the button. '
    "You can listen while the rest is still being made.</div>"
)
_FORMAT_NAMES = {number: name for name, number in FORMATS.items()}


def masthead(capabilities: music_pb2.GetCapabilitiesResponse, need_login: bool) -> str:
    """Title, and where songs are made."""
    devices = sorted({f"{stage.device} · {stage.dtype}" for stage in capabilities.stages})
    where = html.escape(f"{', '.join(devices)} · server {capabilities.version}")
    out = '<a class="sign-out" href="/sign-out">Sign out</a>' if need_login else ""
    return f'<header id="masthead"><h1>ACE-Step</h1><span class="where">{where}</span>{out}</header>'


def progress(run: Run) -> str:
    """Stage, step and time left of a run; nothing once it is done."""
    match run.state:
        case State.DONE:
            return warnings_of(run.result)
        case State.CANCELLED:
            return notice("Cancelled. The server has stopped working on it.")
        case State.FAILED:
            return ""
    now = run.progress
    share = f'value="{now.step}" max="{now.total}"' if now.total else ""
    facts = [f"step {now.step} of {now.total}"] if now.total > 1 else []
    if now.HasField("eta") and now.step < now.total:
        facts.append(f"about {max(1, round(now.eta.ToTimedelta().total_seconds()))} s left")
    name = _STAGES.get(now.stage, "Working")
    steps = "".join(
        f'<li class="{"over" if stage < now.stage else "now" if stage == now.stage else ""}">{words}</li>'
        for stage, words in _STAGES.items()
        if stage != music_pb2.STAGE_SOURCE or run.request.WhichOneof("task") not in ("text_to_music", "retake")
    )
    return (
        f'<div class="run"><div class="run-line"><strong role="status">{name}</strong><span>{" · ".join(facts)}</span></div>'
        f'<progress aria-label="{name}" {share}></progress><ul class="run-stages">{steps}</ul></div>'
    )


def growing_songs(run: Run) -> str:
    """Players of what can be heard already."""
    return "".join(
        f'<song-player key="{run.request_id}/{index}" live="/media/runs/{run.request_id}/{index}" '
        f'label="Take {index + 1}" facts="seed {run.seeds[index]} · still being made"></song-player>'
        for index in sorted(run.audio)
    )


def finished_songs(run: Run) -> str:
    """Players of a run's songs."""
    assert run.result is not None
    songs = run.result.songs
    return "".join(
        player(
            Take(song.name, song, ""),
            "Your song" if len(songs) == 1 else f"Take {song.variant_index + 1}",
            f"{run.request_id}/{song.variant_index}",
        )
        for song in songs
    )


def player(take: Take, label: str | None = None, key: str = "") -> str:
    """A song with waveform, spectrogram and downloads."""
    song = take.song
    facts = f"{song.duration_seconds:.1f} s · seed {song.seed} · {song.sample_rate / 1000:g} kHz"
    attributes = {
        "name": take.name,
        "label": label or take.title,
        "facts": facts,
        "duration": f"{song.duration_seconds:.3f}",
        "format": _FORMAT_NAMES.get(song.format, "wav"),
        "key": key,
    }
    return element("song-player", attributes)


def source_player(name: str, label: str, pick: bool) -> str:
    """A source's waveform; with `pick`, stretches of it can be chosen."""
    if not name:
        return ""
    attributes = {"name": name, "label": label, "plain": ""}
    if pick:
        fields = {"start": "repaint.regions[0].start_seconds", "end": "repaint.regions[0].end_seconds", "more": "repaint.regions.more"}
        attributes |= {"pick": ""} | {f"pick-{which}": element_id(field) for which, field in fields.items()}
    return element("song-player", attributes)


def comparison(a: Take | None, b: Take | None) -> str:
    """Two takes side by side."""
    if a is None or b is None:
        return ""
    attributes: dict[str, str] = {}
    for side, take in (("a", a), ("b", b)):
        attributes |= {f"{side}-name": take.name, f"{side}-label": f"{side.upper()}: {take.title}"}
        attributes |= {f"{side}-facts": f"seed {take.song.seed}", f"{side}-duration": f"{take.song.duration_seconds:.3f}"}
    return element("song-compare", attributes)


def receipt(content: Mapping[str, Any] | None) -> str:
    """A receipt to read."""
    if not content:
        return '<p class="receipt">No song is chosen.</p>'
    text = html.escape(json.dumps(content, indent=2, ensure_ascii=False))
    return f'<pre class="receipt" tabindex="0" aria-label="Parameters of the song">{text}</pre>'


def notice(text: str, items: Iterable[str] = (), bad: bool = False) -> str:
    """A message on the page."""
    listed = "".join(f"<li>{html.escape(item)}</li>" for item in items)
    kind, role = ("notice bad", "alert") if bad else ("notice", "status")
    return f'<div class="{kind}" role="{role}">{html.escape(text)}{f"<ul>{listed}</ul>" if listed else ""}</div>'


def warnings_of(result: music_pb2.GenerateResult | None) -> str:
    """What an author should know of a result."""
    if result is None:
        return ""
    changes = [
        f"line {change.new_line_number}: “{' / '.join(change.old_lines)}” became “{' / '.join(change.new_lines)}”"
        for change in result.lyric_changes
    ]
    said = notice("Good to know", result.warnings) if result.warnings else ""
    return said + (notice("Lyrics that changed", changes) if changes else "")


def failure(error: AcestepError, labels: Mapping[str, str]) -> tuple[str, str]:
    """An error as a message, and as marks at the controls that it is about.

    Args:
        error: What the server, or the page itself, refused.
        labels: Of controls, by field.
    """
    if isinstance(error, InvalidRequest):
        found = [(control_of(field, labels), field, text) for field, text in error.violations]
        items = [f"{labels.get(control or '', field)}: {text}" for control, field, text in found]
        marks = [(element_id(control), text) for control, _, text in found if control is not None]
        return notice("Some settings do not fit", items, bad=True), marked(marks)
    match error:
        case Overloaded() | StageUnavailable():
            said = f"The server has no room or no answer right now; try again in {max(1, round(error.retry_after_seconds))} s. {error}"
        case QuotaExceeded():
            said = f"Your quota is used up: {error}"
        case Unauthenticated():
            said = "You are not signed in any more. Load the page again."
        case _:
            said = str(error)
    return notice(said, bad=True), marked(())


def marked(marks: Sequence[tuple[str, str]]) -> str:
    """Errors for page.js to put under their controls: element ids and words."""
    return element("field-errors", {"errors": json.dumps(marks)}) if marks else ""


def control_of(field: str, labels: Mapping[str, str]) -> str | None:
    """The control of a field that a server names, as "adapters[0].scale"; None: there is none."""
    if field in labels:
        return field
    plain = ".".join(part.partition("[")[0] for part in field.split("."))
    for candidate in (plain, _ALIASES.get(plain, "")):
        if candidate in labels:
            return candidate
    if plain == "source":
        return None
    return control_of(field.rpartition(".")[0], labels) if "." in field else None


def element(tag: str, attributes: Mapping[str, str]) -> str:
    """An element without content."""
    words = " ".join(f'{name}="{html.escape(value)}"' for name, value in attributes.items())
    return f"<{tag} {words}></{tag}>"
