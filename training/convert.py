"""`acestep-train convert`: songs of a folder, a JSONL file or a parquet file to a dataset folder.

A folder holds X.mp3, X.wav, X.flac or X.ogg with X_prompt.txt (tags, ", " between them) and X_lyrics.txt, and possibly X.json with the
columns of a record (keys, tags, speaker_emb_path, norm_lyrics, recaption), whose values go before those of the texts. Lines of JSONL and
rows of parquet have the same columns; without `filename` the audio is the file named after the key. Relative paths start at the data.
What cannot be used is reported by name, on the screen and in NAME.report.json.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from training.records import FEATURES, Record, parse_record, write_dataset
from training.report import Outcome, Problem, Report, write_json

AUDIO_SUFFIXES = (".mp3", ".wav", ".flac", ".ogg")
PROMPT, LYRICS = "_prompt.txt", "_lyrics.txt"

Row = tuple[str, Mapping[str, Any] | Problem]
"""Where a row was found, and the row or why there is none."""


class SourceError(ValueError):
    """There is nothing to convert."""


def convert(source: Path) -> tuple[list[Record], Report]:
    """Read records.

    Args:
        source: A folder, or a .jsonl or .parquet file.
    Raises:
        SourceError: It is none of these.
    """
    if source.is_dir():
        rows, folder = folder_rows(source), source
    elif source.suffix == ".jsonl" and source.is_file():
        rows, folder = jsonl_rows(source), source.parent
    elif source.suffix == ".parquet" and source.is_file():
        rows, folder = parquet_rows(source), source.parent
    else:
        raise SourceError(f"{source} is no folder, .jsonl or .parquet file")
    report = Report()
    records: dict[str, Record] = {}
    for where, row in rows:
        if isinstance(row, Problem):
            report.problems.append(row)
            continue
        record, problems = parse_record(_located(row, folder), where)
        report.problems += problems
        if record is None:
            continue
        if record.key in records:
            report.problems.append(Problem(where, "keys", "the key of another song", record.key))
        elif not Path(record.filename).is_file():
            report.problems.append(Problem(record.key, "filename", "no such file", record.filename))
        else:
            records[record.key] = record
    report.usable = len(records)
    return list(records.values()), report


def _located(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The row with absolute paths, the missing one of key and audio file found from the other."""
    located = dict(row)
    filename, key = row.get("filename"), row.get("keys")
    if not filename and isinstance(key, str) and key and Path(key).name == key:
        beside = (folder / f"{key}{suffix}" for suffix in AUDIO_SUFFIXES)
        filename = next((str(path) for path in beside if path.is_file()), "")
    if isinstance(filename, str) and filename:
        located["filename"] = str((folder / filename).resolve())
        located["keys"] = key or Path(filename).stem
    speaker = row.get("speaker_emb_path")
    if isinstance(speaker, str) and speaker:
        located["speaker_emb_path"] = str((folder / speaker).resolve())
    return located


def folder_rows(folder: Path) -> Iterator[Row]:
    """One row for each name that has audio, a prompt or lyrics directly in the folder."""
    names: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in AUDIO_SUFFIXES:
            names.setdefault(path.stem, []).append(path)
        for ending in (PROMPT, LYRICS):
            if path.name.endswith(ending):
                names.setdefault(path.name.removesuffix(ending), [])
    for name, audio in sorted(names.items()):
        if len(audio) == 1:
            yield from _folder_row(folder, name, audio[0])
        elif audio:
            files = ", ".join(path.name for path in audio)
            yield name, Problem(name, "filename", "several audio files of one name", files)
        else:
            yield name, Problem(name, "filename", "prompt or lyrics without audio", f"expected {name}{'|'.join(AUDIO_SUFFIXES)}")


def _folder_row(folder: Path, name: str, audio: Path) -> Iterator[Row]:
    row: dict[str, Any] = {"keys": name}
    try:
        labels = folder / f"{name}.json"
        if labels.is_file():
            values = json.loads(labels.read_text(encoding="utf-8"))
            if isinstance(values, dict) and "keys" in values:
                row |= {column: value for column, value in values.items() if column in FEATURES}
            else:
                yield name, Problem(name, labels.name, "not a record: no `keys`", outcome=Outcome.IGNORED)
        for column, ending in (("tags", PROMPT), ("norm_lyrics", LYRICS)):
            if row.get(column) is None:
                text = (folder / f"{name}{ending}").read_text(encoding="utf-8").strip()
                row[column] = text.split(", ") if column == "tags" else text
    except FileNotFoundError as error:
        yield name, Problem(name, "tags" if str(error.filename).endswith(PROMPT) else "norm_lyrics", "no text file", str(error.filename))
    except (OSError, ValueError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        yield name, Problem(name, "files", "unreadable text", str(error))
    else:
        yield name, row | {"filename": audio.name}


def jsonl_rows(path: Path) -> Iterator[Row]:
    """One row for each line that is not blank."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            yield where, Problem(where, "line", "not JSON", str(error))
            continue
        yield where, row if isinstance(row, dict) else Problem(where, "line", "not an object", type(row).__name__)


def parquet_rows(path: Path) -> Iterator[Row]:
    """One row for each row.

    Raises:
        SourceError: The file is damaged.
    """
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows: Iterable[Any] = (row for batch in file.iter_batches() for row in batch.to_pylist())
            yield from ((f"row {number}", row) for number, row in enumerate(rows))
    except (pyarrow.ArrowException, OSError) as error:
        raise SourceError(f"{path}: {error}") from error


def main(arguments: list[str] | None = None) -> int:
    """Write the dataset and its report; 1 when nothing can be used."""
    parser = argparse.ArgumentParser(prog="acestep-train convert", description=__doc__)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder, .jsonl or .parquet file; default: %(default)s")
    parser.add_argument("--repeat_count", type=int, default=1, help="rows of each song; preprocessing reads one of them")
    parser.add_argument("--output_name", type=Path, default=Path("zh_lora_dataset"), help="folder to write; default: %(default)s")
    options = parser.parse_args(arguments)
    if options.repeat_count < 1:
        parser.error("--repeat_count is at least 1")
    if options.output_name.exists():
        parser.error(f"{options.output_name} exists")
    try:
        records, report = convert(options.data_dir)
    except SourceError as error:
        print(f"acestep-train convert: {error}", file=sys.stderr)
        return 1
    write_json(options.output_name.with_name(f"{options.output_name.name}.report.json"), report.to_json())
    print(report)
    if not records:
        print(f"acestep-train convert: nothing in {options.data_dir} can be used", file=sys.stderr)
        return 1
    write_dataset(options.output_name, records, options.repeat_count)
    print(f"{len(records) * options.repeat_count} rows in {options.output_name}")
    return 0
