"""The CPU path where every block would look at everything: all pairs at once, differentiated by autograd.

At these sizes keeping the weights for the backward pass is cheaper than computing them again.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.chunk_attention.reference import chunk_mask


def chunk_attention_dense(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    u: Tensor,
    w: Tensor,
    lengths: Tensor,
    chunk: int,
    left: int,
    far: int,
) -> Tensor:
    """As `kernels.chunk_attention.chunk_attention`, with chunk above zero and left not negative."""
    queries, keys = q.shape[1], k.shape[1]
    before = keys - 1 - far
    after = keys + queries - 1 - table.shape[0] - before
    if before or after:
        table = F.pad(table, (0, 0, 0, 0, before, after))
    u, w = u.to(q.dtype), w.to(q.dtype)
    content = (q + u).transpose(1, 2) @ k.permute(0, 2, 3, 1)  # (B, H, Tq, Tk)
    by_distance = (q + w).transpose(1, 2) @ table.permute(1, 2, 0)  # (B, H, Tq, Tk + Tq - 1)
    score = (content + shifted(by_distance, keys)) / math.sqrt(q.shape[-1])
    hidden = ~chunk_mask(queries, keys, lengths, chunk, left)[:, None]
    weight = score.masked_fill(hidden, torch.finfo(score.dtype).min).softmax(-1)
    mixed = (weight @ v.transpose(1, 2)).transpose(1, 2)
    return mixed.masked_fill(hidden.all(-1)[:, 0, :, None, None], 0.0)


def shifted(by_distance: Tensor, keys: int) -> Tensor:
    """Turn scores by distance into scores by key: out[i, j] = in[i, Tq - 1 - i + j]."""
    queries, rows = by_distance.shape[-2:]
    if queries == 1:
        return by_distance
    # In memory the wanted elements of row i start at i * (rows - 1) + (Tq - 1): a view with a shorter row does it.
    flat = by_distance.flatten(-2)[..., queries - 1 : queries * rows - 1]
    return flat.unflatten(-1, (queries, rows - 1))[..., :keys]
