"""How sure a rate is, and whether two systems differ, from the utterances that both heard.

The utterance is the unit of chance in both: errors within one depend on each other, errors of two hardly do. Where a
part has few speakers, their utterances do, too, and intervals are too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROUNDS = 2000  # resamplings of an interval
FLIPS = 10_000  # of a test; the least p-value is one in so many
LEVEL = 0.95
_CELLS = 2_000_000  # drawn at once

Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Difference:
    """Two systems on the same utterances.

    Attributes:
        utterances: of both.
        rates: errors a reference unit, of each.
        difference: second rate minus first.
        low, high: interval of the difference.
        wins, losses: utterances on which the second has fewer errors, and more.
        p: how often chance alone makes a difference as large, if the systems are equally good.
    """

    utterances: int
    rates: tuple[float, float]
    difference: float
    low: float
    high: float
    wins: int
    losses: int
    p: float

    @property
    def ties(self) -> int:
        """Utterances with equally many errors."""
        return self.utterances - self.wins - self.losses

    @property
    def verdict(self) -> str:
        """In words, at the 5 % level."""
        if self.p >= 1 - LEVEL:
            return "not decided"
        return "the second is better" if self.difference < 0 else "the first is better"


def interval(errors: Sequence[int], lengths: Sequence[int], seed: int = 0, rounds: int = ROUNDS) -> tuple[float, float]:
    """The 95 % percentile interval of sum(errors) / sum(lengths), by drawing utterances with replacement.

    Args:
        errors, lengths: of N utterances, in any order.

    Returns:
        NaN twice where there is no unit at all.
    """
    table, counts = _cells(errors, lengths)
    if not table[:, 1].sum():
        return float("nan"), float("nan")
    sums = _resampled(table, counts, seed, rounds)
    return _percentiles(sums[:, 0] / np.maximum(sums[:, 1], 1))


def compare(
    first: Sequence[int], second: Sequence[int], lengths: Sequence[int], seed: int = 0, rounds: int = ROUNDS
) -> Difference:
    """Whether two systems differ, by a matched-pairs permutation test on the errors of each utterance.

    If the systems are equally good, whose errors are whose is a matter of chance in every utterance; so the signs of
    the differences are drawn anew. Unlike NIST's MAPSSWE, which is its limit for many utterances, that needs no normal
    distribution. All sign patterns are taken where they are no more than FLIPS. The interval of the difference is a
    paired bootstrap.

    Args:
        first, second: errors of two systems in N utterances.
        lengths: of their references.
    """
    table, counts = _cells(first, second, lengths)
    gaps, whole = table[:, 1] - table[:, 0], counts @ table
    units = max(1, int(whole[2]))
    sums = _resampled(table, counts, seed, rounds)
    low, high = _percentiles((sums[:, 1] - sums[:, 0]) / np.maximum(sums[:, 2], 1))
    return Difference(
        utterances=int(counts.sum()),
        rates=(int(whole[0]) / units, int(whole[1]) / units),
        difference=int(whole[1] - whole[0]) / units,
        low=low,
        high=high,
        wins=int(counts[gaps < 0].sum()),
        losses=int(counts[gaps > 0].sum()),
        p=_permuted(np.repeat(gaps, counts)[np.repeat(gaps, counts) != 0], seed),
    )


def _cells(*columns: Sequence[int]) -> tuple[Whole, Whole]:
    """The different rows of a table, sorted, and how often each is there."""
    table = np.column_stack([np.asarray(column, np.int64) for column in columns])
    rows, counts = np.unique(table, axis=0, return_counts=True)
    return rows, counts.astype(np.int64)


def _resampled(table: Whole, counts: Whole, seed: int, rounds: int) -> Whole:
    """(rounds, columns) sums over as many rows, drawn with replacement: how often each comes is multinomial."""
    total = int(counts.sum())
    if not total:
        return np.zeros((1, table.shape[1]), np.int64)
    draw, step = np.random.default_rng(seed), max(1, _CELLS // len(table))
    sizes = [min(step, rounds - start) for start in range(0, rounds, step)]
    return np.concatenate([draw.multinomial(total, counts / total, size) @ table for size in sizes])


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def _permuted(gaps: Whole, seed: int) -> float:
    """Two-sided p-value of the sum of gaps under random signs."""
    reached = abs(int(gaps.sum()))
    if 2 ** len(gaps) <= FLIPS:
        patterns = np.arange(2 ** len(gaps))[:, None] >> np.arange(len(gaps)) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ gaps) >= reached))
    sizes, counts = np.unique(np.abs(gaps), return_counts=True)
    positive = np.random.default_rng(seed).binomial(counts, 0.5, (FLIPS, len(sizes)))  # gaps of a size that are
    sums = np.abs((2 * positive - counts) @ sizes)
    return (int((sums >= reached).sum()) + 1) / (FLIPS + 1)
