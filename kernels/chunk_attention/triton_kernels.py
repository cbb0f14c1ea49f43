"""The GPU path in Triton: forward, three backward kernels, and one streaming step.

Every tile's position scores come from the table by distance: (q + w) P^T for a run of distances, of which query i
wants the column j + const - i. `tl.gather` shears it; nothing of the size of all distances leaves the chip. Chunk and
left context are run-time integers, for training draws them anew for every batch. No atomics: a program owns what it
writes, and sums over programs are made in a fixed order.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
MASKED = tl.constexpr(-1e30)


@triton.jit
def _rows(base, index, stride, inside, dims, D: tl.constexpr):
    """Rows `index` of a (n, D) matrix as a tile; zero where `inside` is false and behind D."""
    return tl.load(
        base + index[:, None] * stride + dims[None, :], mask=inside[:, None] & (dims < D)[None, :], other=0.0
    )


@triton.jit
def _shifted(tile, bias, dims, D: tl.constexpr):
    """Queries plus a bias, added in fp32 and rounded once."""
    added = tile.to(tl.float32) + tl.load(bias + dims, mask=dims < D, other=0.0).to(tl.float32)[None, :]
    return added.to(tile.dtype)


@triton.jit
def _dot(a, b):
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _visible(place, key, length, chunk, left):
    """Whether the query at `place` may look at `key` (both of one shape)."""
    ahead = place // chunk - key // chunk
    return (ahead >= 0) & (ahead <= left) & (key >= 0) & (key < length)


@triton.jit
def _pick(first, second, index, N: tl.constexpr):
    """Columns `index` of two tiles that lie side by side, N columns each."""
    one = tl.gather(first, tl.minimum(index, N - 1), 1)
    two = tl.gather(second, tl.maximum(index - N, 0), 1)
    return tl.where(index < N, one, two)


@triton.jit
def _key_range(first, last, length, chunk, left):
    """Keys [low, high) that queries at places first..last can see among them."""
    low = tl.maximum((first // chunk - left) * chunk, 0)
    high = tl.minimum((last // chunk + 1) * chunk, length)
    return low, high


@triton.jit
def forward_kernel(
    q, k, v, table, u, w, lengths, out, lse,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head, table_row, table_head,
    queries, keys, rows, far, chunk, left, scale,
    H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One program: BM queries of one head of one row, over the keys that they see. BM <= BN."""
    tile, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, head = pair // H, pair % H
    dims, m, n = tl.arange(0, BD), tl.arange(0, BM), tl.arange(0, BN)
    q += batch * q_batch + head * q_head
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    table += head * table_head
    length = tl.load(lengths + batch)
    row = tile * BM + m
    place = row + keys - queries
    query = _rows(q, row, q_time, row < queries, dims, D)
    to_key, to_place = _shifted(query, u + head * D, dims, D), _shifted(query, w + head * D, dims, D)
    first = tile * BM + keys - queries
    low, high = _key_range(first, first + BM - 1, length, chunk, left)
    low = low // BN * BN
    index = (BM - 1 - m)[:, None] + n[None, :]
    near = far - (first + BM - 1) + low  # the table's row for the last query and the first key
    distance = near + n
    positions = _rows(table, distance, table_row, (distance >= 0) & (distance < rows), dims, D)
    before = _dot(to_place, tl.trans(positions))
    top = tl.full([BM], MASKED, tl.float32)
    total = tl.zeros([BM], tl.float32)
    mixed = tl.zeros([BM, BD], tl.float32)
    for start in range(low, high, BN):
        key = start + n
        distance = near + start - low + BN + n
        positions = _rows(table, distance, table_row, (distance >= 0) & (distance < rows), dims, D)
        after = _dot(to_place, tl.trans(positions))
        score = _dot(to_key, tl.trans(_rows(k, key, k_time, key < length, dims, D)))
        score = (score + _pick(before, after, index, BN)) * (scale * LOG2E)
        seen = _visible(place[:, None], key[None, :], length, chunk, left)
        score = tl.where(seen, score, MASKED)
        higher = tl.maximum(top, tl.max(score, 1))
        weight = tl.where(seen, tl.exp2(score - higher[:, None]), 0.0)
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(weight, 1)
        value = _rows(v, key, v_time, key < length, dims, D)
        mixed = mixed * shrink[:, None] + _dot(weight.to(value.dtype), value)
        top, before = higher, after
    mixed = mixed / tl.where(total > 0, total, 1.0)[:, None]
    at = (batch * queries + row)[:, None] * (H * D) + head * D + dims[None, :]
    tl.store(out + at, mixed.to(out.dtype.element_ty), mask=(row < queries)[:, None] & (dims < D)[None, :])
    tl.store(lse + pair * queries + row, (top + tl.log2(tl.where(total > 0, total, 1.0))) * LN2, mask=row < queries)


