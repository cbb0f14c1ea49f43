"""Which texts sound alike: those of some hundred thousand whose phonemes differ little from given ones, at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from kit.text.phonemes import phonemize

TONE = 0.25  # what a wrong tone costs; every other wrong, missing or surplus phoneme costs 1
MOST_EDITS = 2  # of phonemes whatever their tone: with more, a text is another one, however long it is

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no power of it vanishes in 64 bits


@cache  # the inventory has 241 symbols
def toneless(phoneme: str) -> str:
    """A final without its tone; everything else as it is."""
    return phoneme.rstrip("12345")


def difference(one: str, other: str) -> float:
    """What it costs to take one phoneme for another: 0, TONE or 1."""
    if one == other:
        return 0.0
    return TONE if toneless(one) == toneless(other) else 1.0


def distance(one: Sequence[str], other: Sequence[str]) -> float:
    """Edit distance of two phoneme strings, a phoneme of the longer one: symmetric, 0 if they are equal, at most 1."""
    if not one or not other:
        return float(bool(one or other))
    row = [float(index) for index in range(len(other) + 1)]
    for count, symbol in enumerate(one, 1):
        before, row[0] = row[0], float(count)
        for index, wanted in enumerate(other, 1):
            best = min(before + difference(symbol, wanted), row[index] + 1, row[index - 1] + 1)
            before, row[index] = row[index], best
    return row[-1] / max(len(one), len(other))


class SoundIndex:
    """Texts by their sound.

    Two strings that are at most n edits apart become equal when at most n symbols are taken out of each. So every text
    is kept under the hashes of what is left of its toneless phonemes when up to `edits(length)` of them are taken out,
    and looked up in the same way; the exact distance is computed only for what is found under the same hash.

    Args:
        texts: normalized; those that nobody can pronounce are left out.
        reach: largest `distance` at which a text counts as like another one. Apart from tones, at most MOST_EDITS
            phonemes may differ.
    """

    def __init__(self, texts: Iterable[str], reach: float) -> None:
        self.reach = reach
        pronounced = [(text, tuple(phonemize(text))) for text in dict.fromkeys(texts)]
        self._rows = [(text, phonemes) for text, phonemes in pronounced if phonemes]
        self._codes: dict[str, np.uint64] = {}
        self._draw = np.random.default_rng(0)
        by_length: dict[int, list[int]] = {}
        for row, (_, phonemes) in enumerate(self._rows):
            by_length.setdefault(len(phonemes), []).append(row)
        hashes, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int32)]
        for rows in by_length.values():
            found = self._hashes([self._rows[row][1] for row in rows])
            hashes.append(found.ravel())
            owners.append(np.tile(np.array(rows, np.int32), len(found)))
        every = np.concatenate(hashes)
        order = np.argsort(every, kind="stable")
        self._sorted, self._owners = every[order], np.concatenate(owners)[order]

    def __len__(self) -> int:
        return len(self._rows)

    def edits(self, length: int) -> int:
        """How many of so many phonemes may be others, tones aside."""
        return min(MOST_EDITS, int(self.reach * length + 1e-9))

    def near(self, text: str) -> list[tuple[float, str]]:
        """(distance, text) of every other text within reach, the nearest first."""
        phonemes = tuple(phonemize(text))
        if not phonemes:
            return []
        keys = self._hashes([phonemes]).ravel()
        first = np.searchsorted(self._sorted, keys, "left")
        behind = np.searchsorted(self._sorted, keys, "right")
        rows = {int(row) for start, end in zip(first, behind, strict=True) for row in self._owners[start:end]}
        others = [self._rows[row] for row in rows if self._rows[row][0] != text]
        found = ((distance(phonemes, other), name) for name, other in others)
        return sorted((far, name) for far, name in found if far <= self.reach + 1e-9)

    def _hashes(self, strings: Sequence[tuple[str, ...]]) -> NDArray[np.uint64]:
        """(m, n): n strings of one length L, each in every way in which up to edits(L) symbols can be taken out."""
        length = len(strings[0])
        codes = np.array([[self._code(toneless(symbol)) for symbol in string] for string in strings], np.uint64)
        powers = np.cumprod(np.full(length, _MULTIPLIER), dtype=np.uint64)  # wraps around in 64 bits, as is meant
        every = range(length)
        left = [kept for out in range(self.edits(length) + 1) for kept in itertools.combinations(every, length - out)]
        return np.stack([codes[:, list(kept)] @ powers[: len(kept)] for kept in left])

    def _code(self, symbol: str) -> np.uint64:
        if symbol not in self._codes:
            self._codes[symbol] = self._draw.integers(1, 1 << 63, dtype=np.uint64)
        return self._codes[symbol]
