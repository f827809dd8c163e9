"""The record of a song in a training dataset: a Hugging Face `datasets` folder, written with `save_to_disk`, one row a song.

It knows the columns and their types; it opens none of the files that they name.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets

from training.report import Outcome, Problem

CAPTION_NAMES = ("simplified", "expanded", "descriptive", "synonyms", "use_cases", "analysis")
"""Keys of `recaption`. Users write an object under `analysis`: what is no string is no caption, and is left out."""
FEATURES = datasets.Features(
    {
        "keys": datasets.Value("string"),
        "filename": datasets.Value("string"),
        "tags": datasets.List(datasets.Value("string")),
        "speaker_emb_path": datasets.Value("string"),
        "norm_lyrics": datasets.Value("string"),
        "recaption": {name: datasets.Value("string") for name in CAPTION_NAMES},
    }
)


class RecordError(ValueError):
    """A dataset folder cannot be read."""


@dataclass(frozen=True)
class Record:
    """One song.

    Attributes:
        key: Unique; no slash, as it names the song's tensors.
        filename: Of the audio.
        tags: Of the prompt; none: the prompt is "music".
        speaker_emb_path: File of a speaker's vector; empty: none.
        norm_lyrics: With structure tags; empty: instrumental.
        recaption: Other prompts, none of them empty.
    """

    key: str
    filename: str
    tags: tuple[str, ...] = ()
    speaker_emb_path: str = ""
    norm_lyrics: str = ""
    recaption: Mapping[str, str] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """The row of `FEATURES`."""
        return {
            "keys": self.key,
            "filename": self.filename,
            "tags": list(self.tags),
            "speaker_emb_path": self.speaker_emb_path,
            "norm_lyrics": self.norm_lyrics,
            "recaption": {name: self.recaption.get(name) for name in CAPTION_NAMES},
        }


def parse_record(row: Mapping[str, Any], where: str) -> tuple[Record | None, list[Problem]]:
    """Check a row, or an object of the users' JSON form.

    Args:
        row: Columns by name; nulls and missing columns are empty values.
        where: Names the row in problems as long as it has no key.
    Returns:
        The record, None if it cannot be used, and what is wrong with it.
    """
    given = row.get("keys")
    key = given if isinstance(given, str) and given else where
    problems = []

    def text(name: str) -> str:
        value = row.get(name)
        if value is None or isinstance(value, str):
            return value or ""
        problems.append(Problem(key, name, "not a string", type(value).__name__))
        return ""

    if not text("keys").strip():
        problems.append(Problem(key, "keys", "empty"))
    elif "/" in key or not key.isprintable():
        problems.append(Problem(key, "keys", "has a slash or a control character", repr(key)))
    filename = text("filename")
    if not filename:
        problems.append(Problem(key, "filename", "empty"))
    tags, more = _tags(key, row.get("tags"))
    problems += more
    recaption, more = _recaption(key, row.get("recaption"))
    problems += more
    record = Record(key, filename, tags, text("speaker_emb_path"), text("norm_lyrics"), recaption)
    return (None if any(problem.outcome is Outcome.REJECTED for problem in problems) else record), problems


def _tags(key: str, value: Any) -> tuple[tuple[str, ...], list[Problem]]:
    """A list of strings, or one string with commas."""
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list | tuple | None) or any(not isinstance(tag, str) for tag in value or ()):
        return (), [Problem(key, "tags", "not a list of strings")]
    return tuple(tag.strip() for tag in value or () if tag.strip()), []


def _recaption(key: str, value: Any) -> tuple[dict[str, str], list[Problem]]:
    if value is None:
        return {}, []
    if not isinstance(value, Mapping):
        return {}, [Problem(key, "recaption", "not an object", type(value).__name__)]
    strings = {name: text for name, text in value.items() if isinstance(text, str) and text.strip()}
    unknown = sorted(set(strings) - set(CAPTION_NAMES))
    problems = [Problem(key, "recaption", "a caption of an unknown name", name, Outcome.IGNORED) for name in unknown]
    return {name: strings[name] for name in CAPTION_NAMES if name in strings}, problems


def write_dataset(folder: Path, records: list[Record], repeat_count: int = 1) -> None:
    """Write records as a dataset folder, all of them `repeat_count` times over."""
    rows = datasets.Dataset.from_list([record.to_row() for record in records], features=FEATURES)
    datasets.concatenate_datasets([rows] * repeat_count).save_to_disk(folder)


@dataclass(frozen=True)
class Records:
    """What a dataset folder holds.

    Attributes:
        records: Usable ones, each once.
        problems: Of the others.
        repeats: Rows that say again what an earlier one says.
    """

    records: tuple[Record, ...]
    problems: tuple[Problem, ...]
    repeats: int


def read_dataset(folder: Path) -> Records:
    """Read a dataset folder.

    Raises:
        RecordError: It is none.
    """
    known: dict[str, Record] = {}
    problems: list[Problem] = []
    repeats = 0
    for number, row in enumerate(_rows(folder)):
        record, found = parse_record(row, f"row {number}")
        if record is not None and known.get(record.key) == record:
            repeats += 1
            continue
        if record is not None and record.key in known:
            found.append(Problem(f"row {number}", "keys", "the key of another song", record.key))
        elif record is not None:
            known[record.key] = record
        problems += found
    return Records(tuple(known.values()), tuple(problems), repeats)


def _rows(folder: Path) -> Iterator[Mapping[str, Any]]:
    try:
        rows = datasets.load_from_disk(folder)
    except (OSError, ValueError) as error:
        raise RecordError(f"{folder}: {error}") from error
    if not isinstance(rows, datasets.Dataset):
        raise RecordError(f"{folder} holds several datasets ({', '.join(map(str, rows))}): name the folder of one of them")
    yield from rows
