"""`acestep batch`: many songs of one file, as jobs of a server; an interrupted run goes on where it stopped."""

import argparse
import asyncio
import csv
import hashlib
import json
import re
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep_client import AsyncClient, BrokenTransfer, Job, song_request
from acestep_client.arriving import variant_path
from acestep_client.parameters import UnusableParameters, recipe_of, set_source
from acestep_client.songs import parameters_path
from acestep_rpc.errors import AcestepError, Overloaded, StageUnavailable
from acestep_rpc.v1 import music_pb2
from clients.cli.connection import open_client
from clients.cli.failures import EXIT_CODES_HELP, CommandFailed, ExitCode
from clients.cli.generate import add_server_arguments, check_server_arguments, server
from clients.cli.like import extension

_DESCRIPTION = r"""
Make the songs of a file: JSON lines, or CSV with a header. Each is a job of the server, named after what it asks for.
Run again after an interruption, the command fetches what was made meanwhile and makes the rest; nothing is made twice.

  acestep batch songs.jsonl --server localhost:7860 --output-dir out
  acestep batch songs.csv --server localhost:7860 --output-dir out --concurrency 8 --json > report.jsonl

A line of songs.jsonl, and a songs.csv:
  {"id": "intro", "tags": "funk, 105 bpm", "lyrics": "[verse]\nhello", "duration_seconds": 30, "seeds": [1, 2]}

  id,tags,duration_seconds,infer_step,audio_format
  intro,"funk, 105 bpm",30,60,flac

Fields: id (name of the file; default: the number of the line), tags, lyrics, lyrics_file, negative_tags, duration_seconds,
seeds, num_variants, audio_format (wav, wav24, wav32f, flac, mp3, ogg, opus), sample_rate, priority, and those of sampling
(infer_step, guidance_scale, scheduler_type, ...). An object with "prompt" is taken for the parameters of a song, as they
stand beside one. The paths are printed on standard output, a report on standard error.
"""
_WHOLE = ("num_variants", "sample_rate", "infer_step")
_LISTS = ("seeds", "oss_steps")
_SWITCHES = ("use_erg_tag", "use_erg_lyric", "use_erg_diffusion")
_WORDS = ("tags", "lyrics", "negative_tags", "audio_format", "priority", "scheduler_type", "cfg_type")
_NUMBERS = (
    "duration_seconds",
    "guidance_scale",
    "omega_scale",
    "guidance_interval",
    "guidance_interval_decay",
    "min_guidance_scale",
    "guidance_scale_text",
    "guidance_scale_lyric",
)
_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True)
class Item:
    """One line of the file.

    Attributes:
        name: Of its songs' files.
        request: What it asks for; its request_id is made of that.
    """

    name: str
    request: music_pb2.GenerateRequest


