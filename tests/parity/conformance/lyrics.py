"""Lyrics to token ids. Needs the official vocabulary, which is not part of this project, beside the recordings."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encoder_svc.lyrics.lyric_tokenizer import LyricTokenizer

EMBEDDING_ROWS = 6693
_LATER = "lyrics in every language, issue 4/7"


def cases(recordings: Path, vocabulary: Path) -> Iterator[tuple[str, Callable[[], Mapping[str, Tensor]], Mapping[str, Tensor], str]]:
    """English snippets read as English; the rest comes with language detection."""
    recorded = json.loads(recordings.read_text())
    english = [entry for entry in recorded["forced_language"] if entry["lang"] == "en"]
    expected = {f"{number} {entry['text']}": torch.tensor(entry["ids"]) for number, entry in enumerate(english)}
    yield "lyrics.forced_language.en", lambda: _ids(vocabulary, english), expected, ""
    others = len(recorded["forced_language"]) - len(english)
    for name, number in (("forced_language.others", others), ("lines", len(recorded["lines"])), ("lyrics", len(recorded["lyrics"]))):
        yield f"lyrics.{name}", dict, {}, f"{number} recordings; {_LATER}"


def _ids(vocabulary: Path, entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Tensor]:
    tokenizer = LyricTokenizer(vocabulary, EMBEDDING_ROWS)
    outputs = {}
    for number, entry in enumerate(entries):
        (line,) = tokenizer.encode(entry["text"]).lines
        assert line.normalized_text == entry["normalised"], (line.normalized_text, entry["normalised"])
        outputs[f"{number} {entry['text']}"] = torch.tensor(line.ids)
    return outputs
