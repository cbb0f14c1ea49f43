"""Losses over encoder frames."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

IGNORE = -100


def ctc_loss(logits: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """CTC negative log-likelihood a target symbol (Graves et al. 2006), summed over the batch before dividing.

    Args:
        logits: (B, T, V), index 0 the blank.
        lengths: (B,) frames.
        targets: (B, U) symbol ids, padded with anything.
        target_lengths: (B,) symbols.
    """
    scores = logits.float().log_softmax(-1).transpose(0, 1)
    total = F.ctc_loss(scores, targets, lengths, target_lengths, reduction="sum", zero_infinity=True)
    return total / target_lengths.sum().clamp_min(1)


def frame_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of frames (B, T, V) against labels (B, T'), IGNORE where unknown; T, T' may differ by padding."""
    size = min(logits.shape[1], labels.shape[1])
    return F.cross_entropy(logits[:, :size].transpose(1, 2), labels[:, :size], ignore_index=IGNORE)
