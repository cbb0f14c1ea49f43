"""When a name was said: what the audio tells of it, weighed against what is said by chance.

Something else than a name sounds like it now and then, the more often the shorter and the more usual its phonemes are,
and the more names there are to choose from. By Bayes' rule the odds that a name was said are those of the audio, times
the chance of this name among all names, over the chance of its phonemes in any speech. In nats:

    evidence = log-probability of its phonemes in the audio + credit
    credit = SHARE * surprise of its phonemes - ln(number of names), but not below 0

What a name without credit is heard by has to be as good as certain; where the greedy phonemes say just the name, a
little less so (`kit.retrieval.hybrid.HEARD_SO`). SHARE is fitted: the surprise, by pairs of
phonemes in the names, is more than real speech would give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kit.retrieval.phonetics import bare
from kit.text.phonemes import PhonemeInventory

SHARE = 0.8
RARE = 1000  # names that are added to the number of all: that the only one of a list is said is no matter of course
# Nats a phoneme, where no names are known to learn it from: usually, where a name begins, and of a Mandarin final
# without an initial, which is a syllable. About what they are in a list of a million names.
TYPICAL, TYPICAL_FIRST, TYPICAL_BARE = 3.0, 4.0, 6.0
_SMOOTHING = 20.0  # pairs of each kind that are believed to have been seen in proportion to the second phoneme


@dataclass(frozen=True)
class Chances:
    """How surprising phonemes are.

    Attributes:
        table: (V, V) nats of the second symbol of a pair behind the first; behind 0 where a string begins.
    """

    table: NDArray[np.float32]

    @classmethod
    def learn(cls, strings: NDArray[np.uint8], starts: NDArray[np.int64], symbols: int) -> Chances:
        """From (n,) phonemes of strings behind one another, which begin at `starts` (the last of these is n)."""
        pairs = np.bincount(_pairs(strings, starts, symbols), minlength=symbols * symbols).reshape(symbols, symbols)
        single = pairs.sum(0) + 1.0
        expected = _SMOOTHING * single / single.sum()
        found = -np.log((pairs + expected) / (pairs.sum(1, keepdims=True) + _SMOOTHING))
        return cls(found.astype(np.float32))

    @classmethod
    def typical(cls, inventory: PhonemeInventory) -> Chances:
        """Without any knowledge of names."""
        table = np.full((len(inventory), len(inventory)), TYPICAL, np.float32)
        table[0] = TYPICAL_FIRST
        table[bare(inventory)] = TYPICAL_BARE
        return cls(table)

    def credit(self, strings: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.float32]:
        """(number of strings,) the credit of each, in nats; arguments as in `learn`."""
        if len(starts) < 2:
            return np.zeros(0, np.float32)
        nats = self.table.ravel()[_pairs(strings, starts, len(self.table))]
        surprise = np.add.reduceat(nats, starts[:-1])
        return np.maximum(SHARE * surprise - math.log(len(surprise) + RARE), 0.0).astype(np.float32)


def _pairs(strings: NDArray[np.uint8], starts: NDArray[np.int64], symbols: int) -> NDArray[np.int32]:
    """Numbers of the pairs that end in each phoneme."""
    before = np.empty(len(strings), np.int32)
    before[1:] = strings[:-1]
    before[starts[:-1]] = 0
    return before * np.int32(symbols) + strings
