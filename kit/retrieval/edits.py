"""How far strings are from the best fitting stretch of a text, by the sound of their phonemes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LOST = 0.75  # what a missing or surplus phoneme costs; one that is taken for another costs at most 1

_Array = NDArray[np.float32]


class Edits:
    """The cheapest edits of some strings into stretches of a growing text (Sellers 1980), all strings at once.

    Args:
        costs: (V, V) what it costs to take one symbol for another, see `kit.retrieval.phonetics.costs`.
        strings: N strings of at least one symbol.

    Attributes:
        start: the state before any text.
    """

    def __init__(self, costs: _Array, strings: Sequence[bytes]) -> None:
        self._sizes = np.array([len(string) for string in strings], np.intp)
        longest = int(self._sizes.max(initial=0))
        padded = np.frombuffer(b"".join(string.ljust(longest, b"\0") for string in strings), np.uint8)
        self._costs, self._strings = costs, padded.reshape(len(strings), longest)
        self._names = np.arange(len(strings))
        self.start = np.zeros((len(strings), longest + 1), np.float32)

    def follow(
        self, state: NDArray[np.float32], text: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Go on over the next symbols of the text.

        Returns:
            (n, N): for a stretch that ends with each of the n symbols, wherever it begins, what each string costs; and
            the state to go on from. The one that was given stays as it is.
        """
        # What a string's first j symbols cost, less j times LOST: then to lose one more is to take the least so far.
        states = np.zeros((len(text) + 1, *state.shape), np.float32)
        states[0] = state
        taken = self._costs[list(text)][:, self._strings] - LOST
        for before, after, cost in zip(states[:-1], states[1:], taken, strict=True):
            np.add(before[:, :-1], cost, out=after[:, 1:])
            np.minimum(after[:, 1:], before[:, 1:] + LOST, out=after[:, 1:])
            np.minimum.accumulate(after, 1, out=after)
        return states[1:, self._names, self._sizes] + LOST * self._sizes.astype(np.float32), states[-1]
