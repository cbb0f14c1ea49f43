"""Chunked attention with Transformer-XL relative positions, by its definition. Any floating type, double included.

    score(i, j) = [(q_i + u) . k_j + (q_i + w) . p_{i-j}] / sqrt(D)

(Dai et al. 2019, arXiv 1901.02860, section 3.3, where w is called v), restricted to the query's own chunk and a number
of chunks to its left (Zhang et al. 2020, arXiv 2012.05481).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def chunk_mask(queries: int, keys: int, lengths: Tensor, chunk: int = 0, left: int = -1) -> Tensor:
    """Which keys each query may see.

    Args:
        queries, keys: Tq and Tk; the queries are the last of the keys' positions.
        lengths: (B,) valid keys of each row.
        chunk: frames a chunk; 0 means that every frame sees the whole utterance.
        left: how many earlier chunks are visible; -1 means all of them.

    Returns:
        (B, Tq, Tk) bool, True where query may look at key.
    """
    key = torch.arange(keys, device=lengths.device)
    valid = (key < lengths[:, None])[:, None, :]  # (B, 1, Tk)
    if chunk <= 0:
        return valid.expand(-1, queries, -1)
    query = torch.arange(keys - queries, keys, device=lengths.device)
    ahead = query[:, None] // chunk - key // chunk  # (Tq, Tk)
    return valid & (ahead >= 0 if left < 0 else (ahead >= 0) & (ahead <= left))


def chunk_attention_reference(
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
    """As `kernels.chunk_attention.chunk_attention`; every pair of positions is scored, visible or not."""
    queries, keys = q.shape[1], k.shape[1]
    content = torch.einsum("bihd,bjhd->bhij", q + u, k)
    by_distance = torch.einsum("bihd,rhd->bhir", q + w, table)
    query = torch.arange(keys - queries, keys, device=q.device)
    row = far - query[:, None] + torch.arange(keys, device=q.device)
    row = row.clamp(0, table.shape[0] - 1)  # rows that are not there stand for distances that no query sees
    position = by_distance.gather(-1, row.expand(*by_distance.shape[:2], -1, -1))
    hidden = ~chunk_mask(queries, keys, lengths, chunk, left)[:, None]
    score = (content + position) / math.sqrt(q.shape[-1])
    # Finite, so that a row without any visible key does not become NaN.
    score = score.masked_fill(hidden, torch.finfo(score.dtype).min)
    return torch.einsum("bhij,bjhd->bihd", score.softmax(-1).masked_fill(hidden, 0.0), v)


def chunk_attention_stream_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ring_keys: Tensor,
    ring_values: Tensor,
    table: Tensor,
    u: Tensor,
    w: Tensor,
    slots: Tensor,
    start: Tensor,
    fresh: Tensor,
    span: int,
    far: int,
) -> Tensor:
    """As `kernels.chunk_attention.chunk_attention_stream`, one stream after another."""
    out, size = torch.zeros_like(q), ring_keys.shape[1]
    for row, (slot, count) in enumerate(zip(slots.tolist(), fresh.tolist(), strict=True)):
        begun = int(start[slot])
        old = torch.arange(max(0, begun - span), begun, device=q.device) % size
        key, value = (
            torch.cat([ring[slot, old], x[row, :count]])[None] for ring, x in ((ring_keys, k), (ring_values, v))
        )
        lengths = torch.full((1,), key.shape[1], device=q.device)
        heard = chunk_attention_reference(q[row : row + 1, :count], key, value, table, u, w, lengths, 0, -1, far)
        out[row, :count] = heard[0]
        new = torch.arange(begun, begun + count, device=q.device) % size
        ring_keys[slot, new], ring_values[slot, new] = k[row, :count], v[row, :count]
    return out
