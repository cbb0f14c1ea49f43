"""Which utterances come up when: epochs without end, some more often than others, of corpora that need not fit into
memory.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from lhotse import CutSet
from lhotse.dataset import DynamicBucketingSampler
from torch import Tensor

from datamodules.rows import EAGER, Picked, archives, durations

AT_ONCE = 8  # archives whose utterances are shuffled together
_BLOCK = 4096  # slips made at once


class FavorLong:
    """A sampler whose epochs hold utterances that are drawn by weight and by duration to a power.

    Args:
        cuts: all of them; their ids need not differ. Those that are not held in memory are not made for this either.
        power: 0 gives every utterance once an epoch; with 1 one of twice the length comes up twice as often.
        seed: with the epoch it decides what is drawn.
        sampler: makes a Lhotse sampler of the utterances drawn; `shuffle=False` where they come in random order.
        weights: (n,) of the cuts; None for equal ones.
        count: utterances of an epoch; None for as many as there are.
    """

    def __init__(
        self,
        cuts: CutSet,
        power: float,
        seed: int,
        sampler: Callable[..., Any],
        weights: Tensor | None = None,
        count: int | None = None,
    ) -> None:
        self.cuts: Sequence[Any] = cuts.data if isinstance(cuts.data, Sequence) else list(cuts)
        self.power, self.seed, self.sampler = power, seed, sampler
        seconds = durations(cuts)
        self._durations = seconds.numpy()
        self._weights = seconds**power * (1.0 if weights is None else weights)
        self._mixed, self._archives = weights is not None, archives(cuts)
        self._count = len(seconds) if count is None else count
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is this epoch's."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[CutSet]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self._epoch)
        rows = draw(self._weights, generator, self._count)
        if self._mixed:  # what comes up several times lies side by side
            rows = rows[torch.randperm(len(rows), generator=generator)]
        if self._archives is not None:
            rows = near(rows, self._archives[rows], generator)
        places = rows.numpy()
        if len(places) > EAGER:
            return self._of_many(places)
        inner = self.sampler(CutSet.from_cuts(Picked(self.cuts, places)))
        inner.set_epoch(self._epoch)
        return iter(inner)

    def _of_many(self, places: np.ndarray) -> Iterator[CutSet]:
        """Batches of the cuts at these places, which are not made before somebody looks at them.

        They are in random order already; Lhotse would shuffle a whole bucket again for every batch.
        """
        inner = self.sampler(CutSet(Slips(places, self._durations[places])), shuffle=False)
        inner.set_epoch(self._epoch)
        for slips in inner:
            yield CutSet(Picked(self.cuts, np.array([slip.place for slip in slips])))


class Slip:
    """All that a Lhotse sampler wants to know of a cut, in the place of one."""

    id = ""

    def __init__(self, place: int, duration: float) -> None:
        self.place, self.duration = place, duration

    def with_id(self, name: str) -> Slip:
        """Lhotse renames what it hands out twice; here the place tells what it is."""
        return self


class Slips(Sequence[Slip]):
    """A slip for each of many places (n,), with their durations (n,) in seconds."""

    def __init__(self, places: np.ndarray, durations: np.ndarray) -> None:
        self.places, self.durations = places, durations

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        return Slip(int(self.places[index]), float(self.durations[index]))

    def __iter__(self) -> Iterator[Slip]:
        for start in range(0, len(self), _BLOCK):
            block = slice(start, start + _BLOCK)
            yield from map(Slip, self.places[block].tolist(), self.durations[block].tolist())


def draw(weights: Tensor, generator: torch.Generator, count: int) -> Tensor:
    """So many rows (count,), each in proportion to its weight (N,), which is 0 or more and not 0 for all.

    Systematic resampling: how often a row comes up differs by less than one from its expectation, so that equal weights
    give every row once.
    """
    order = torch.randperm(len(weights), generator=generator)
    order = order[weights[order] > 0]  # or rounding might give one its turn
    expected = weights[order] * (count / weights.sum())
    offset = torch.rand((), generator=generator, dtype=expected.dtype)
    ends = (expected.cumsum(0) + offset).floor().long().clamp_max(count)
    ends[-1] = count  # whatever rounding left
    return order.repeat_interleave(ends.diff(prepend=ends.new_zeros(1)))


def near(rows: Tensor, archives: Tensor, generator: torch.Generator) -> Tensor:
    """The rows (N,) in an order in which only AT_ONCE of the archives (N,) are needed at a time; which, is random."""
    place = torch.randperm(int(archives.max()) + 1, generator=generator)
    return rows[(place[archives] // AT_ONCE).argsort(stable=True)]


class Endless:
    """Goes through a Lhotse sampler epoch after epoch, from a given position, telling where it is.

    A checkpoint keeps the position of the last batch *trained on*, which a loader's read-ahead cannot blur.
    """

    def __init__(self, sampler: DynamicBucketingSampler, start: tuple[int, int]) -> None:
        self.sampler, self.start = sampler, start

    def __iter__(self) -> Iterator[tuple[tuple[int, int], CutSet]]:
        epoch, skip = self.start
        while True:
            self.sampler.set_epoch(epoch)
            count = 0
            for count, cuts in enumerate(self.sampler, 1):
                if count > skip:
                    yield (epoch, count), cuts.to_eager()
            if not count:
                return
            epoch, skip = epoch + 1, 0


class OwnIds:
    """Undoes the new names that Lhotse gives to cuts when it hands out the last ones of an epoch more than once."""

    def __init__(self, cuts: CutSet) -> None:
        self.cuts = cuts

    @cached_property
    def known(self) -> set[str]:
        """Ids that look as if Lhotse had made them."""
        return {cut.id for cut in self.cuts if "_dup" in cut.id}

    def __call__(self, cuts: CutSet) -> CutSet:
        """The cuts under their own names."""
        if not any("_dup" in cut.id for cut in cuts):
            return cuts
        return cuts.modify_ids(lambda name: name if name in self.known else name.rsplit("_dup", 1)[0])


def some(cuts: CutSet, count: int) -> CutSet:
    """At most so many of the cuts, chosen by a hash of their ids: the same ones whatever their order."""
    return CutSet.from_cuts(heapq.nsmallest(count, cuts, key=lambda cut: hashlib.sha256(cut.id.encode()).digest()))
