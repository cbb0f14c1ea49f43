"""Beam search over the LLM's tokens, one step at a time, so that many texts can be searched together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


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
    """

    def __init__(self, width: int, end: int, max_tokens: int) -> None:
        self.width, self.end, self.max_tokens = width, end, max_tokens
        self.parents: list[int] = []
        self.tokens: list[int] = []
        self.done = False
        self._total = [0.0] + [float("-inf")] * (width - 1)  # all are alike at first
        self._ids: list[list[int]] = [[] for _ in range(width)]
        self._ended: list[Continuation] = []
        self._length = 0
        self._settled = False

    def step(self, log_probs: Tensor) -> None:
        """Go on by a token, by the log-probabilities (K, V) behind every hypothesis."""
        self._length += 1
        best, flat = (log_probs + log_probs.new_tensor(self._total)[:, None]).flatten().topk(2 * self.width)
        parents, tokens = (flat // log_probs.shape[1]).tolist(), (flat % log_probs.shape[1]).tolist()
        kept: list[tuple[float, int, int]] = []
        for score, parent, token in zip(best.tolist(), parents, tokens, strict=True):
            if token == self.end:
                self._ended.append(Continuation(score / self._length, self._ids[parent]))
            elif len(kept) < self.width:
                kept.append((score, parent, token))
        self._ended = sorted(self._ended, reverse=True)[: self.width]
        self.parents, self.tokens = [parent for _, parent, _ in kept], [token for _, _, token in kept]
        self._total = [score for score, _, _ in kept]
        self._ids = [[*self._ids[parent], token] for _, parent, token in kept]
        self._settled = len(self._ended) == self.width and self._ended[-1].score >= kept[0][0] / self._length
        self.done = self._settled or self._length == self.max_tokens

    def found(self) -> list[Continuation]:
        """The best K when it is done, best first; such as have not come to an end only where `max_tokens` ran out."""
        if self._settled:
            return self._ended
        unfinished = [
            Continuation(score / self._length, ids) for score, ids in zip(self._total, self._ids, strict=True)
        ]
        return sorted([*self._ended, *unfinished], reverse=True)[: self.width]


def step_together(beams: Sequence[Beam], log_probs: Tensor) -> Tensor:
    """Go on by a token in all beams, by log-probabilities (sum of K, V).

    Returns:
        Of the hypotheses of all beams that are not done, the number of the one that each goes on from.
    """
    order, first = [], 0
    for beam in beams:
        beam.step(log_probs[first : first + beam.width])
        if not beam.done:
            order += [first + parent for parent in beam.parents]
        first += beam.width
    return torch.tensor(order, dtype=torch.long, device=log_probs.device)
