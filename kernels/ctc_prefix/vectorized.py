"""The CPU path: no loop over frames for prefixes, one over the chunk for whole strings.

`psi` is a reduction over frames, and in the probability domain a matrix product. `extend` is a first-order recurrence
in the log semiring, so it is a cumulative log-sum-exp of its inputs divided by the product of the factors so far. Both
are computed in double, where dividing by such products costs nothing that single precision would show.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.ctc_prefix.reference import FLOOR, NOTHING, forward_chunk

__all__ = ["extend", "forward_chunk", "psi"]

_TINY = 1e-280  # below this a sum of products may have lost terms to underflow


def psi(log_probs: Tensor, lengths: Tensor, r_n: Tensor, r_b: Tensor, last: Tensor, blank: int = 0) -> Tensor:
    """As `reference.psi`."""
    x = log_probs.double().clamp_min(FLOOR)
    inside = torch.arange(x.shape[1], device=x.device) < lengths[:, None, None]  # (B, 1, T)
    begin = torch.where(last < 0, 0.0, NOTHING).double()
    before = _delayed(torch.logaddexp(r_n, r_b).double(), begin).masked_fill(~inside, NOTHING)
    top = before.amax(-1, keepdim=True)
    sums = (before - top).exp() @ x.exp()  # (B, W, V)
    scores = sums.log() + top
    if bool((sums < _TINY).any()):
        scores = torch.where(sums < _TINY, _exact(before, x), scores)
    symbol = last.clamp_min(0).long()
    of_last = x.gather(2, symbol[:, None].expand(-1, x.shape[1], -1)).transpose(1, 2)  # (B, W, T)
    held = _delayed(r_b.double(), begin).masked_fill(~inside, NOTHING)
    repeated = (held + of_last).logsumexp(-1)
    kept = scores.gather(2, symbol[..., None])[..., 0]
    scores = scores.scatter(2, symbol[..., None], torch.where(last < 0, kept, repeated)[..., None])
    scores[..., blank] = NOTHING
    return scores.clamp_min(NOTHING).to(r_n.dtype)


def extend(
    log_probs: Tensor,
    lengths: Tensor,
    r_n: Tensor,
    r_b: Tensor,
    last: Tensor,
    parents: Tensor,
    tokens: Tensor,
    blank: int = 0,
) -> tuple[Tensor, Tensor]:
    """As `reference.extend`."""
    frames = log_probs.shape[1]
    index = parents.long()[..., None].expand(-1, -1, frames)
    parent_n, parent_b = r_n.gather(1, index).double(), r_b.gather(1, index).double()
    parent_last = last.gather(1, parents.long())
    phi = torch.where((parent_last == tokens)[..., None], parent_b, torch.logaddexp(parent_n, parent_b))
    emitted = log_probs.gather(2, tokens.long()[:, None].expand(-1, frames, -1)).transpose(1, 2)
    silent = log_probs[:, None, :, blank].expand_as(emitted)
    n = _recurrence(_delayed(phi, torch.where(parent_last < 0, 0.0, NOTHING).double()), emitted)
    b = _recurrence(_delayed(n, torch.full_like(n[..., 0], NOTHING)), silent)
    outside = torch.arange(frames, device=n.device) >= lengths[:, None, None]
    return n.masked_fill(outside, NOTHING).to(r_n.dtype), b.masked_fill(outside, NOTHING).to(r_b.dtype)


def _delayed(values: Tensor, first: Tensor) -> Tensor:
    """Values of the frame before, `first` (B, W) before the first."""
    return torch.cat([first[..., None], values[..., :-1]], -1)


def _recurrence(entering: Tensor, emitted: Tensor) -> Tensor:
    """r_t = (r_{t-1} (+) entering_t) + emitted_t over the last axis, with nothing before."""
    emitted = emitted.double().clamp_min(FLOOR)
    product = emitted.cumsum(-1)
    return ((entering - (product - emitted)).logcumsumexp(-1) + product).clamp_min(NOTHING)


def _exact(before: Tensor, x: Tensor) -> Tensor:
    """The same sums without leaving the log domain, one prefix at a time to bound memory."""
    rows = [(before[:, i, :, None] + x).logsumexp(1) for i in range(before.shape[1])]
    return torch.stack(rows, 1)