@dataclass(frozen=True)
class _Outcome:
    name: str
    status: str
    paths: tuple[Path, ...] = ()
    error: str = ""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "batch",
        help="make the songs of a JSONL or CSV file",
        description=_DESCRIPTION,
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="songs.jsonl or songs.csv, UTF-8")
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="folder of the songs; made if it is not there")
    parser.add_argument("--concurrency", type=int, default=4, metavar="N", help="jobs under way at a time (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line of the file instead of paths")
    parser.add_argument("--quiet", action="store_true", help="print no line on standard error for each song")
    add_server_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Make what is missing, report; a code of its own if some could not be made."""
    check_server_arguments(args)
    if args.concurrency < 1:
        raise CommandFailed(f"--concurrency {args.concurrency}: at least 1", ExitCode.USAGE)
    items = read_items(args.file)
    try:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        outcomes = asyncio.run(_make_all(args, items))
    except OSError as error:
        raise CommandFailed(str(error)) from error
    counts = {status: sum(outcome.status == status for outcome in outcomes) for status in ("made", "there", "failed")}
    print(f"acestep: {counts['made']} made, {counts['there']} were there, {counts['failed']} failed", file=sys.stderr)
    return ExitCode.DIFFERENT if counts["failed"] else ExitCode.OK


def read_items(path: Path) -> list[Item]:
    """What a file asks for, all of it checked.

    Raises:
        CommandFailed: The file cannot be read, or lines of it are wrong; each is named.
    """
    items, problems, names = [], [], set()
    for number, row in _rows(path):
        try:
            item = _item(path.parent, number, row)
            if item.name in names:
                raise ValueError(f"id: {item.name!r} is there twice")
        except (TypeError, ValueError, OSError) as error:
            problems.append(f"{path}, line {number}: {error}")
            continue
        names.add(item.name)
        items.append(item)
    if problems:
        raise CommandFailed("\n".join(problems), ExitCode.USAGE)
    return items


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Line numbers and fields."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".csv":
                reader = csv.DictReader(file)
                for row in reader:
                    yield reader.line_num, {name: _cell(name, value) for name, value in row.items() if name is not None and value}
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError(f"line {number} is no JSON object")
                    yield number, row
    except (OSError, ValueError) as error:
        raise CommandFailed(f"{path}: {error}", ExitCode.USAGE) from error


def _cell(name: str, text: str) -> Any:
    """A value of a CSV file, typed by its column."""
    try:
        if name in _WHOLE:
            return int(text)
        if name in _NUMBERS:
            return float(text)
        if name in _LISTS:
            return [int(part) for part in re.split(r"[\s,;]+", text.strip())]
        if name in _SWITCHES:
            return {"true": True, "false": False}[text.strip().lower()]
    except (KeyError, ValueError):
        raise ValueError(f"{name}: {text!r} cannot be read") from None
    return text.replace("\\n", "\n") if name == "lyrics" else text


def _item(folder: Path, number: int, row: Mapping[str, Any]) -> Item:
    fields = dict(row)
    name = str(fields.pop("id", f"{number:04}"))
    if not _ID.fullmatch(name):
        raise ValueError(f"id: {name!r} is no name of 1 to 100 characters of A-Z a-z 0-9 . _ -")
    if "prompt" in fields:
        recipe = recipe_of(fields)
        request = recipe.request
        if recipe.source_name and not recipe.is_stored:
            raise UnusableParameters(f"{recipe.source_name}: upload it, and name it as assets/...")
        if recipe.source_name:
            set_source(request, recipe.source_name)
    else:
        unknown = fields.keys() - {"lyrics_file", *_WHOLE, *_LISTS, *_SWITCHES, *_WORDS, *_NUMBERS}
        if unknown:
            raise ValueError(f"unknown fields: {', '.join(sorted(unknown))}")
        if "lyrics_file" in fields:
            fields["lyrics"] = (folder / fields.pop("lyrics_file")).read_text(encoding="utf-8-sig")
        request = song_request(**fields)
    digest = hashlib.sha256(name.encode() + b"\0" + request.SerializeToString(deterministic=True)).hexdigest()
    request.request_id = f"batch-{digest[:32]}"
    return Item(name, request)


async def _make_all(args: argparse.Namespace, items: list[Item]) -> list[_Outcome]:
    room = asyncio.Semaphore(args.concurrency)
    async with server(args) as target, open_client(args, target, retries=True) as client:

        async def make(item: Item) -> _Outcome:
            async with room:
                outcome = await _make(client, item, args.output_dir)
                _print(outcome, args.json, args.quiet)
                return outcome

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(make(item)) for item in items]
        except* StageUnavailable as errors:
            raise CommandFailed(f"{errors.exceptions[0]}; run the command again to go on", ExitCode.UNAVAILABLE) from errors
        return [task.result() for task in tasks]


async def _make(client: AsyncClient, item: Item, folder: Path) -> _Outcome:
    path = folder / f"{item.name}.{extension(item.request.output.format)}"
    paths = _paths(path, item.request)
    if all(_is_of(path, item.request.request_id) for path in paths):
        return _Outcome(item.name, "there", paths)
    try:
        job = await _patiently(lambda: client.submit(item.request))
        if job.error is not None:  # of an earlier run: what was wrong then may be right now
            await client.delete(job)
            job = await _patiently(lambda: client.submit(item.request))
        result = await client.result(job, to=path)
    except (StageUnavailable, OSError):
        raise
    except (AcestepError, BrokenTransfer) as error:
        return _Outcome(item.name, "failed", error=str(error))
    return _Outcome(item.name, "made", tuple(song.content for song in result if isinstance(song.content, Path)))


def _paths(path: Path, request: music_pb2.GenerateRequest) -> tuple[Path, ...]:
    """Files of all variants."""
    number = max(request.num_variants, len(request.seeds), 1)
    paths = (variant_path(path, index, number) for index in range(number))
    return tuple(path for path in paths if path is not None)


def _is_of(path: Path, request_id: str) -> bool:
    """The song is whole (it has its name only then) and of this request."""
    try:
        return path.is_file() and json.loads(parameters_path(path).read_text(encoding="utf-8")).get("request_id") == request_id
    except (OSError, ValueError):
        return False


async def _patiently(submit: Callable[[], Awaitable[Job]]) -> Job:
    """Submit, however long the queue is full."""
    while True:
        try:
            return await submit()
        except Overloaded as error:
            await asyncio.sleep(error.retry_after_seconds)


def _print(outcome: _Outcome, as_json: bool, quiet: bool) -> None:
    if as_json:
        fields = {"id": outcome.name, "status": outcome.status, "paths": [str(path) for path in outcome.paths]}
        print(json.dumps(fields | ({"error": outcome.error} if outcome.error else {}), ensure_ascii=False), flush=True)
    else:
        for path in outcome.paths:
            print(path, flush=True)
    if not quiet:
        print(f"acestep: {outcome.name}: {outcome.error or outcome.status}", file=sys.stderr)
