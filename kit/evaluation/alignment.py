"""Which unit of a hypothesis stands for which of the reference, and how many errors of each kind that makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Pair = tuple[str | None, str | None]  # a reference unit and its hypothesis unit; None where there is none


class Edits(NamedTuple):
    """What makes a reference of so many units into a hypothesis."""

    substitutions: int
    deletions: int
    insertions: int
    length: int

    @property
    def errors(self) -> int:
        """Of all kinds."""
        return self.substitutions + self.deletions + self.insertions

    def __add__(self, other: object) -> Edits:  # type: ignore[override]  # sums of counts, not a longer tuple
        if not isinstance(other, Edits):
            return NotImplemented
        return Edits(*(one + two for one, two in zip(self, other, strict=True)))


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Pair]:
    """The pairs of an alignment with the fewest errors and, of several such, the most units that are right.

    So the number of errors of each kind is no accident of the search. Time and memory grow with the product of the
    lengths, but equal beginnings and ends cost nothing: 3,000 quite different units on both sides take 40 MB.
    """
    most = min(len(reference), len(hypothesis))
    begin = _alike(zip(reference, hypothesis, strict=False))
    end = min(most - begin, _alike(zip(reversed(reference), reversed(hypothesis), strict=False)))
    inner = _aligned(reference[begin : len(reference) - end], hypothesis[begin : len(hypothesis) - end])
    right: list[Pair] = [(unit, unit) for unit in reference]
    return right[:begin] + inner + right[len(right) - end :]


def _alike(pairs: Iterable[tuple[str, str]]) -> int:
    """How many pairs are of equal units before the first that is not."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _aligned(reference: Sequence[str], hypothesis: Sequence[str]) -> list[Pair]:
    table = _table(*_numbered(reference, hypothesis))
    pairs: list[Pair] = []
    row, column = len(reference), len(hypothesis)
    while row or column:
        step = _step(table, row, column, row and column and reference[row - 1] == hypothesis[column - 1])
        row, column = row - step[0], column - step[1]
        pairs.append((reference[row] if step[0] else None, hypothesis[column] if step[1] else None))
    return pairs[::-1]


def edits(reference: Sequence[str], hypothesis: Sequence[str]) -> Edits:
    """The errors of `align`."""
    return counted(align(reference, hypothesis))


@lru_cache(1 << 17)
def text_edits(split: Callable[[str], list[str]], reference: str, hypothesis: str) -> Edits:
    """The errors between two texts; kept, because an utterance counts in several groups."""
    return edits(split(reference), split(hypothesis))


def counted(pairs: Iterable[Pair]) -> Edits:
    """The errors in aligned pairs."""
    substituted = deleted = inserted = length = 0
    for said, heard in pairs:
        length += said is not None
        inserted += said is None
        deleted += heard is None
        substituted += said is not None and heard is not None and said != heard
    return Edits(substituted, deleted, inserted, length)


def _numbered(*rows: Sequence[str]) -> list[NDArray[np.int64]]:
    known: dict[str, int] = {}
    return [np.array([known.setdefault(unit, len(known)) for unit in row], np.int64) for row in rows]


def _table(said: NDArray[np.int64], heard: NDArray[np.int64]) -> NDArray[Any]:
    """(n + 1, m + 1) least costs of all beginnings: an error costs more than all right units together bring."""
    error = len(said) + 1
    kind = np.int32 if error * (len(said) + len(heard) + 1) < 2**31 else np.int64
    along = error * np.arange(len(heard) + 1, dtype=kind)
    table = np.empty((len(said) + 1, len(heard) + 1), kind)
    table[0] = along
    for row, unit in enumerate(said, 1):
        table[row] = table[row - 1] + error
        crosswise = table[row - 1, :-1] + np.where(heard == unit, -1, error)
        np.minimum(table[row, 1:], crosswise, out=table[row, 1:])
        table[row] = np.minimum.accumulate(table[row] - along) + along
    return table


def _step(table: NDArray[Any], row: int, column: int, same: object) -> tuple[int, int]:
    """The step that led to a place of the table: across, down or along."""
    error, here = len(table), table[row, column]
    if row and column and table[row - 1, column - 1] + (-1 if same else error) == here:
        return 1, 1
    return (1, 0) if row and table[row - 1, column] + error == here else (0, 1)
