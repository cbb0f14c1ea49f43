"""Phoneme hypotheses from the CTC head."""

from __future__ import annotations

import torch
from torch import Tensor

BLANK = 0


def greedy(logits: Tensor, lengths: Tensor) -> list[list[int]]:
    """Best symbol a frame, repeats merged, blanks dropped.

    Args:
        logits: (B, T, V).
        lengths: (B,) frames.
    """
    best = logits.argmax(-1).cpu()
    rows = (torch.unique_consecutive(row[:size]).tolist() for row, size in zip(best, lengths.tolist(), strict=True))
    return [[symbol for symbol in row if symbol != BLANK] for row in rows]
