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
    return attend(q, k, v, table, u, w, ~chunk_mask(q.shape[1], k.shape[1], lengths, chunk, left), far)


def stream(
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
    """As `kernels.chunk_attention.chunk_attention_stream`."""
    batch, queries = q.shape[:2]
    size, slots = ring_keys.shape[1], slots.long()[:, None]
    begun = start[slots]  # (B, 1)
    place = begun - span + torch.arange(span + queries, device=q.device)  # in frames of the stream
    seen = (place >= 0) & (place < begun + fresh[:, None])
    at = (slots * size + place % size).flatten()  # in all rings as one
    kept = at.unflatten(0, (batch, -1))[:, span:].flatten()
    keys, values = ring_keys.flatten(0, 1), ring_values.flatten(0, 1)
    # Frames behind the fresh ones are stored too, where nothing that a later chunk sees can stand.
    keys.index_copy_(0, kept, k.flatten(0, 1))
    values.index_copy_(0, kept, v.flatten(0, 1))
    hidden = None if bool(seen.all()) else ~seen[:, None].expand(-1, queries, -1)
    seen_keys, seen_values = (x.index_select(0, at).unflatten(0, (batch, -1)) for x in (keys, values))
    out = attend(q, seen_keys, seen_values, table, u, w, hidden, far)
    return out if hidden is None else out.masked_fill(~seen[:, span:, None, None], 0.0)


def attend(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, u: Tensor, w: Tensor, hidden: Tensor | None, far: int
) -> Tensor:
    """All pairs but those `hidden` (B, Tq, Tk); zero for a query that sees no key."""
    queries, keys = q.shape[1], k.shape[1]
    before = keys - 1 - far
    after = keys + queries - 1 - table.shape[0] - before
    if before or after:
        table = F.pad(table, (0, 0, 0, 0, before, after))
    u, w = u.to(q.dtype), w.to(q.dtype)
    by_distance = (q + w).transpose(1, 2) @ table.permute(1, 2, 0)  # (B, H, Tq, Tk + Tq - 1)
    bias = shifted(by_distance, keys) / math.sqrt(q.shape[-1])
    if hidden is not None:
        bias = bias.masked_fill(hidden[:, None], torch.finfo(q.dtype).min)
    query, key, value = (x.transpose(1, 2) for x in (q + u, k, v))
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2)
    return mixed if hidden is None else mixed.masked_fill(hidden.all(-1)[..., None, None], 0.0)


def shifted(by_distance: Tensor, keys: int) -> Tensor:
    """Turn scores by distance into scores by key: out[i, j] = in[i, Tq - 1 - i + j]."""
    queries, rows = by_distance.shape[-2:]
    if queries == 1:
        return by_distance
    # In memory the wanted elements of row i start at i * (rows - 1) + (Tq - 1): a view with a shorter row does it.
    flat = by_distance.flatten(-2)[..., queries - 1 : queries * rows - 1]
    return flat.unflatten(-1, (queries, rows - 1))[..., :keys]
