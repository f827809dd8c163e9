"""Which lines of some lyrics became which others: the longest common subsequence of lines. Pure.

N old lines, M new lines.
"""

import numpy as np
import numpy.typing as npt

from acestep_rpc.v1 import music_pb2


def diff_lyrics(old: str, new: str) -> list[music_pb2.LyricChange]:
    """Changes in order; lines that differ by blanks at their ends are equal. Takes N x M steps, and as many bytes times two."""
    old_lines, new_lines = old.splitlines(), new.splitlines()
    changes: list[music_pb2.LyricChange] = []
    row = column = 0
    for next_row, next_column in [*_common(old_lines, new_lines), (len(old_lines), len(new_lines))]:
        if next_row > row or next_column > column:
            change = music_pb2.LyricChange(old_line_number=row + 1, new_line_number=column + 1)
            change.old_lines.extend(old_lines[row:next_row])
            change.new_lines.extend(new_lines[column:next_column])
            changes.append(change)
        row, column = next_row + 1, next_column + 1
    return changes


def _common(old_lines: list[str], new_lines: list[str]) -> list[tuple[int, int]]:
    """Positions of the lines that stay, old and new."""
    numbers: dict[str, int] = {}

    def numbered(lines: list[str]) -> npt.NDArray[np.int32]:
        return np.array([numbers.setdefault(line.strip(), len(numbers)) for line in lines], dtype=np.int32)

    old, new = numbered(old_lines), numbered(new_lines)
    # lengths[n, m]: of the longest common subsequence of the old lines from n on and the new ones from m on
    lengths = np.zeros((len(old) + 1, len(new) + 1), dtype=np.uint16)
    for row in reversed(range(len(old))):
        below = lengths[row + 1]
        best = np.maximum(below[:-1], np.where(new == old[row], below[1:] + 1, 0))
        lengths[row, :-1] = np.maximum.accumulate(best[::-1])[::-1]
    pairs, row, column = [], 0, 0
    while row < len(old) and column < len(new):
        if old[row] == new[column]:  # taking the first match never makes the sequence shorter
            pairs.append((row, column))
            row, column = row + 1, column + 1
        elif lengths[row + 1, column] >= lengths[row, column + 1]:
            row += 1
        else:
            column += 1
    return pairs
