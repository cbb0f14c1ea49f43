"""How sure a rate is, and whether two systems differ, from the utterances that both heard.

The utterance is the unit of chance in both: errors within one depend on each other, errors of two hardly do. Where a
part has few speakers, their utterances do, too, and intervals are too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    pairs = np.array(sorted(zip(errors, lengths, strict=True)), np.int64).reshape(-1, 2)
    if not pairs[:, 1].sum():
        return float("nan"), float("nan")
    sums = np.concatenate([pairs[drawn].sum(1) for drawn in _drawn(len(pairs), seed, rounds)])
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
    table = np.array(sorted(zip(first, second, lengths, strict=True)), np.int64).reshape(-1, 3)
    gaps, units = table[:, 1] - table[:, 0], max(1, int(table[:, 2].sum()))
    sums = np.concatenate([table[drawn].sum(1) for drawn in _drawn(len(table), seed, rounds)] or [np.zeros((1, 3))])
    low, high = _percentiles((sums[:, 1] - sums[:, 0]) / np.maximum(sums[:, 2], 1))
    return Difference(
        utterances=len(table),
        rates=(int(table[:, 0].sum()) / units, int(table[:, 1].sum()) / units),
        difference=int(gaps.sum()) / units,
        low=low,
        high=high,
        wins=int((gaps < 0).sum()),
        losses=int((gaps > 0).sum()),
        p=_permuted(gaps[gaps != 0], seed),
    )


def _drawn(count: int, seed: int, rounds: int) -> Iterator[Whole]:
    """`rounds` rows of `count` utterances drawn with replacement, some rows at a time."""
    draw, step = np.random.default_rng(seed), max(1, _CELLS // max(1, count))
    for start in range(0, rounds if count else 0, step):
        yield draw.integers(0, count, (min(step, rounds - start), count))


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def _permuted(gaps: Whole, seed: int) -> float:
    """Two-sided p-value of the sum of gaps under random signs."""
    reached = abs(int(gaps.sum()))
    if 2 ** len(gaps) <= FLIPS:
        patterns = np.arange(2 ** len(gaps))[:, None] >> np.arange(len(gaps)) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ gaps) >= reached))
    draw, step = np.random.default_rng(seed), max(1, _CELLS // len(gaps))
    larger = 0
    for start in range(0, FLIPS, step):
        signs = 2 * draw.integers(0, 2, (min(step, FLIPS - start), len(gaps)), dtype=np.int8) - 1
        larger += int((np.abs(signs @ gaps) >= reached).sum())
    return (larger + 1) / (FLIPS + 1)
