"""Lyrics to token ids. Needs the official vocabulary, which is not part of this project, beside the recordings."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encoder_svc.lyrics.lyric_tokenizer import LyricTokenizer
from training.init_tokenizers import LANGUAGE_IDS
from training.lyric_ids import training_lyric_ids

EMBEDDING_ROWS = 6693
_LATER = "lyrics in every language, issue 4/7"


def cases(recordings: Path, vocabulary: Path) -> Iterator[tuple[str, Callable[[], Mapping[str, Tensor]], Mapping[str, Tensor], str]]:
    """English snippets read as English, and lyrics of training in one English segment; the rest comes with language detection."""
    recorded = json.loads(recordings.read_text())
    english = [entry for entry in recorded["forced_language"] if entry["lang"] == "en"]
    expected = {f"{number} {entry['text']}": torch.tensor(entry["ids"]) for number, entry in enumerate(english)}
    yield "lyrics.forced_language.en", lambda: _ids(vocabulary, english), expected, ""
    segments = {f"{number}": entry for number, entry in enumerate(recorded["lyrics"]) if _is_one_english_segment(entry)}
    expected_training = {number: torch.tensor(entry["training_ids"]) for number, entry in segments.items()}
    yield "lyrics.training_ids.en", lambda: _training_ids(vocabulary, segments), expected_training, ""
    left = {
        "forced_language.others": len(recorded["forced_language"]) - len(english),
        "lines": len(recorded["lines"]),
        "lyrics": len(recorded["lyrics"]),
        "training_ids.others": len(recorded["lyrics"]) - len(segments),
    }
    for name, number in left.items():
        yield f"lyrics.{name}", dict, {}, f"{number} recordings; {_LATER}"


def _ids(vocabulary: Path, entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Tensor]:
    tokenizer = LyricTokenizer(vocabulary, EMBEDDING_ROWS)
    outputs = {}
    for number, entry in enumerate(entries):
        (line,) = tokenizer.encode(entry["text"]).lines
        assert line.normalized_text == entry["normalised"], (line.normalized_text, entry["normalised"])
        outputs[f"{number} {entry['text']}"] = torch.tensor(line.ids)
    return outputs


def _is_one_english_segment(entry: Mapping[str, Any]) -> bool:
    """Whether all of the lyrics was encoded as English in one piece: digits and carriage returns are where the detector cuts."""
    others = set(LANGUAGE_IDS.values()) - {LANGUAGE_IDS["[en]"]}
    cut = any(character.isdigit() or character == "\r" for character in entry["lyrics"])
    return not cut and others.isdisjoint(entry["training_ids"])


def _training_ids(vocabulary: Path, entries: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Tensor]:
    tokenizer = LyricTokenizer(vocabulary, EMBEDDING_ROWS)
    return {name: torch.tensor(training_lyric_ids(entry["lyrics"], tokenizer).ids) for name, entry in entries.items()}
