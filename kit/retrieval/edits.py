"""How far strings are from the best fitting stretch of a text, by the sound of their phonemes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LOST = 0.75  # what a missing or surplus phoneme costs; one that is taken for another costs at most 1


class Edits:
    """The cheapest edits of some strings into stretches of a growing text (Sellers 1980), all strings at once.

    Args:
        costs: (V, V) what it costs to take one symbol for another, see `kit.retrieval.phonetics.costs`.
        strings: N strings of at least one symbol.

    Attributes:
        start: the state before any text.
    """

    def __init__(self, costs: NDArray[np.float32], strings: Sequence[bytes]) -> None:
        self._sizes = np.array([len(string) for string in strings], np.intp)
        longest = int(self._sizes.max(initial=0))
        padded = np.frombuffer(b"".join(string.ljust(longest, b"\0") for string in strings), np.uint8)
        self._costs, self._strings = costs, padded.reshape(len(strings), longest)
        self._rows = np.arange(len(strings))
        self._lost = LOST * np.arange(longest + 1, dtype=np.float32)
        self.start = np.tile(self._lost, (len(strings), 1))

    def follow(
        self, state: NDArray[np.float32], text: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Go on over the next symbols of the text.

        Returns:
            (n, N): for a stretch that ends with each of the n symbols, wherever it begins, what each string costs; and
            the state to go on from. The one that was given stays as it is.
        """
        found = np.empty((len(text), len(self._rows)), np.float32)
        for place, symbol in enumerate(text):
            taken = state[:, :-1] + self._costs[symbol][self._strings]
            state = np.concatenate([np.zeros((len(state), 1), np.float32), np.minimum(taken, state[:, 1:] + LOST)], 1)
            # A symbol of the string that the text lacks: the least over all that stand before it.
            state = np.minimum.accumulate(state - self._lost, 1) + self._lost
            found[place] = state[self._rows, self._sizes]
        return found, state
