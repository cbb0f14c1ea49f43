"""Whether an utterance contains given strings of symbols, wherever, while it grows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kernels import ctc_prefix


class Spotter:
    """Carries strings over the frames of one utterance by the CTC forward recurrence with a free start.

    Args:
        strings: N strings of symbol numbers, none of them empty.

    Attributes:
        worse: of each string, by how many nats a symbol it explains the stretch of audio that fits it best worse than
            the best path through the same frames; infinite before there is audio, and about zero where it was said.
    """

    def __init__(self, strings: Sequence[Sequence[int]]) -> None:
        longest = max(map(len, strings), default=0)
        self._strings = torch.tensor([[[*string, *[0] * (longest - len(string))] for string in strings]])  # (1, N, S)
        self._sizes = torch.tensor([[len(string) for string in strings]])
        self._alphas = ctc_prefix.begin_strings(self._sizes, longest, torch.zeros(()))
        self.worse = [math.inf] * len(strings)

    def hear(self, log_probs: Tensor) -> None:
        """The next frames, (T, V) log-probabilities on the CPU."""
        if not (len(log_probs) and self.worse):
            return
        relative = log_probs.float() - log_probs.amax(-1, keepdim=True)
        self._alphas, at_last, at_blank = ctc_prefix.forward_chunk(
            relative[None], torch.tensor([len(log_probs)]), self._strings, self._sizes, self._alphas, free_start=True
        )
        best = torch.logaddexp(at_last, at_blank).amax(-1)  # (1, N)
        found = (-best / self._sizes)[0].tolist()
        self.worse = [min(one, other) for one, other in zip(self.worse, found, strict=True)]
