"""What was wrong with which song, and what was done about it. Nothing is left out of a dataset without an entry here."""

import enum
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MAX_PRINTED_KEYS = 20
"""Songs that the printed report names for each reason; the file names all."""


class Outcome(enum.StrEnum):
    """What became of the song or of its part."""

    REJECTED = "rejected"
    CLIPPED = "clipped"
    IGNORED = "ignored"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one song.

    Attributes:
        key: Of the song, or where it was found.
        field: Of its record.
        reason: In words that are the same for every song with this problem.
        detail: Figures and names of this song.
        outcome: Whether the song is lost, shortened, or only this value is.
    """

    key: str
    field: str
    reason: str
    detail: str = ""
    outcome: Outcome = Outcome.REJECTED

    @property
    def kind(self) -> str:
        """What problems are counted by."""
        return f"{self.outcome}: {self.field}: {self.reason}"


@dataclass
class Report:
    """An account of a pass over songs.

    Attributes:
        usable: Songs that are left.
        problems: Of all songs, in their order.
        counts: Further figures by name.
    """

    usable: int = 0
    problems: list[Problem] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def rejected(self) -> int:
        """Songs that are lost."""
        return len({problem.key for problem in self.problems if problem.outcome is Outcome.REJECTED})

    def kinds(self) -> dict[str, list[Problem]]:
        """Problems by their kind, the most frequent kind first."""
        counted = Counter(problem.kind for problem in self.problems)
        return {kind: [problem for problem in self.problems if problem.kind == kind] for kind, _ in counted.most_common()}

    def to_json(self) -> dict[str, Any]:
        """Figures, the number of problems of each kind, and every problem by the song's key."""
        songs: dict[str, list[dict[str, str]]] = {}
        for problem in self.problems:
            values = asdict(problem)
            songs.setdefault(values.pop("key"), []).append(values)
        kinds = {kind: len(problems) for kind, problems in self.kinds().items()}
        return {"usable": self.usable, "rejected": self.rejected, "counts": self.counts, "reasons": kinds, "songs": songs}

    def __str__(self) -> str:
        lines = [f"{self.usable} songs usable, {self.rejected} rejected"]
        lines += [f"{name}: {count}" for name, count in self.counts.items()]
        for kind, problems in self.kinds().items():
            lines.append(f"{kind} ({len(problems)})")
            lines += [f"  {problem.key}{': ' if problem.detail else ''}{problem.detail}" for problem in problems[:MAX_PRINTED_KEYS]]
            if len(problems) > MAX_PRINTED_KEYS:
                lines.append(f"  and {len(problems) - MAX_PRINTED_KEYS} more")
        return "\n".join(lines)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def problems_from_json(values: Iterable[Mapping[str, str]]) -> list[Problem]:
    """Problems that `dataclasses.asdict` made plain."""
    return [Problem(**{**value, "outcome": Outcome(value["outcome"])}) for value in values]  # type: ignore[arg-type]
