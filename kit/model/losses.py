"""Losses over encoder frames."""

from __future__ import annotations

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor

from kit.errors import UsageError

IGNORE = -100
BACKENDS = ("auto", "torch", "k2")
_BEAM = 1e4  # of k2's intersection, in nats: wide enough to be exact


def ctc_loss(
    logits: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor, backend: str = "torch"
) -> Tensor:
    """CTC negative log-likelihood a target symbol (Graves et al. 2006), summed over the batch before dividing.

    An utterance without symbols counts as one, so that a batch without speech weighs no more than others.

    Args:
        logits: (B, T, V), index 0 the blank.
        lengths: (B,) frames.
        targets: (B, U) symbol ids, padded with anything.
        target_lengths: (B,) symbols.
        backend: "torch", "k2", or "auto": k2's where it is installed, torch's otherwise. The numbers are the same.

    Raises:
        UsageError: another backend, or k2 is wanted and not installed.
    """
    scores = logits.float().log_softmax(-1)
    if _chosen(backend) == "k2":
        each = _k2_losses(scores, lengths, targets, target_lengths)
        total = each.masked_fill(~torch.isfinite(each), 0.0).sum()
    else:
        rows = scores.transpose(0, 1)
        total = F.ctc_loss(rows, targets, lengths, target_lengths, reduction="sum", zero_infinity=True)
    return total / target_lengths.clamp_min(1).sum()


def _chosen(backend: str) -> str:
    if backend not in BACKENDS:
        raise UsageError(f"stage.loss.backend={backend}: known are {', '.join(BACKENDS)}")
    there = backend != "torch" and importlib.util.find_spec("k2") is not None
    if backend == "k2" and not there:
        raise UsageError("stage.loss.backend=k2: k2 is not installed; install it for this torch, or write torch")
    return "k2" if there else "torch"


def _k2_losses(scores: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """Losses (B,) by k2's intersection of CTC graphs with log-probabilities (B, T, V); rows come longest first."""
    import k2

    order = lengths.argsort(descending=True)
    zeros = torch.zeros_like(order)
    segments = torch.stack([order, zeros, lengths[order]], 1).to("cpu", torch.int32)
    sizes = target_lengths.tolist()
    strings = [targets[row, : sizes[row]].tolist() for row in order.tolist()]
    return k2.ctc_loss(
        k2.ctc_graph(strings, device=scores.device),
        k2.DenseFsaVec(scores, segments),
        output_beam=_BEAM,
        reduction="none",
        use_double_scores=True,
    )


def consistency_loss(logits: Tensor, lengths: Tensor, symbols: Tensor) -> Tensor:
    """How far apart the frames of two views are, in nats a target symbol: CR-CTC (Yao et al. 2024, arXiv 2410.05101).

    Half the sum of KL(sg(b) || a) and KL(sg(a) || b) over all frames, where sg stops the gradient: each view learns
    from the other as it is. Divided by target symbols as `ctc_loss` is, so that the paper's weight means the same.

    Args:
        logits: (2 B, T, V), first all utterances in the one view, then in the same order in the other.
        lengths: (2 B,) frames.
        symbols: (B,) target symbols of the utterances.
    """
    scores = logits.float().log_softmax(-1)
    one, other = scores.detach().chunk(2)
    each = F.kl_div(scores, torch.cat([other, one]), reduction="none", log_target=True).sum(-1)  # (2 B, T)
    inside = torch.arange(logits.shape[1], device=logits.device) < lengths[:, None]
    return 0.5 * (each * inside).sum() / symbols.clamp_min(1).sum()


def frame_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of frames (B, T, V) against labels (B, T'), IGNORE where unknown; T, T' may differ by padding."""
    size = min(logits.shape[1], labels.shape[1])
    return F.cross_entropy(logits[:, :size].transpose(1, 2), labels[:, :size], ignore_index=IGNORE)
