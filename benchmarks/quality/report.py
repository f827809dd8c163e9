"""Columns of figures to a table and to JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.quality.figures import BOUNDS
from benchmarks.quality.statistics import Estimate, estimate

GENERATED, REAL, WRONG = "generated", "real", "wrong pairing"
COLUMNS = (GENERATED, REAL, WRONG)

Values = list[dict[str, list[float]]]
"""For each prompt, each figure's values over its clips."""


def summarise(columns: Mapping[str, Values]) -> dict[str, dict[str, Any]]:
    """For each figure the estimate of each column that has it, its bound and whether the generated songs, and the real ones, reach it."""
    summary: dict[str, dict[str, Any]] = {}
    for name, bound in BOUNDS.items():
        estimates = {column: estimate([prompt.get(name, []) for prompt in values]) for column, values in columns.items()}
        row: dict[str, Any] = {column: asdict(found) for column, found in estimates.items() if found}
        if not row:
            continue
        row["bound"] = str(bound) if bound else None
        for column, word in ((GENERATED, "reached"), (REAL, "reached_by_real")):
            found = estimates.get(column)
            row[word] = bound.reached(found) if bound and found else None
        summary[name] = row
    return summary


def table(summary: Mapping[str, Mapping[str, Any]], title: str) -> str:
    """A summary as lines of text."""
    rows = [(title, *(f"{column} [95 %]" for column in COLUMNS), "bound", "")]
    for name, row in summary.items():
        words = {True: "reached", False: "NOT reached", None: ""}
        rows.append((name, *(_cell(row.get(column)) for column in COLUMNS), row["bound"] or "", words[row["reached"]]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _cell(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "-"
    shown = Estimate(**value)
    return f"{shown.mean:.3f} [{shown.low:.3f}, {shown.high:.3f}] n={shown.prompts}"


def merge(clips: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Figures of the clips of one prompt, together."""
    merged: dict[str, list[float]] = {}
    for clip in clips:
        for name, value in clip.items():
            merged.setdefault(name, []).append(value)
    return merged
