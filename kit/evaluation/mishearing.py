"""Speech that was never recorded, as a phoneme head would hear it: snippets of its real output, put together.

The output for real utterances is cut, along a forced alignment, into a snippet a phoneme, heard rightly or wrongly. A
string of phonemes is then spoken by drawing a snippet for each, a wrong one as often as wanted. So every row of
probabilities is the head's own: what it takes a phoneme for, and how much it leaves to the right one. What is lost is
that real errors come in runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from random import Random

import torch
from torch import Tensor

from kit.decoding.alignment import align
from kit.errors import KitError
from kit.retrieval.hybrid import Hearing
from kit.retrieval.phonetics import costs
from kit.text.phonemes import PhonemeInventory

ENOUGH = 8  # snippets of a phoneme; where there are fewer, those of its nearest neighbors are taken, too


class Snippets:
    """How a phoneme head hears each phoneme.

    Args:
        utterances: (T, V) log-probabilities of each and the phonemes that were said.
        inventory: of the head.

    Attributes:
        error_rate: share of all snippets that were heard wrongly.

    Raises:
        KitError: nothing was heard wrongly, or nothing rightly.
    """

    def __init__(self, utterances: Iterable[tuple[Tensor, Sequence[int]]], inventory: PhonemeInventory) -> None:
        self._costs = costs(inventory)
        self._found: dict[bool, dict[int, list[Tensor]]] = {True: {}, False: {}}
        self._pools: dict[tuple[int, bool], list[Tensor]] = {}
        self._pause: Tensor | None = None  # a frame between two phonemes
        for log_probs, symbols in utterances:
            for symbol, rows in pieces(log_probs, symbols):
                self._found[heard(rows) == [symbol]].setdefault(symbol, []).append(rows)
            if self._pause is None and len(log_probs):
                self._pause = log_probs[log_probs[:, 0].argmax()]
        right, wrong = (sum(map(len, self._found[kind].values())) for kind in (True, False))
        if not right or not wrong:
            raise KitError(
                f"of {right + wrong} phonemes {wrong} were heard wrongly: too few of a kind to learn from; "
                "take more utterances"
            )
        self.error_rate = wrong / (right + wrong)

    def speak(self, string: Sequence[int], errors: float, draw: Random) -> Tensor:
        """(T, V) log-probabilities of a string.

        Args:
            errors: share of the phonemes that are heard wrongly.
        """
        parts: list[Tensor] = []
        for symbol in string:
            rows = draw.choice(self._pool(symbol, draw.random() >= errors))
            if parts and int(parts[-1][-1].argmax()) == int(rows[0].argmax()) != 0:
                assert self._pause is not None
                parts.append(self._pause[None])  # else two of a kind would become one
            parts.append(rows)
        return torch.cat(parts)

    def _pool(self, symbol: int, right: bool) -> list[Tensor]:
        """Snippets for a symbol: its own, and of those that sound most like it with their columns exchanged."""
        if (symbol, right) not in self._pools:
            pool: list[Tensor] = []
            for other in self._costs[symbol].argsort(kind="stable").tolist():
                pool += [_exchanged(rows, symbol, other) for rows in self._found[right].get(other, ())]
                if len(pool) >= ENOUGH:
                    break
            self._pools[symbol, right] = pool
        return self._pools[symbol, right]


def pieces(log_probs: Tensor, symbols: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """Each symbol with its frames, cut halfway to its neighbors; nothing if the symbols do not fit into the frames."""
    spans = align(log_probs, symbols)
    if spans is None:
        return
    cuts = [max(0, spans[0][0] - 1)]
    cuts += [(end + start + 1) // 2 for (_, end), (start, _) in pairwise(spans)]
    cuts.append(spans[-1][1] + 1)
    for symbol, (start, end) in zip(symbols, pairwise(cuts), strict=True):
        yield symbol, log_probs[start:end]


def heard(log_probs: Tensor) -> list[int]:
    """The phonemes of the greedy path."""
    hearing = Hearing()
    hearing.hear([log_probs])
    return hearing.phonemes


def _exchanged(rows: Tensor, one: int, other: int) -> Tensor:
    if one == other:
        return rows
    rows = rows.clone()
    rows[:, [one, other]] = rows[:, [other, one]]
    return rows
