"""`acestep-train preprocess`: songs of a dataset to shards, once; training then loads none of the frozen networks.

The work is cut into units of a few songs, and each unit becomes one shard. A unit's name is the digest of all that decides its content:
audio, captions, lyrics, speakers, networks, settings. So a run that was killed goes on where it stopped, a changed song or checkpoint makes
its units anew, and several processes or nodes (`--shard 2/4`) write one dataset into one folder, the same as one process would.
`manifest.json` appears when every node is done. Shards of an earlier state of the dataset stay in the folder and are not listed.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from encoder_svc.weights import CheckpointError as EncoderCheckpointError
from training.preparation import SSL_INPUTS, Preparer, Settings, caption_candidates
from training.records import Record, RecordError, Records, read_dataset
from training.report import Report, problems_from_json, write_json
from training.shards import FORMAT, MANIFEST, file_digest, write_manifest, write_shard
from training.ssl_extractors import ExtractorError
from training.validate import add_limits, limits_from
from vae_svc.weights import CheckpointError as CodecCheckpointError

SONGS_PER_SHARD = 16
NETWORK_PARTS = ("music_dcae_f8c8", "music_vocoder/config.json", "umt5-base", "lyric_vocab.json")
"""What shards depend on in a checkpoint. Its transformer is not among them: that is what is trained."""
_DIGESTED_SUFFIXES = {".json", ".safetensors", ".model", ".txt"}
_MISSING, _UNREADABLE = "missing", "unreadable"


class NothingUsable(ValueError):
    """Not one song of the dataset can be used."""


def describe(settings: Settings) -> dict[str, Any]:
    """What a dataset is made with, for its manifest: no paths, so that equal content has equal descriptions."""
    limits = asdict(settings.limits)
    networks = {part: digest_of(settings.checkpoint / part) for part in NETWORK_PARTS}
    features = {name: digest_of(settings.extractors[name]) if name in settings.extractors else None for name in SSL_INPUTS}
    return {
        "made_by": "training.preprocess",
        "limits": limits,
        "tag_shuffles": settings.tag_shuffles,
        "networks": networks,
        "features": features,
    }


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's weights and configs; a file that cannot be read has a word for it."""
    if path.is_file():
        return file_digest(path) if os.access(path, os.R_OK) else _UNREADABLE
    if not path.is_dir():
        return _MISSING
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix in _DIGESTED_SUFFIXES)
    return _digest({str(file.relative_to(path)): file_digest(file) for file in files})


def unit_digest(records: Sequence[Record], about: dict[str, Any]) -> str:
    """Name of the unit that these songs make under these settings."""
    songs = [
        {
            "key": record.key,
            "audio": digest_of(Path(record.filename)),
            "captions": caption_candidates(record, about["tag_shuffles"]),
            "lyrics": record.norm_lyrics,
            "speaker": digest_of(Path(record.speaker_emb_path)) if record.speaker_emb_path else "",
        }
        for record in records
    ]
    return _digest({"format": FORMAT, "about": about, "songs": songs})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class UnitWriter:
    """Makes units in one process; the networks are loaded when the first unit is not there yet.

    Args:
        output: Folder of the dataset.
        settings: What decides its content.
        about: `describe(settings)`.
    """

    def __init__(self, output: Path, settings: Settings, about: dict[str, Any]) -> None:
        self.output = output
        self.settings = settings
        self.about = about
        self._preparer: Preparer | None = None
        torch.set_num_threads(settings.threads)

    def write(self, records: Sequence[Record]) -> dict[str, Any]:
        """Make a unit, or find it made.

        Returns:
            `shard`: its entry of the manifest, None if no song can be used; `problems` of its songs.
        """
        path = self.output / "units" / f"{unit_digest(records, self.about)}.json"
        if (finished := self._finished(path)) is not None:
            return finished
        if self._preparer is None:
            self._preparer = Preparer(self.settings)
        prepared = [self._preparer.prepare(record) for record in records]
        songs = [song for song, _ in prepared if song is not None]
        problems = [asdict(problem) for _, found in prepared for problem in found]
        unit = {"shard": write_shard(self.output, songs) if songs else None, "problems": problems}
        write_json(path, unit)
        return unit

    def _finished(self, path: Path) -> dict[str, Any] | None:
        try:
            unit: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        shard = unit["shard"]
        return unit if shard is None or digest_of(self.output / shard["file"]) == shard["sha256"] else None


_writer: UnitWriter | None = None
"""Of a worker process."""


def _start_worker(output: Path, settings: Settings, about: dict[str, Any]) -> None:
    global _writer
    _writer = UnitWriter(output, settings, about)


def _write_in_worker(records: Sequence[Record]) -> dict[str, Any]:
    assert _writer is not None
    return _writer.write(records)


