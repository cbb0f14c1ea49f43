"""Epochs in which some utterances come up more often than others, of corpora that need not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lhotse import CutSet
from torch import Tensor

from datamodules.rows import EAGER, Picked, archives, durations

AT_ONCE = 8  # archives whose utterances are shuffled together


class FavorLong:
    """A sampler whose epochs hold as many utterances as there are, drawn by weight and by duration to a power.

    Args:
        cuts: all of them; their ids need not differ. Those that are not held in memory are not made for this either.
        power: 0 gives every utterance once an epoch; with 1 one of twice the length comes up twice as often.
        seed: with the epoch it decides what is drawn.
        sampler: makes a Lhotse sampler of the utterances drawn.
        weights: (n,) of the cuts; None for equal ones.
    """

    def __init__(
        self,
        cuts: CutSet,
        power: float,
        seed: int,
        sampler: Callable[[CutSet], Any],
        weights: Tensor | None = None,
    ) -> None:
        self.cuts: Sequence[Any] = cuts.data if isinstance(cuts.data, Sequence) else list(cuts)
        self.power, self.seed, self.sampler = power, seed, sampler
        self._weights = durations(cuts) ** power * (1.0 if weights is None else weights)
        self._mixed, self._archives = weights is not None, archives(cuts)
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is this epoch's."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[CutSet]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self._epoch)
        rows = draw(self._weights, generator)
        if self._mixed:  # what comes up several times lies side by side
            rows = rows[torch.randperm(len(rows), generator=generator)]
        if self._archives is not None:
            rows = near(rows, self._archives[rows], generator)
        drawn = Picked(self.cuts, rows.numpy())
        inner = self.sampler(CutSet(drawn) if len(rows) > EAGER else CutSet.from_cuts(drawn))
        inner.set_epoch(self._epoch)
        return iter(inner)


def draw(weights: Tensor, generator: torch.Generator) -> Tensor:
    """As many rows (N,) as there are weights (N,), each in proportion to its weight.

    Systematic resampling: how often a row comes up differs by less than one from its expectation, so that equal weights
    give every row once.
    """
    order = torch.randperm(len(weights), generator=generator)
    expected = weights[order] * (len(weights) / weights.sum())
    offset = torch.rand((), generator=generator, dtype=expected.dtype)
    ends = (expected.cumsum(0) + offset).floor().long().clamp_max(len(weights))
    ends[-1] = len(weights)  # whatever rounding left
    return order.repeat_interleave(ends.diff(prepend=ends.new_zeros(1)))


def near(rows: Tensor, archives: Tensor, generator: torch.Generator) -> Tensor:
    """The rows (N,) in an order in which only AT_ONCE of the archives (N,) are needed at a time; which, is random."""
    place = torch.randperm(int(archives.max()) + 1, generator=generator)
    return rows[(place[archives] // AT_ONCE).argsort(stable=True)]
