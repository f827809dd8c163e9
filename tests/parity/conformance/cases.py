"""Cases of a folder of recordings, and what it takes to pass one.

A folder has INDEX.json (transformer, encoders, schedules, guidance, runs) and INDEX_codec.json (codec, lyrics, training). They name files
of recorded inputs and outputs, with tolerances. Which part of the system a case is for is read off its kind and the names of its tensors,
never off the name of the case.
"""

import enum
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.parity.conformance import codec, lyrics, modules, official, runs, training
from tests.parity.conformance.checkpoint import Checkpoint

Outputs = Mapping[str, Tensor]


class Verdict(enum.Enum):
    """Result of a case."""

    PASSED = "passed"
    FAILED = "FAILED"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Case:
    """One recording.

    Attributes:
        compute: Gives our outputs, by the names of the recorded ones.
        expected: Recorded outputs.
        skip: Why it is not run; empty: it is.
        note: What is left out of the comparison; empty: nothing.
    """

    name: str
    compute: Callable[[], Outputs]
    expected: Outputs
    atol: float
    rtol: float
    skip: str = ""
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a case."""

    verdict: Verdict
    error: float | None = None
    remark: str = ""


def run_case(case: Case) -> Outcome:
    """Compute and compare every recorded output."""
    if case.skip:
        return Outcome(Verdict.SKIPPED, remark=f"({case.skip})")
    try:
        with torch.inference_mode():
            ours = case.compute()
    except Exception as error:  # one case must not hide the others
        return Outcome(Verdict.FAILED, remark=f"{type(error).__name__}: {error}")
    missing = case.expected.keys() - ours.keys()
    if missing:
        return Outcome(Verdict.FAILED, remark=f"not computed: {', '.join(sorted(missing))}")
    largest, worst = 0.0, ""
    for name, expected in case.expected.items():
        result = ours[name]
        if result.shape != expected.shape:
            return Outcome(Verdict.FAILED, remark=f"{name} has shape {list(result.shape)}, not {list(expected.shape)}")
        difference = (result.double() - expected.double()).abs()
        if not bool((difference <= case.atol + case.rtol * expected.double().abs()).all()):  # NaN fails here too
            worst = worst or name
        largest = max(largest, difference.max().item() if difference.numel() else 0.0)
    return Outcome(Verdict.FAILED if worst else Verdict.PASSED, largest, worst or case.note)


def collect_cases(folder: Path) -> Iterator[Case]:
    """Every case that the folder's indices name.

    Raises:
        FileNotFoundError: The folder has no index.
    """
    checkpoint = Checkpoint(folder / "checkpoint")
    for entry in json.loads((folder / "INDEX.json").read_text())["cases"]:
        yield _tensor_case(folder, checkpoint, entry)
    index = json.loads((folder / "INDEX_codec.json").read_text())
    for entry in index["codec"]["cases"]:
        yield _codec_case(folder, checkpoint, entry)
    yield from (Case(name, compute, expected, 0.0, 0.0) for name, compute, expected in official.cases(folder))
    if "lyrics" in index:
        for name, compute, expected, skip in lyrics.cases(folder / index["lyrics"]["file"], folder / index["lyrics"]["vocabulary"]):
            yield Case(name, compute, expected, 0.0, 0.0, skip)
    for entry in index.get("training", ()):
        for part, compute, expected, atol, rtol in training.cases(folder, entry):
            yield Case(f"training.{entry['case']}{part}", compute, expected, atol, rtol)


def _tensor_case(folder: Path, checkpoint: Checkpoint, entry: Mapping[str, Any]) -> Case:
    inputs = load_file(folder / entry["inputs"]) if entry.get("inputs") else {}
    expected = load_file(folder / entry["outputs"])
    params = entry["params"]
    note = ""
    compute: Callable[[], Outputs]
    match entry["kind"]:
        case "pipeline":
            compute = partial(runs.compute, checkpoint, params, inputs, expected)
            expected, note = runs.checked(params, expected)
            expected = expected | runs.recorded_inputs(params, inputs)
        case "module":
            compute = partial(modules.compute, checkpoint, params, inputs, expected)
        case "scheduler":
            compute = partial(runs.compute_schedule, params, inputs, expected)
        case "guidance":
            compute = partial(runs.compute_guidance, params, inputs, expected)
        case "rng":
            compute = partial(runs.compute_noise, params)
        case kind:
            raise ValueError(f"case {entry['id']} is of the unknown kind {kind}")
    tolerance = entry["tolerance"]
    return Case(entry["id"], compute, expected, tolerance["atol"], tolerance["rtol"], note=note)


def _codec_case(folder: Path, checkpoint: Checkpoint, entry: Mapping[str, Any]) -> Case:
    tensors = load_file(folder / entry["file"])
    inputs, expected = codec.split(entry, tensors)
    expected, note = codec.reduce(inputs, expected)
    tolerance = entry["tolerance"]
    return Case(
        f"codec.{entry['case']}",
        lambda: codec.compute(folder, checkpoint, entry, inputs, expected),
        expected,
        tolerance["atol"],
        tolerance["rtol"],
        codec.unsupported(tensors),
        note,
    )
