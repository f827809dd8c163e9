"""The commands that README and docs tell users to type, in the order of the pages."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("acestep", "acestep-train", "python", "make", "pip", "git", "curl", "apt-get", "helm", "kubectl")
_FENCE = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^    .+\n?)+", re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """One line of a page: variables before the program, and its words, without those of the virtual environment's folder."""

    page: str
    text: str
    variables: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        return self.words[0]

    @property
    def flags(self) -> list[str]:
        """Long options, without values."""
        return [word.partition("=")[0] for word in self.words if word.startswith("--")]


def documented_commands(page: Path) -> Iterator[Command]:
    """Every command of a page."""
    text = page.read_text(encoding="utf-8")
    blocks = [match[1] for match in _FENCE.finditer(text)]
    without_fences = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    blocks += [match[0] for match in _INDENTED.finditer(without_fences)]
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.removeprefix("    ").removeprefix("$ ").split(" && "):
                yield from _parse(page, part)


def _parse(page: Path, text: str) -> Iterator[Command]:
    try:
        words = shlex.split(text.replace("<this repository>", "REPOSITORY"), comments=True)
    except ValueError:
        return  # part of a value over several lines, which is no command of its own
    variables = []
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        variables.append(words.pop(0))
    if words and (program := words[0].removeprefix(".venv/bin/")) in PROGRAMS:
        yield Command(str(page.relative_to(ROOT)), text.strip(), tuple(variables), (program, *words[1:]))
