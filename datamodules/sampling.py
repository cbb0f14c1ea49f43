"""Epochs in which long utterances come up more often than short ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lhotse import CutSet
from torch import Tensor


class FavorLong:
    """A sampler whose epochs hold as many utterances as there are, drawn by duration to the power of `power`.

    Args:
        cuts: all of them; their ids need not differ.
        power: 0 gives every utterance once an epoch; with 1 one of twice the length comes up twice as often.
        seed: with the epoch it decides what is drawn.
        sampler: makes a Lhotse sampler of the utterances drawn.
    """

    def __init__(self, cuts: CutSet, power: float, seed: int, sampler: Callable[[CutSet], Any]) -> None:
        self.cuts, self.power, self.seed, self.sampler = list(cuts), power, seed, sampler
        self._durations = torch.tensor([cut.duration for cut in self.cuts], dtype=torch.float64)
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is this epoch's."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[CutSet]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self._epoch)
        rows = draw(self._durations**self.power, generator).tolist()
        inner = self.sampler(CutSet.from_cuts(self.cuts[row] for row in rows))
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
