"""The tags of a checkpoint that knows only some: prompts are put into its words and its order, and what became of each tag is told.

A checkpoint lists them in `umt5-base/known_tags.json`, group by group in the order of a prompt; one without the file, as the official one,
takes every text as it is. Tempi ("129 bpm") are one group, and the nearest one stands for any other.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from encoder_svc.weights import TEXT_FOLDER, CheckpointError

FILE = "known_tags.json"
_TEMPO = re.compile(r"(\d{1,3}(?:\.\d+)?)\s*bpm")
_SIMILARITY = 0.8


@dataclass(frozen=True)
class ReadTags:
    """A prompt in the checkpoint's words.

    Attributes:
        text: What the text encoder reads.
        warnings: What was changed or left out, one sentence a tag.
    """

    text: str
    warnings: tuple[str, ...]


class KnownTags:
    """Reads prompts.

    Args:
        groups: Tags in the order of a prompt, group by group; no tag twice.
        synonyms: Other words for tags.
    """

    def __init__(self, groups: Sequence[Sequence[str]], synonyms: Mapping[str, str]) -> None:
        tags = [tag for group in groups for tag in group]
        self._order = {tag: index for index, tag in enumerate(tags)}
        self._words = {tag.lower(): tag for tag in tags} | {word.lower(): tag for word, tag in synonyms.items()}
        self._tempi = {float(match[1]): tag for tag in tags if (match := _TEMPO.fullmatch(tag))}

    @classmethod
    def load(cls, checkpoint: Path) -> "KnownTags | None":
        """What the checkpoint lists; None: it takes every text.

        Raises:
            CheckpointError: The file is not what it should be.
        """
        path = checkpoint / TEXT_FOLDER / FILE
        if not path.exists():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(values["groups"], values["synonyms"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error!r}") from error

    def read(self, tags: str) -> ReadTags:
        """Put a prompt, a list with commas, into known tags in their order."""
        found: dict[str, None] = {}
        warnings = []
        for given in filter(None, (" ".join(part.split()) for part in tags.split(","))):
            meant = self._known(given.lower())
            if not meant:
                warnings.append(f"this checkpoint does not know the tag {given!r}; it is left out")
            elif [tag.lower() for tag in meant] != [given.lower()]:
                warnings.append(f"the tag {given!r} is read as {', '.join(meant)!r}")
            found |= dict.fromkeys(meant)
        return ReadTags(", ".join(sorted(found, key=self._order.__getitem__)), tuple(warnings))

    def _known(self, given: str) -> list[str]:
        if given in self._words:
            return [self._words[given]]
        if self._tempi and (tempo := _TEMPO.fullmatch(given)):
            return [self._tempi[min(self._tempi, key=lambda known: abs(known - float(tempo[1])))]]
        contained = []
        rest = given
        for word in sorted(self._words, key=len, reverse=True):
            if re.search(rf"\b{re.escape(word)}\b", rest):
                contained.append((given.index(word), self._words[word]))
                rest = re.sub(rf"\b{re.escape(word)}\b", ",", rest)
        if contained:
            return [tag for _, tag in sorted(contained)]
        close = difflib.get_close_matches(given, self._words, n=1, cutoff=_SIMILARITY)
        return [self._words[close[0]]] if close else []
