"""Beam search over the LLM's tokens, one step at a time, so that many texts can be searched together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(order=True)
class Continuation:
    """What the LLM would write.

    Attributes:
        score: mean log-probability a token, the end included.
        ids: tokens without the end.
    """

    score: float
    ids: list[int] = field(compare=False)


class Beam:
    """The hypotheses of one text.

    Args:
        width: K, hypotheses that are kept.
        end: the token that ends a text.
        max_tokens: longest continuation.

    Attributes:
        done: whether no step can change the result any more.
        parents: of the K hypotheses by the last step, which hypothesis before it each goes on from.
        tokens: the last token of each.
        totals: the log-probability of each.
    """

    def __init__(self, width: int, end: int, max_tokens: int) -> None:
        self.width, self.end, self.max_tokens = width, end, max_tokens
        self.parents: list[int] = []
        self.tokens: list[int] = []
        self.done = False
        self.totals = [0.0] + [float("-inf")] * (width - 1)  # all are alike at first
        self._ids: list[list[int]] = [[] for _ in range(width)]
        self._ended: list[Continuation] = []
        self._length = 0
        self._settled = False

    def step(self, best: Iterable[tuple[float, int, int]]) -> None:
        """Go on by a token, by the best 2 K ways to do so, best first: log-probability, hypothesis and token."""
        self._length += 1
        kept: list[tuple[float, int, int]] = []
        for score, parent, token in best:
            if token == self.end:
                self._ended.append(Continuation(score / self._length, self._ids[parent]))
            elif len(kept) < self.width:
                kept.append((score, parent, token))
        self._ended = sorted(self._ended, reverse=True)[: self.width]
        self.parents, self.tokens = [parent for _, parent, _ in kept], [token for _, _, token in kept]
        self.totals = [score for score, _, _ in kept]
        self._ids = [[*self._ids[parent], token] for _, parent, token in kept]
        self._settled = len(self._ended) == self.width and self._ended[-1].score >= kept[0][0] / self._length
        self.done = self._settled or self._length == self.max_tokens

    def found(self) -> list[Continuation]:
        """The best K when it is done, best first; such as have not come to an end only where `max_tokens` ran out."""
        if self._settled:
            return self._ended
        unfinished = [
            Continuation(score / self._length, ids) for score, ids in zip(self.totals, self._ids, strict=True)
        ]
        return sorted([*self._ended, *unfinished], reverse=True)[: self.width]


def step_together(beams: Sequence[Beam], log_probs: Tensor) -> Tensor:
    """Go on by a token in all beams, by log-probabilities (sum of K, V); a device is asked for its answer once.

    Returns:
        Of the hypotheses of all beams that are not done, the number of the one that each goes on from.
    """
    nothing, widths = float("-inf"), [beam.width for beam in beams]
    most, count = max(widths), log_probs.shape[1]
    totals = [[*beam.totals, *[nothing] * (most - beam.width)] for beam in beams]
    options = pad_sequence(log_probs.split(widths), batch_first=True, padding_value=nothing)
    best, flat = (options + log_probs.new_tensor(totals)[..., None]).flatten(1).topk(2 * most)
    scores, places = torch.stack([best.double(), flat.double()]).tolist()
    order, first = [], 0
    for beam, row, found in zip(beams, scores, places, strict=True):
        ways = [(score, *divmod(int(place), count)) for score, place in zip(row, found, strict=True)]
        beam.step(ways[: 2 * beam.width])
        if not beam.done:
            order += [first + parent for parent in beam.parents]
        first += beam.width
    return torch.tensor(order, dtype=torch.long, device=log_probs.device)
