"""Lyrics to token ids. Needs the official vocabulary, which is not part of this project, beside the recordings."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encoder_svc.lyrics import segmenter
from encoder_svc.lyrics.lyric_tokenizer import EncodedLine, LyricTokenizer
from training.lyric_ids import training_lyric_ids

EMBEDDING_ROWS = 6693


def cases(recordings: Path, vocabulary: Path) -> Iterator[tuple[str, Callable[[], Mapping[str, Tensor]], Mapping[str, Tensor], str]]:
    """Every recording: lines and whole lyrics in the language that is found, snippets in a given one, and ids of training."""
    recorded = json.loads(recordings.read_text())

    def tokenizer() -> LyricTokenizer:
        return LyricTokenizer(vocabulary, EMBEDDING_ROWS)

    def ids_of(encode: Callable[[LyricTokenizer, Any], list[int]], entries: list[Any]) -> Callable[[], Mapping[str, Tensor]]:
        def run() -> Mapping[str, Tensor]:
            ours = tokenizer()
            return {_name(number, entry): torch.tensor(encode(ours, entry)) for number, entry in enumerate(entries)}

        return run

    def expected(entries: list[Any], key: str) -> Mapping[str, Tensor]:
        return {_name(number, entry): torch.tensor(entry[key]) for number, entry in enumerate(entries)}

    for kind, encode, key in (
        ("lines", _line, "ids"),
        ("forced_language", _forced, "ids"),
        ("lyrics", _lyrics, "ids"),
        ("lyrics", _training, "training_ids"),
    ):
        entries = recorded[kind]
        yield f"lyrics.{key if key != 'ids' else kind}", ids_of(encode, entries), expected(entries, key), ""


def _name(number: int, entry: Mapping[str, Any]) -> str:
    return f"{number} {entry.get('text', entry.get('lyrics'))!r}"


def _line(tokenizer: LyricTokenizer, entry: Mapping[str, Any]) -> list[int]:
    """Ids of a line in the language found, which has to be the recorded one, segments and counts included."""
    (line,) = tokenizer.encode(entry["text"]).lines
    cut = segmenter.segment_line(entry["text"].strip())
    counts = sorted(cut.counts.items(), key=lambda item: -item[1]) or [("zh", 0)]
    assert [list(count) for count in counts] == entry["counts"], (entry["text"], counts)
    assert [[segment.language, segment.text] for segment in cut.segments] == entry["segments"], (entry["text"], cut.segments)
    assert line.language == entry["encode_lang"], (entry["text"], line.detection)
    return _checked(line, entry)


def _forced(tokenizer: LyricTokenizer, entry: Mapping[str, Any]) -> list[int]:
    return _checked(tokenizer.encode_line(entry["text"], entry["lang"]), entry)


def _checked(line: EncodedLine, entry: Mapping[str, Any]) -> list[int]:
    assert line.normalized_text == entry["normalised"], (entry["text"], line.normalized_text, entry["normalised"])
    return list(line.ids)


def _lyrics(tokenizer: LyricTokenizer, entry: Mapping[str, Any]) -> list[int]:
    """Ids of whole lyrics. Empty ones are one blank line here: both the reference and we go around the tokenizer for them."""
    return tokenizer.encode_lines(entry["lyrics"].split("\n")).ids


def _training(tokenizer: LyricTokenizer, entry: Mapping[str, Any]) -> list[int]:
    return list(training_lyric_ids(entry["lyrics"], tokenizer).ids)