def preprocess(
    dataset: Records,
    output: Path,
    settings: Settings,
    workers: int = 1,
    node: int = 0,
    num_nodes: int = 1,
    songs_per_shard: int = SONGS_PER_SHARD,
) -> Report | None:
    """Make a dataset, or one node's part of it.

    Args:
        dataset: All songs, on every node the same.
        output: Folder, on every node the same; what is there already is kept.
        settings: What decides its content.
        workers: Processes.
        node: Number of this node, from 0.
        num_nodes: Nodes that share the work.
        songs_per_shard: Songs of a unit: what a kill costs at most, per process.
    Returns:
        Account of the whole dataset; None: other nodes are not done.
    Raises:
        NothingUsable: With the reasons.
        ValueError: A network cannot be loaded.
    """
    about = describe(settings)
    records = dataset.records
    part_path = _part_path(output, node, num_nodes)
    part_path.unlink(missing_ok=True)
    if num_nodes == 1:  # nobody else writes here: what a killed run left half written can go
        for leftover in output.glob(".shard-*.part"):
            leftover.unlink()
    units = [records[first : first + songs_per_shard] for first in range(0, len(records), songs_per_shard)]
    own = range(node, len(units), num_nodes)
    made = []
    for number, unit in zip(own, _run([units[number] for number in own], output, settings, about, workers), strict=True):
        made.append(unit)
        print(f"unit {number + 1} of {len(units)}: {len(unit['shard']['songs']) if unit['shard'] else 0} songs", flush=True)
    part = {"about": about, "songs": [record.key for record in records], "units": made}
    write_json(part_path, part)
    return _join(output, part, num_nodes, dataset)


def _run(
    units: Sequence[Sequence[Record]], output: Path, settings: Settings, about: dict[str, Any], workers: int
) -> Iterator[dict[str, Any]]:
    if workers == 1:
        yield from map(UnitWriter(output, settings, about).write, units)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (output, settings, about)) as pool:
        yield from pool.map(_write_in_worker, units)


def _part_path(output: Path, node: int, num_nodes: int) -> Path:
    return output / "units" / f"node-{node + 1}-of-{num_nodes}.json"


def _join(output: Path, part: dict[str, Any], num_nodes: int, dataset: Records) -> Report | None:
    """Write the manifest if every node has finished the same dataset; the last one, or the last ones, find that."""
    paths = [_part_path(output, node, num_nodes) for node in range(num_nodes)]
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    if len(parts) < num_nodes or any((other["about"], other["songs"]) != (part["about"], part["songs"]) for other in parts):
        return None
    made = [parts[number % num_nodes]["units"][number // num_nodes] for number in range(sum(len(other["units"]) for other in parts))]
    shards = [unit["shard"] for unit in made if unit["shard"]]
    problems = [problem for unit in made for problem in problems_from_json(unit["problems"])]
    usable = sum(len(shard["songs"]) for shard in shards)
    report = Report(usable, [*dataset.problems, *problems], {"repeated rows": dataset.repeats})
    write_json(output / "report.json", report.to_json())
    if not shards:
        raise NothingUsable(f"not one song can be used\n{report}")
    write_manifest(output, shards, part["about"])
    return report


def _node(text: str) -> tuple[int, int]:
    """Number from 0 and total of a text like 2/4."""
    node, _, total = text.partition("/")
    if not (node.isdigit() and total.isdigit() and 1 <= int(node) <= int(total)):
        raise argparse.ArgumentTypeError(f"{text!r} is not k/n with 1 <= k <= n")
    return int(node) - 1, int(total)


def main(arguments: list[str] | None = None) -> int:
    """Make the dataset; 1 when nothing can be used."""
    parser = argparse.ArgumentParser(prog="acestep-train preprocess", description=__doc__)
    parser.add_argument("--dataset_path", type=Path, required=True, help="folder that convert wrote")
    parser.add_argument("--checkpoint_dir", type=Path, required=True, help="in the official layout")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for shards and manifest")
    parser.add_argument("--mert", type=Path, help="folder of MERT; without it the projection loss has no such target")
    parser.add_argument("--mhubert", type=Path, help="folder of mHuBERT; likewise")
    parser.add_argument("--tag_shuffles", type=int, default=1, help="orders of the tags that are offered; 1: as given")
    parser.add_argument("--songs_per_shard", type=int, default=SONGS_PER_SHARD)
    parser.add_argument("--workers", type=int, default=1, help="processes, each with the networks")
    parser.add_argument("--shard", type=_node, default=(0, 1), metavar="K/N", help="part of this node; all write to one folder")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    add_limits(parser)
    options = parser.parse_args(arguments)
    folders = {"mert": options.mert, "m-hubert": options.mhubert}
    extractors = {name: folder for name, folder in folders.items() if folder is not None}
    node, num_nodes = options.shard
    try:
        settings = Settings(options.checkpoint_dir, limits_from(options), options.tag_shuffles, extractors, options.device, options.threads)
        dataset = read_dataset(options.dataset_path)
        report = preprocess(dataset, options.output_dir, settings, options.workers, node, num_nodes, options.songs_per_shard)
    except (RecordError, EncoderCheckpointError, CodecCheckpointError, ExtractorError, NothingUsable) as error:
        print(f"acestep-train preprocess: {error}", file=sys.stderr)
        return 1
    if report is None:
        print("this node is done, others are not: the last one writes the manifest")
        return 0
    print(report)
    print(options.output_dir / MANIFEST)
    return 0
