"""Phoneme strings as vectors: strings that sound alike lie close together, whatever was inserted or left out.

A string is described twice: by the course of its phonetic features from beginning to end, as the first terms of a
cosine transform, which misheard phonemes bend and lost ones squeeze a little; and by the groups of one to three
phonemes in it, hashed, which say more of what exactly stands there. A linear map, learned from strings and the same
strings with errors, keeps the directions in which strings differ more than errors do, measured in the size of the
errors (linear discriminant analysis, Fisher 1936).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kit.retrieval.phonetics import DIM as FEATURES
from kit.retrieval.phonetics import vectors
from kit.text.phonemes import PhonemeInventory
from kit.text.similar import toneless

DIM = 96
WAVES = 5  # terms of the cosine transform
BUCKETS = 256  # of hashed groups
GROUP = 3  # phonemes in a group at most
LENGTH = 0.6  # what the square root of the length counts
WIDTH = WAVES * FEATURES + BUCKETS + 1  # of a description

EXAMPLES = 30_000  # strings that the map is learned from
_MOST_ERRORS = 3
_SUBSTITUTED, _LOST = 0.7, 0.2  # of the errors; the others are insertions
_SHARPNESS = 6.0  # how much rarer errors are that change the sound more
_FLOOR = 0.02  # of the mean scatter by errors, added in each direction
_SHORTEST, _LONGEST = 6, 16  # made strings, where there are too few real ones
_BLOCK = 1 << 12  # strings described at once

Strings = Sequence[bytes]


@dataclass(frozen=True)
class Embedding:
    """What turns strings into vectors.

    Attributes:
        sounds: (V, FEATURES) of the symbols.
        groups: (V,) what the hashes are made of: the same for all tones of a final.
        projection: (WIDTH, DIM).
    """

    sounds: NDArray[np.float32]
    groups: NDArray[np.uint64]
    projection: NDArray[np.float32]

    @classmethod
    def learn(cls, strings: Strings, inventory: PhonemeInventory) -> Embedding:
        """The map for strings like these; the same ones give the same map.

        Args:
            strings: some ten thousand of at least one phoneme; where there are fewer, others are made up.
        """
        draw = np.random.default_rng(0)
        made = [_made_up(draw, len(inventory)) for _ in range(EXAMPLES - len(strings))]
        clean = [*strings[:EXAMPLES], *made]
        blank = cls(vectors(inventory), _group_codes(inventory), np.zeros((WIDTH, DIM), np.float32))
        errors = _Errors(blank.sounds, draw)
        right, wrong = blank.describe(clean), blank.describe([errors.misheard(string) for string in clean])
        return cls(blank.sounds, blank.groups, _discriminants(right, wrong))

    def __call__(self, strings: Strings) -> NDArray[np.float32]:
        """(N, DIM): the squared distance of two of them tells how many errors of the usual size lie between."""
        found = np.empty((len(strings), DIM), np.float32)
        order = np.argsort([len(string) for string in strings], kind="stable")  # equally long ones need no padding
        for start in range(0, len(strings), _BLOCK):
            rows = order[start : start + _BLOCK]
            found[rows] = self.describe([strings[row] for row in rows]) @ self.projection
        return found

    def describe(self, strings: Strings) -> NDArray[np.float32]:
        """(N, WIDTH): course, groups, length."""
        sizes = np.array([len(string) for string in strings])
        padded = np.zeros((len(strings), int(sizes.max(initial=1))), np.uint8)
        padded[np.arange(padded.shape[1]) < sizes[:, None]] = np.frombuffer(b"".join(strings), np.uint8)
        length = LENGTH * np.sqrt(sizes, dtype=np.float32)[:, None]
        return np.concatenate([self._course(padded, sizes), self._grouped(padded, sizes), length], 1)

    def _course(self, padded: NDArray[np.uint8], sizes: NDArray[np.int64]) -> NDArray[np.float32]:
        different, which = np.unique(sizes, return_inverse=True)
        places = (np.arange(padded.shape[1]) + 0.5) / different[:, None]
        phases = np.pi * np.arange(WAVES)[:, None] * places[:, None]  # (sizes, WAVES, M)
        waves = (np.cos(phases) / np.sqrt(different)[:, None, None]).astype(np.float32)[which]
        return (waves @ self.sounds[padded]).reshape(len(padded), -1)  # behind a string stand blanks, which are zeros

    def _grouped(self, padded: NDArray[np.uint8], sizes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Sums of the signs of all groups by bucket, divided by the square root of their number."""
        codes, width = self.groups[padded], padded.shape[1]
        rows = np.arange(len(padded))[:, None] * BUCKETS
        state = np.zeros((len(padded), width), np.uint64)
        sums = np.zeros(len(padded) * BUCKETS)
        for size in range(1, min(GROUP, width) + 1):
            state = _mixed(state[:, : width - size + 1] + codes[:, size - 1 :])
            places = rows + (state >> np.uint64(40)).astype(np.int64) % BUCKETS
            signs = ((state >> np.uint64(63)).astype(np.int64) * 2 - 1) * (np.arange(size - 1, width) < sizes[:, None])
            sums += np.bincount(places.ravel(), signs.ravel(), minlength=len(sums))
        count = np.maximum(GROUP * sizes - GROUP * (GROUP - 1) // 2, 1)
        return (sums.reshape(len(padded), BUCKETS) / np.sqrt(count)[:, None]).astype(np.float32)


class _Errors:
    """Strings as somebody might hear them, by phonetics alone: no recognizer is known yet."""

    def __init__(self, sounds: NDArray[np.float32], draw: np.random.Generator) -> None:
        self._sounds, self._draw = sounds, draw

    @cached_property
    def _others(self) -> NDArray[np.float64]:
        """(V, V): cumulative probabilities of what a symbol is taken for."""
        far = ((self._sounds[:, None] - self._sounds[None]) ** 2).sum(-1, dtype=np.float64)
        chances = np.exp(-_SHARPNESS * far)
        np.fill_diagonal(chances, 0.0)
        chances[:, 0] = 0.0  # the blank
        return np.cumsum(chances, 1) / chances.sum(1, keepdims=True)

    def misheard(self, string: bytes) -> bytes:
        """With one to _MOST_ERRORS errors."""
        heard = bytearray(string)
        for _ in range(self._draw.integers(1, _MOST_ERRORS + 1)):
            kind, chance, place = self._draw.random(3)
            at = int(place * len(heard))
            if kind < _SUBSTITUTED:
                heard[at] = min(int(np.searchsorted(self._others[heard[at]], chance)), len(self._sounds) - 1)
            elif kind < _SUBSTITUTED + _LOST and len(heard) > 1:
                del heard[at]
            else:
                heard.insert(at, 1 + int(chance * (len(self._sounds) - 1)))
        return bytes(heard)


def _discriminants(right: NDArray[np.float32], wrong: NDArray[np.float32]) -> NDArray[np.float32]:
    """(WIDTH, DIM): directions of largest scatter of all strings, after scaling the scatter by errors to one."""
    apart = (right - wrong).astype(np.float64)
    by_errors = apart.T @ apart / len(apart)
    by_errors += np.eye(WIDTH) * _FLOOR * np.trace(by_errors) / WIDTH
    scale = np.linalg.inv(np.linalg.cholesky(by_errors))
    overall = scale @ np.cov(right.astype(np.float64), rowvar=False) @ scale.T
    _, directions = np.linalg.eigh(overall)  # by rising scatter
    return np.ascontiguousarray((scale.T @ directions[:, ::-1][:, :DIM]).astype(np.float32))


def _group_codes(inventory: PhonemeInventory) -> NDArray[np.uint64]:
    names = [toneless(symbol) for symbol in inventory.symbols]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names), 1)}
    return _mixed(np.array([numbers[name] for name in names], np.uint64))


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit depends on every bit (the finalizer of SplitMix64, Steele et al. 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _made_up(draw: np.random.Generator, symbols: int) -> bytes:
    return draw.integers(1, symbols, draw.integers(_SHORTEST, _LONGEST + 1)).astype(np.uint8).tobytes()