@triton.jit
def query_gradient_kernel(
    grad, q, k, v, table, u, w, lengths, lse, delta, dq, du, dw,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head, table_row, table_head,
    queries, keys, rows, far, chunk, left, scale,
    H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The gradient of BM queries, and what they give to u and w: du, dw (tiles, B H, D). BM <= BN.

    A key tile's gradient by distance reaches into two tiles of the table. What falls into the second is carried to the
    next key tile, whose first it is, so that each is multiplied once.
    """
    tile, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, head = pair // H, pair % H
    dims, m, n = tl.arange(0, BD), tl.arange(0, BM), tl.arange(0, BN)
    q += batch * q_batch + head * q_head
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    table += head * table_head
    length = tl.load(lengths + batch)
    row = tile * BM + m
    place = row + keys - queries
    at = (batch * queries + row)[:, None] * (H * D) + head * D + dims[None, :]
    inside = (row < queries)[:, None] & (dims < D)[None, :]
    query = _rows(q, row, q_time, row < queries, dims, D)
    to_key, to_place = _shifted(query, u + head * D, dims, D), _shifted(query, w + head * D, dims, D)
    given = tl.load(grad + at, mask=inside, other=0.0)
    known = tl.load(lse + pair * queries + row, mask=row < queries, other=0.0) * LOG2E
    share = tl.load(delta + pair * queries + row, mask=row < queries, other=0.0)
    first = tile * BM + keys - queries
    low, high = _key_range(first, first + BM - 1, length, chunk, left)
    low = low // BN * BN
    index = (BM - 1 - m)[:, None] + n[None, :]
    back = n[None, :] - (BM - 1 - m)[:, None]  # the key column of a distance column
    near = far - (first + BM - 1) + low
    distance = near + n
    positions = _rows(table, distance, table_row, (distance >= 0) & (distance < rows), dims, D)
    before = _dot(to_place, tl.trans(positions))
    carried = tl.zeros([BM, BN], tl.float32)
    content = tl.zeros([BM, BD], tl.float32)
    position = tl.zeros([BM, BD], tl.float32)
    for start in range(low, high, BN):
        key = start + n
        distance = near + start - low + BN + n
        following = _rows(table, distance, table_row, (distance >= 0) & (distance < rows), dims, D)
        after = _dot(to_place, tl.trans(following))
        tile_keys = _rows(k, key, k_time, key < length, dims, D)
        score = (_dot(to_key, tl.trans(tile_keys)) + _pick(before, after, index, BN)) * (scale * LOG2E)
        seen = _visible(place[:, None], key[None, :], length, chunk, left)
        weight = tl.where(seen, tl.exp2(score - known[:, None]), 0.0)
        value = _rows(v, key, v_time, key < length, dims, D)
        change = weight * (_dot(given, tl.trans(value)) - share[:, None]) * scale
        content += _dot(change.to(tile_keys.dtype), tile_keys)
        here = tl.where(back >= 0, tl.gather(change, tl.maximum(back, 0), 1), 0.0) + carried
        position += _dot(here.to(positions.dtype), positions)
        carried = tl.where(back + BN < BN, tl.gather(change, tl.minimum(back + BN, BN - 1), 1), 0.0)
        before, positions = after, following
    position += _dot(carried.to(positions.dtype), positions)
    tl.store(dq + at, (content + position).to(dq.dtype.element_ty), mask=inside)
    partial = (tile * tl.num_programs(1) + pair) * D + dims
    tl.store(du + partial, tl.sum(content, 0), mask=dims < D)
    tl.store(dw + partial, tl.sum(position, 0), mask=dims < D)


@triton.jit
def key_gradient_kernel(
    grad, q, k, v, table, u, w, lengths, lse, delta, dk, dv,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head, table_row, table_head,
    queries, keys, rows, far, chunk, left, scale,
    H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The gradients of BN keys and values, over the queries that see them. BM <= BN."""
    tile, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, head = pair // H, pair % H
    dims, m, n = tl.arange(0, BD), tl.arange(0, BM), tl.arange(0, BN)
    q += batch * q_batch + head * q_head
    k += batch * k_batch + head * k_head
    v += batch * v_batch + head * v_head
    table += head * table_head
    length = tl.load(lengths + batch)
    key = tile * BN + n
    tile_keys = _rows(k, key, k_time, key < length, dims, D)
    value = _rows(v, key, v_time, key < length, dims, D)
    offset = keys - queries
    low = tl.maximum(tile * BN // chunk * chunk - offset, 0) // BM * BM
    high = tl.minimum(((tile * BN + BN - 1) // chunk + left + 1) * chunk - offset, queries)
    high = tl.where(tile * BN < length, high, low)
    index = (BM - 1 - m)[:, None] + n[None, :]
    key_change = tl.zeros([BN, BD], tl.float32)
    value_change = tl.zeros([BN, BD], tl.float32)
    for start in range(low, high, BM):
        row = start + m
        place = row + offset
        query = _rows(q, row, q_time, row < queries, dims, D)
        to_key, to_place = _shifted(query, u + head * D, dims, D), _shifted(query, w + head * D, dims, D)
        distance = far - (start + BM - 1 + offset) + tile * BN + n
        positions = _rows(table, distance, table_row, (distance >= 0) & (distance < rows), dims, D)
        before = _dot(to_place, tl.trans(positions))
        distance += BN
        positions = _rows(table, distance, table_row, (distance >= 0) & (distance < rows), dims, D)
        after = _dot(to_place, tl.trans(positions))
        score = (_dot(to_key, tl.trans(tile_keys)) + _pick(before, after, index, BN)) * (scale * LOG2E)
        known = tl.load(lse + pair * queries + row, mask=row < queries, other=0.0) * LOG2E
        share = tl.load(delta + pair * queries + row, mask=row < queries, other=0.0)
        seen = _visible(place[:, None], key[None, :], length, chunk, left) & (row < queries)[:, None]
        weight = tl.where(seen, tl.exp2(score - known[:, None]), 0.0)
        at = (batch * queries + row)[:, None] * (H * D) + head * D + dims[None, :]
        given = tl.load(grad + at, mask=(row < queries)[:, None] & (dims < D)[None, :], other=0.0)
        value_change += _dot(tl.trans(weight.to(given.dtype)), given)
        change = weight * (_dot(given, tl.trans(value)) - share[:, None]) * scale
        key_change += _dot(tl.trans(change.to(to_key.dtype)), to_key)
    at = (batch * keys + key)[:, None] * (H * D) + head * D + dims[None, :]
    inside = (key < keys)[:, None] & (dims < D)[None, :]
    tl.store(dk + at, key_change.to(dk.dtype.element_ty), mask=inside)
    tl.store(dv + at, value_change.to(dv.dtype.element_ty), mask=inside)


@triton.jit
def table_gradient_kernel(
    grad, q, k, v, table, u, w, lengths, lse, delta, dtable,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head, table_row, table_head,
    queries, keys, rows, far, chunk, left, scale, tiles, items,
    H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The gradient of BN rows of the table, over every num_programs(2)-th query tile: dtable (splits, R, H, D).

    Here the tile lies in distance space: the position scores need no shear, the content scores do. BM <= BN.
    """
    tile, head, split = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    dims, m, n = tl.arange(0, BD), tl.arange(0, BM), tl.arange(0, BN)
    table += head * table_head
    distance = tile * BN + n
    positions = _rows(table, distance, table_row, distance < rows, dims, D)
    index = m[:, None] + n[None, :]
    change_sum = tl.zeros([BN, BD], tl.float32)
    for item in range(split, items, tl.num_programs(2)):
        batch = (item // tiles).to(tl.int64)
        row = item % tiles * BM + m
        first = item % tiles * BM + keys - queries
        length = tl.load(lengths + batch)
        low, high = _key_range(first, first + BM - 1, length, chunk, left)
        start = first - far + tile * BN  # the key of the first query at the first distance
        if (start < high) & (start + BM + BN - 1 > low):
            pair = batch * H + head
            query = _rows(q + batch * q_batch + head * q_head, row, q_time, row < queries, dims, D)
            to_key, to_place = _shifted(query, u + head * D, dims, D), _shifted(query, w + head * D, dims, D)
            at = (batch * queries + row)[:, None] * (H * D) + head * D + dims[None, :]
            given = tl.load(grad + at, mask=(row < queries)[:, None] & (dims < D)[None, :], other=0.0)
            known = tl.load(lse + pair * queries + row, mask=row < queries, other=0.0) * LOG2E
            share = tl.load(delta + pair * queries + row, mask=row < queries, other=0.0)
            keys_here, values_here = k + batch * k_batch + head * k_head, v + batch * v_batch + head * v_head
            key = start + n
            inside = (key >= 0) & (key < length)
            score_one = _dot(to_key, tl.trans(_rows(keys_here, key, k_time, inside, dims, D)))
            change_one = _dot(given, tl.trans(_rows(values_here, key, v_time, inside, dims, D)))
            key += BN
            inside = (key >= 0) & (key < length)
            score_two = _dot(to_key, tl.trans(_rows(keys_here, key, k_time, inside, dims, D)))
            change_two = _dot(given, tl.trans(_rows(values_here, key, v_time, inside, dims, D)))
            score = _dot(to_place, tl.trans(positions)) + _pick(score_one, score_two, index, BN)
            place = first + m
            seen = _visible(place[:, None], start + index, length, chunk, left) & (row < queries)[:, None]
            weight = tl.where(seen, tl.exp2(score * (scale * LOG2E) - known[:, None]), 0.0)
            change = weight * (_pick(change_one, change_two, index, BN) - share[:, None]) * scale
            change_sum += _dot(tl.trans(change.to(to_place.dtype)), to_place)
    at = ((split * rows + distance)[:, None] * H + head) * D + dims[None, :]
    tl.store(dtable + at, change_sum, mask=(distance < rows)[:, None] & (dims < D)[None, :])


@triton.jit
def stream_kernel(
    q, k, v, ring_keys, ring_values, table, u, w, slots, start, fresh, out,
    q_batch, q_time, q_head, k_batch, k_time, k_head, v_batch, v_time, v_head,
    ring_batch, ring_time, ring_head, table_row, table_head,
    queries, size, rows, far, span, scale,
    H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """One chunk of one head of one stream: `span` frames from the ring, then the chunk itself, which is stored there.

    BM covers the chunk, BN the span, BP the distances span + BM - 1 down to -(BM - 1).
    """
    pair = tl.program_id(0).to(tl.int64)
    batch, head = pair // H, pair % H
    dims, m, n, p = tl.arange(0, BD), tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BP)
    ring = tl.load(slots + batch).to(tl.int64)
    begun, count = tl.load(start + ring), tl.load(fresh + batch)
    ring_keys += ring * ring_batch + head * ring_head
    ring_values += ring * ring_batch + head * ring_head
    live = m < count
    query = _rows(q + batch * q_batch + head * q_head, m, q_time, live, dims, D)
    new_key = _rows(k + batch * k_batch + head * k_head, m, k_time, live, dims, D)
    new_value = _rows(v + batch * v_batch + head * v_head, m, v_time, live, dims, D)
    place = begun - span + n  # of the ring's keys, in frames of the stream
    held = (place >= 0) & (n < span)
    slot = tl.where(held, place % size, 0)
    old_key = _rows(ring_keys, slot, ring_time, held, dims, D)
    old_value = _rows(ring_values, slot, ring_time, held, dims, D)
    to_key, to_place = _shifted(query, u + head * D, dims, D), _shifted(query, w + head * D, dims, D)
    distance = far - (span + BM - 1) + p  # column p stands for the distance span + BM - 1 - p
    positions = _rows(table + head * table_head, distance, table_row, (distance >= 0) & (distance < rows), dims, D)
    by_distance = _dot(to_place, tl.trans(positions))
    past = tl.minimum((BM - 1 - m)[:, None] + n[None, :], BP - 1)  # query m at span + m, key at n
    now = tl.minimum((BM - 1 - m)[:, None] + span + m[None, :], BP - 1)
    old = (_dot(to_key, tl.trans(old_key)) + tl.gather(by_distance, past, 1)) * (scale * LOG2E)
    new = (_dot(to_key, tl.trans(new_key)) + tl.gather(by_distance, now, 1)) * (scale * LOG2E)
    old, new = tl.where(held[None, :], old, MASKED), tl.where(live[None, :], new, MASKED)
    top = tl.maximum(tl.max(old, 1), tl.max(new, 1))
    old_weight = tl.where(held[None, :], tl.exp2(old - top[:, None]), 0.0)
    new_weight = tl.where(live[None, :], tl.exp2(new - top[:, None]), 0.0)
    total = tl.sum(old_weight, 1) + tl.sum(new_weight, 1)
    mixed = _dot(old_weight.to(old_value.dtype), old_value) + _dot(new_weight.to(new_value.dtype), new_value)
    mixed = mixed / tl.where(total > 0, total, 1.0)[:, None]
    at = (batch * queries + m)[:, None] * (H * D) + head * D + dims[None, :]
    mixed = tl.where(live[:, None], mixed, 0.0)
    tl.store(out + at, mixed.to(out.dtype.element_ty), mask=(m < queries)[:, None] & (dims < D)[None, :])
    # The ring has room for span + chunk frames, so no slot written here was read above.
    slot = (begun + m) % size
    inside = live[:, None] & (dims < D)[None, :]
    tl.store(ring_keys + slot[:, None] * ring_time + dims[None, :], new_key, mask=inside)
    tl.store(ring_values + slot[:, None] * ring_time + dims[None, :], new_value, mask=inside)


# Queries, keys, warps and stages of the training kernels: none spills when compiled for sm_90; not tuned.
TILES = {"forward": (64, 64, 8, 2), "query": (32, 32, 8, 2), "key": (32, 64, 8, 2), "table": (32, 64, 8, 2)}
LONGEST_CHUNK, LONGEST_SPAN = 32, 128  # of the streaming kernel; twice the span would spill 12 KB on sm_90
SPLITS = 64  # partial sums of the table's gradient


def forward(
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
) -> tuple[Tensor, Tensor]:
    """Output (B, Tq, H, D) and log-sum-exp (B, H, Tq); arguments as in `kernels.chunk_attention.op`."""
    batch, queries, heads, dim = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(batch, heads, queries, dtype=torch.float32, device=q.device)
    block, window, warps, stages = TILES["forward"]
    grid = (triton.cdiv(queries, block), batch * heads)
    forward_kernel[grid](
        q, k, v, table, u, w, lengths, out, lse, *_strides(q, k, v, table),
        queries, k.shape[1], table.shape[0], far, chunk, left, 1 / math.sqrt(dim),
        **_constants(heads, dim, block, window), num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out, lse


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, table: Tensor, u: Tensor, w: Tensor, out: Tensor, lse: Tensor,
    lengths: Tensor, chunk: int, left: int, far: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v, table, u and w."""
    batch, queries, heads, dim = q.shape
    grad = grad.contiguous()
    delta = (grad.float() * out.float()).sum(-1).transpose(1, 2).contiguous()
    inputs = (grad, q, k, v, table, u, w, lengths, lse, delta)
    keys, rows = k.shape[1], table.shape[0]
    sizes = (*_strides(q, k, v, table), queries, keys, rows, far, chunk, left, 1 / math.sqrt(dim))
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))

    block, window, warps, stages = TILES["query"]
    tiles = triton.cdiv(queries, block)
    du, dw = (torch.empty(tiles, batch, heads, dim, dtype=torch.float32, device=q.device) for _ in range(2))
    query_gradient_kernel[(tiles, batch * heads)](
        *inputs, dq, du, dw, *sizes, **_constants(heads, dim, block, window), num_warps=warps, num_stages=stages
    )
    block, window, warps, stages = TILES["key"]
    key_gradient_kernel[(triton.cdiv(keys, window), batch * heads)](
        *inputs, dk, dv, *sizes, **_constants(heads, dim, block, window), num_warps=warps, num_stages=stages
    )
    block, window, warps, stages = TILES["table"]
    tiles = triton.cdiv(queries, block)
    splits = min(SPLITS, tiles * batch)
    dtable = torch.empty(splits, rows, heads, dim, dtype=torch.float32, device=q.device)
    table_gradient_kernel[(triton.cdiv(rows, window), heads, splits)](
        *inputs, dtable, *sizes, tiles, tiles * batch,
        **_constants(heads, dim, block, window), num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return (
        dq, dk, dv, dtable.sum(0).to(table.dtype), du.sum((0, 1)).to(u.dtype), dw.sum((0, 1)).to(w.dtype),
    )  # fmt: skip


def stream(
    q: Tensor, k: Tensor, v: Tensor, ring_keys: Tensor, ring_values: Tensor, table: Tensor, u: Tensor, w: Tensor,
    slots: Tensor, start: Tensor, fresh: Tensor, span: int, far: int,
) -> Tensor:  # fmt: skip
    """As `kernels.chunk_attention.chunk_attention_stream`."""
    batch, queries, heads, dim = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    block, window = _power(queries), _power(span)
    stream_kernel[(batch * heads,)](
        q, k, v, ring_keys, ring_values, table, u, w, slots, start, fresh, out,
        *_strides(q, k, v), *ring_keys.stride()[:3], *table.stride()[:2],
        queries, ring_keys.shape[1], table.shape[0], far, span, 1 / math.sqrt(dim),
        **_constants(heads, dim, block, window), BP=_power(span + 2 * block - 1), num_warps=4, num_stages=1,
    )  # fmt: skip
    return out


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for x in tensors for stride in x.stride()[:-1]]


def _constants(heads: int, dim: int, block: int, window: int) -> dict[str, int]:
    return {"H": heads, "D": dim, "BD": _power(dim), "BM": block, "BN": window}


def _power(size: int) -> int:
    """The next power of two a matrix product takes."""
    return max(16, triton.next_power_of_2(size))
