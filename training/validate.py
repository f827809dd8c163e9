"""`acestep-train validate`: load every song of a dataset as preprocessing would, and explain each that cannot be used or is clipped."""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

from encoder_svc.lyrics.lyric_tokenizer import LyricTokenizer
from encoder_svc.weights import TRANSFORMER_FOLDER, CheckpointError, read_json
from training.records import Record, RecordError, Records, read_dataset
from training.report import Outcome, Problem, Report, write_json
from training.songs import MAX_SECONDS, Limits, load_song


def check_record(record: Record, limits: Limits, checkpoint: Path) -> list[Problem]:
    """What is wrong with a song and with the files that it names."""
    return load_song(record, limits, lyric_tokenizer(checkpoint))[1]


@cache
def lyric_tokenizer(checkpoint: Path) -> LyricTokenizer:
    """Of a checkpoint; read once in each process.

    Raises:
        CheckpointError: It has no usable vocabulary.
    """
    config = read_json(checkpoint / TRANSFORMER_FOLDER / "config.json")
    return LyricTokenizer(checkpoint / "lyric_vocab.json", config["lyric_encoder_vocab_size"])


def validate(records: Records, limits: Limits, checkpoint: Path, workers: int = 1) -> Report:
    """Check songs.

    Args:
        records: Of a dataset.
        limits: What a song may be.
        checkpoint: Whose vocabulary counts the tokens.
        workers: Processes.
    """
    lyric_tokenizer(checkpoint)  # a bad checkpoint is no song's fault
    check = partial(check_record, limits=limits, checkpoint=checkpoint)
    if workers == 1:
        found = [check(record) for record in records.records]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            found = list(pool.map(check, records.records, chunksize=16))
    usable = sum(all(problem.outcome is not Outcome.REJECTED for problem in problems) for problems in found)
    problems = [*records.problems, *(problem for problems in found for problem in problems)]
    return Report(usable, problems, {"repeated rows": records.repeats})


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Flags of `Limits`."""
    parser.add_argument("--max_seconds", type=float, default=MAX_SECONDS, help="of a song; default: %(default)g")
    parser.add_argument("--long_audio", choices=("clip", "reject"), default="clip", help="what happens to longer audio")
    parser.add_argument("--long_lyrics", choices=("clip", "reject"), default="clip", help="what happens to lyrics over 4096 tokens")


def limits_from(options: argparse.Namespace) -> Limits:
    """Limits of the flags; the width of a speaker's vector is the checkpoint's.

    Raises:
        CheckpointError: The checkpoint has no readable config.
    """
    config = read_json(options.checkpoint_dir / TRANSFORMER_FOLDER / "config.json")
    return Limits(
        max_seconds=options.max_seconds,
        clip_audio=options.long_audio == "clip",
        clip_lyrics=options.long_lyrics == "clip",
        speaker_width=int(config["speaker_embedding_dim"]),
    )


def main(arguments: list[str] | None = None) -> int:
    """Print and write the report; 1 when nothing can be used."""
    parser = argparse.ArgumentParser(prog="acestep-train validate", description=__doc__)
    parser.add_argument("--dataset_path", type=Path, required=True, help="folder that convert wrote")
    parser.add_argument("--checkpoint_dir", type=Path, required=True, help="whose lyric vocabulary and widths apply")
    parser.add_argument("--report", type=Path, help="default: DATASET_PATH.validation.json")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    add_limits(parser)
    options = parser.parse_args(arguments)
    try:
        report = validate(read_dataset(options.dataset_path), limits_from(options), options.checkpoint_dir, options.workers)
    except (RecordError, CheckpointError) as error:
        print(f"acestep-train validate: {error}", file=sys.stderr)
        return 1
    dataset: Path = options.dataset_path
    write_json(options.report or dataset.with_name(f"{dataset.name}.validation.json"), report.to_json())
    print(report)
    if not report.usable:
        print(f"acestep-train validate: nothing in {dataset} can be used", file=sys.stderr)
        return 1
    return 0
