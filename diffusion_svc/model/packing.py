"""How rows of different lengths lie in one tensor. It knows neither layers nor requests.

B rows of a group, T frames of each, S tokens of all groups.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

ByRow = TypeVar("ByRow", Tensor, Sequence[Any])


@dataclass(frozen=True)
class Groups:
    """Neighbouring rows of one length, group after group.

    The tokens of one group are [B, T, ...]. Those of several are packed, [S, ...], without padding: what sees each token by itself takes
    them all at once, what mixes tokens or differs from row to row takes the groups one by one, each [B, T, ...].

    Attributes:
        shapes: Rows and frames of each group; none: one group, whatever its shape.
    """

    shapes: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, lengths: Sequence[int]) -> "Groups":
        """Groups of rows in their order."""
        return cls(tuple((len(list(rows)), frames) for frames, rows in itertools.groupby(lengths)))

    @property
    def packed(self) -> bool:
        """Whether tokens are [S, ...]."""
        return len(self.shapes) > 1

    def split(self, tokens: Tensor) -> list[Tensor]:
        """Views [B, T, ...] of the tokens of each group."""
        if not self.packed:
            return [tokens]
        ends = [0, *itertools.accumulate(rows * frames for rows, frames in self.shapes)]
        parts = [tokens[start:stop] for start, stop in itertools.pairwise(ends)]
        return [torch.unflatten(part, 0, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def split_or_none(self, tokens: Tensor | None) -> Sequence[Tensor | None]:
        """As `split`; None for each group where there are none."""
        return [None] * max(len(self.shapes), 1) if tokens is None else self.split(tokens)

    def split_rows(self, by_row: ByRow) -> list[ByRow]:
        """What belongs to the rows of each group, from a sequence or along the first axis of a tensor."""
        if not self.packed:
            return [by_row]
        ends = [0, *itertools.accumulate(shape[0] for shape in self.shapes)]
        return [by_row[start:stop] for start, stop in itertools.pairwise(ends)]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Tokens from the parts of each group; the reverse of `split`."""
        return torch.cat([part.flatten(0, 1) for part in parts]) if self.packed else parts[0]

    def spread(self, by_row: Tensor) -> Tensor:
        """Give each token its row's values, [rows, 1, ...] -> [S, ...]; those of one group stay as they are, ready to be broadcast."""
        if not self.packed:
            return by_row
        frames = torch.tensor(self._frames_by_row(), device=by_row.device)
        return by_row.squeeze(1).repeat_interleave(frames, dim=0, output_size=int(sum(self._frames_by_row())))

    def tokens_of(self, rows: slice) -> slice:
        """Where neighbouring rows lie along the first axis of the tokens."""
        if not self.packed:
            return rows
        starts = [0, *itertools.accumulate(self._frames_by_row())]
        return slice(starts[rows.start], starts[rows.stop])

    def _frames_by_row(self) -> list[int]:
        return [frames for rows, frames in self.shapes for _ in range(rows)]


ONE_GROUP = Groups()
