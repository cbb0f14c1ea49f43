"""Chunked attention with Transformer-XL relative positions, in plain PyTorch.

    score(i, j) = [(q_i + u) . k_j + (q_i + v) . p_{i-j}] / sqrt(D)

(Dai et al. 2019, arXiv 1901.02860, section 3.3), restricted to the query's own chunk and a number of chunks to its
left (Zhang et al. 2020, arXiv 2012.05481). Works in any floating type, double included.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MASKED = -1e30  # finite, so that a row without any visible key does not become NaN


def chunk_mask(size: int, lengths: Tensor, chunk: int = 0, left: int = -1) -> Tensor:
    """Which keys each query may see.

    Args:
        size: number of frames T.
        lengths: (B,) valid frames of each row.
        chunk: frames a chunk; 0 means that every frame sees the whole utterance.
        left: how many earlier chunks are visible; -1 means all of them.

    Returns:
        (B, T, T) bool, True where query (second axis) may look at key (third axis).
    """
    position = torch.arange(size, device=lengths.device)
    valid = (position < lengths[:, None])[:, None, :]  # (B, 1, T)
    if chunk <= 0:
        return valid.expand(-1, size, -1)
    index = position // chunk
    visible = index[None, :] <= index[:, None]  # (T, T)
    if left >= 0:
        visible = visible & (index[None, :] >= index[:, None] - left)
    return valid & visible


def chunk_attention(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, u: Tensor, w: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Attend with content and relative position.

    The queries are the last Tq of the Tk key positions, so one call serves training (Tq = Tk) and streaming.

    Args:
        q: (B, Tq, H, D) queries.
        k: (B, Tk, H, D) keys.
        v: (B, Tk, H, D) values.
        table: (Tk + Tq - 1, H, D) projected positions; row r stands for the distance i - j = Tk - 1 - r.
        u: (H, D) content bias.
        w: (H, D) position bias (the paper's v).
        mask: (B, Tq, Tk) bool, True where visible; None when every key is.

    Returns:
        (B, Tq, H, D); zero for a query that sees no key.
    """
    queries, keys = q.shape[1], k.shape[1]
    if table.shape[0] != keys + queries - 1:
        raise ValueError(
            f"table has {table.shape[0]} rows, but {queries} queries on {keys} keys need {keys + queries - 1}"
        )
    content = (q + u).transpose(1, 2) @ k.permute(0, 2, 3, 1)  # (B, H, Tq, Tk)
    by_distance = (q + w).transpose(1, 2) @ table.permute(1, 2, 0)  # (B, H, Tq, Tk + Tq - 1)
    score = (content + _shear(by_distance, keys)) / math.sqrt(q.shape[-1])
    if mask is not None:
        hidden = ~mask[:, None]
        score = score.masked_fill(hidden, _MASKED).softmax(-1).masked_fill(hidden, 0.0)
    else:
        score = score.softmax(-1)
    return (score @ v.transpose(1, 2)).transpose(1, 2)


def _shear(by_distance: Tensor, keys: int) -> Tensor:
    """Turn scores by distance into scores by key: out[i, j] = in[i, Tq - 1 - i + j]."""
    queries, rows = by_distance.shape[-2:]
    if queries == 1:
        return by_distance
    # In memory the wanted elements of row i start at i * (rows - 1) + (Tq - 1): a view with a shorter row does it.
    flat = by_distance.flatten(-2)[..., queries - 1 : queries * rows - 1]
    return flat.unflatten(-1, (queries, rows - 1))[..., :keys]
