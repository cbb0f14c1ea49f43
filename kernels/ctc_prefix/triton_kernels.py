"""The GPU path in Triton: base-2 logarithms, fp32 state (fp64 where the inputs are, for tests).

`psi` needs no recurrence: one program scores a block of the vocabulary for one prefix by an online log-sum-exp over
frames. `extend` runs both recurrences of one survivor as associative scans over blocks of frames. `forward_chunk`
keeps the alphas of one string in registers and walks the new frames; `spot` does so over each string's own frames.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
NOTHING = tl.constexpr(-1e30)
FLOOR = tl.constexpr(-1e4)
FAINT = tl.constexpr(-500.0)


@triton.jit
def _add(a, b):
    """log2(2^a + 2^b); finite for two that are nothing."""
    return tl.maximum(a, b) + tl.log2(1.0 + tl.exp2(-tl.abs(a - b)))


@triton.jit
def _then(factor, value, next_factor, next_value):
    """Two affine maps x -> factor + x (+) value, one after the other."""
    return factor + next_factor, _add(value + next_factor, next_value)


@triton.jit
def psi_kernel(
    x, lengths, r_n, r_b, last, out, frames, symbols, width, x_batch, x_time,
    blank: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """One prefix, BV symbols."""
    row = tl.program_id(0).to(tl.int64)
    batch = row // width
    v = tl.program_id(1) * BV + tl.arange(0, BV)
    end, length = tl.load(last + row), tl.load(lengths + batch)
    length = tl.minimum(length, frames)
    top = tl.full([BV], NOTHING, KIND)
    total = tl.zeros([BV], KIND)
    for start in range(0, length, BT):
        t = start + tl.arange(0, BT)
        known = (t >= 1) & (t < length)
        n = tl.load(r_n + row * frames + t - 1, mask=known, other=NOTHING) * LOG2E
        b = tl.load(r_b + row * frames + t - 1, mask=known, other=NOTHING) * LOG2E
        first = (t == 0) & (end < 0)
        both = tl.where(first, 0.0, _add(n, b))
        phi = tl.where((v == end)[None, :], tl.where(first, 0.0, b)[:, None], both[:, None])
        inside = (t < length)[:, None] & (v < symbols)[None, :]
        emitted = tl.load(x + batch * x_batch + t[:, None] * x_time + v[None, :], mask=inside, other=FLOOR)
        score = tl.where(inside, phi + tl.maximum(emitted, FLOOR) * LOG2E, NOTHING)
        higher = tl.maximum(top, tl.max(score, 0))
        total = total * tl.exp2(top - higher) + tl.sum(tl.exp2(score - higher[None, :]), 0)
        top = higher
    score = tl.where(total > 0, (top + tl.log2(tl.where(total > 0, total, 1.0))) * LN2, NOTHING)
    score = tl.where(v == blank, NOTHING, tl.maximum(score, NOTHING))
    tl.store(out + row * symbols + v, score, mask=v < symbols)


@triton.jit
def extend_kernel(
    x, lengths, r_n, r_b, last, parents, tokens, out_n, out_b, frames, width, survivors, x_batch, x_time,
    blank: tl.constexpr, BT: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """One survivor: two scans a block of frames, carried from block to block."""
    row = tl.program_id(0).to(tl.int64)
    batch = row // survivors
    parent = batch * width + tl.load(parents + row)
    token, end = tl.load(tokens + row), tl.load(last + parent)
    length = tl.minimum(tl.load(lengths + batch), frames)
    t = tl.arange(0, BT)
    carry_n = tl.full([1], NOTHING, KIND)
    carry_b = tl.full([1], NOTHING, KIND)
    for start in range(0, frames, BT):
        time = start + t
        inside, known = time < length, (time >= 1) & (time < length)
        n = tl.load(r_n + parent * frames + time - 1, mask=known, other=NOTHING) * LOG2E
        b = tl.load(r_b + parent * frames + time - 1, mask=known, other=NOTHING) * LOG2E
        phi = tl.where(token == end, b, _add(n, b))
        phi = tl.where((time == 0) & (end < 0), 0.0, phi)
        at = x + batch * x_batch + time * x_time
        emitted = tl.maximum(tl.load(at + token, mask=inside, other=0.0), FLOOR) * LOG2E
        silent = tl.maximum(tl.load(at + blank, mask=inside, other=0.0), FLOOR) * LOG2E
        factor, value = tl.associative_scan((emitted, tl.maximum(phi + emitted, NOTHING)), 0, _then)
        new_n = tl.maximum(_add(factor + carry_n, value), NOTHING)
        # r^b needs r^n of the frame before: the block's own, moved by one, and the carry in front.
        moved = tl.where(t == 0, carry_n, tl.gather(new_n, tl.maximum(t - 1, 0), 0))
        factor, value = tl.associative_scan((silent, tl.maximum(moved + silent, NOTHING)), 0, _then)
        new_b = tl.maximum(_add(factor + carry_b, value), NOTHING)
        at_out = row * frames + time
        tl.store(out_n + at_out, tl.where(inside, tl.maximum(new_n * LN2, NOTHING), NOTHING), mask=time < frames)
        tl.store(out_b + at_out, tl.where(inside, tl.maximum(new_b * LN2, NOTHING), NOTHING), mask=time < frames)
        final = tl.full([1], BT - 1, tl.int32)
        carry_n, carry_b = tl.gather(new_n, final, 0), tl.gather(new_b, final, 0)


@triton.jit
def forward_chunk_kernel(
    x, fresh, strings, sizes, alphas, out_n, out_b, frames, count, longest, x_batch, x_time,
    blank: tl.constexpr, FREE: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    """One string, its 2 S + 1 alphas in registers; `alphas` is changed in place."""
    row = tl.program_id(0).to(tl.int64)
    batch = row // count
    s = tl.arange(0, BS)
    size, steps = tl.load(sizes + row), tl.load(fresh + batch)
    label = (s % 2 == 1) & (s < 2 * size)
    symbol = tl.load(strings + row * longest + s // 2, mask=label, other=blank)
    before = tl.load(strings + row * longest + s // 2 - 1, mask=label & (s >= 3), other=-1)
    skips = label & (s >= 3) & (symbol != before)
    a = tl.load(alphas + row * (2 * longest + 1) + s, mask=s < 2 * longest + 1, other=NOTHING) * LOG2E
    back_one, back_two = tl.maximum(s - 1, 0), tl.maximum(s - 2, 0)
    for t in range(frames):
        emitted = tl.load(x + batch * x_batch + t * x_time + symbol, mask=t < steps, other=0.0)
        one = tl.where(s >= 1, tl.gather(a, back_one, 0), NOTHING)
        if FREE:
            one = tl.where(s == 1, 0.0, one)
        two = tl.where(skips, tl.gather(a, back_two, 0), NOTHING)
        top = tl.maximum(a, tl.maximum(one, two))
        moved = top + tl.log2(tl.exp2(a - top) + tl.exp2(one - top) + tl.exp2(two - top))
        moved += tl.maximum(emitted, FLOOR) * LOG2E
        moved = tl.where(s <= 2 * size, tl.maximum(moved, NOTHING), NOTHING)
        a = tl.where(t < steps, moved, a)
        n = tl.max(tl.where(s == 2 * size - 1, a, NOTHING), 0)
        b = tl.max(tl.where(s == 2 * size, a, NOTHING), 0)
        tl.store(out_n + row * frames + t, tl.maximum(n * LN2, NOTHING))
        tl.store(out_b + row * frames + t, tl.maximum(b * LN2, NOTHING))
    tl.store(alphas + row * (2 * longest + 1) + s, tl.maximum(a * LN2, NOTHING), mask=s < 2 * longest + 1)


@triton.jit
def spot_kernel(
    x, first, count, strings, sizes, out_score, out_end, total, longest, x_time, blank: tl.constexpr, BS: tl.constexpr,
    KIND: tl.constexpr,
):  # fmt: skip
    """One string, its states in registers, over its own frames."""
    row = tl.program_id(0).to(tl.int64)
    s = tl.arange(0, BS)
    size, begin = tl.load(sizes + row), tl.load(first + row)
    frames = tl.minimum(tl.load(count + row), total - begin)
    label = (s % 2 == 1) & (s < 2 * size)
    symbol = tl.load(strings + row * longest + s // 2, mask=label, other=blank)
    before = tl.load(strings + row * longest + s // 2 - 1, mask=label & (s >= 3), other=-1)
    skips = label & (s >= 3) & (symbol != before)
    back_one, back_two = tl.maximum(s - 1, 0), tl.maximum(s - 2, 0)
    a = tl.full([BS], NOTHING, KIND)
    best, end = tl.full([], NOTHING, KIND), 0
    for t in range(0, frames):
        one = tl.where(s == 1, 0.0, tl.where(s >= 2, tl.gather(a, back_one, 0), NOTHING))
        two = tl.where(skips, tl.gather(a, back_two, 0), NOTHING)
        emitted = tl.minimum(tl.maximum(tl.load(x + (begin + t).to(tl.int64) * x_time + symbol), FLOOR), 0.0)
        top = tl.maximum(a, tl.maximum(one, two))
        a = top + tl.log2(tl.exp2(a - top) + tl.exp2(one - top) + tl.exp2(two - top)) + emitted * LOG2E
        a = tl.where((s >= 1) & (s < 2 * size), tl.maximum(a, NOTHING), NOTHING)
        at_last = tl.max(tl.where(s == 2 * size - 1, a, NOTHING), 0)
        end = tl.where(at_last > best, begin + t + 1, end)
        best = tl.maximum(best, at_last)
    heard = best * LN2 > FAINT
    tl.store(out_score + row, tl.where(heard, best * LN2, FAINT))
    tl.store(out_end + row, tl.where(heard, end, 0))


def psi(log_probs: Tensor, lengths: Tensor, r_n: Tensor, r_b: Tensor, last: Tensor, blank: int = 0) -> Tensor:
    """As `reference.psi`."""
    batch, width, frames = r_n.shape
    symbols = log_probs.shape[2]
    out = torch.empty(batch, width, symbols, dtype=r_n.dtype, device=r_n.device)
    block = 64
    psi_kernel[(batch * width, triton.cdiv(symbols, block))](
        log_probs, lengths, r_n, r_b, last, out, frames, symbols, width, *log_probs.stride()[:2],
        blank=blank, BT=32, BV=block, KIND=_kind(r_n), num_warps=4,
    )  # fmt: skip
    return out


def extend(
    log_probs: Tensor, lengths: Tensor, r_n: Tensor, r_b: Tensor, last: Tensor, parents: Tensor, tokens: Tensor,
    blank: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `reference.extend`."""
    batch, width, frames = r_n.shape
    survivors = parents.shape[1]
    out_n, out_b = (torch.empty(batch, survivors, frames, dtype=r_n.dtype, device=r_n.device) for _ in range(2))
    extend_kernel[(batch * survivors,)](
        log_probs, lengths, r_n, r_b, last, parents, tokens, out_n, out_b, frames, width, survivors,
        *log_probs.stride()[:2], blank=blank, BT=min(1024, max(32, triton.next_power_of_2(frames))), KIND=_kind(r_n),
        num_warps=4,
    )  # fmt: skip
    return out_n, out_b


def forward_chunk(
    log_probs: Tensor, fresh: Tensor, strings: Tensor, sizes: Tensor, alphas: Tensor, free_start: bool = False,
    blank: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As `reference.forward_chunk`."""
    batch, count, longest = strings.shape
    frames = log_probs.shape[1]
    alphas = alphas.clone()
    out_n, out_b = (torch.empty(batch, count, frames, dtype=alphas.dtype, device=alphas.device) for _ in range(2))
    size = triton.next_power_of_2(2 * longest + 1)
    forward_chunk_kernel[(batch * count,)](
        log_probs, fresh, strings, sizes, alphas, out_n, out_b, frames, count, longest, *log_probs.stride()[:2],
        blank=blank, FREE=free_start, BS=size, num_warps=1 if size <= 256 else 4,
    )  # fmt: skip
    return alphas, out_n, out_b


def spot(
    log_probs: Tensor, first: Tensor, count: Tensor, strings: Tensor, sizes: Tensor, blank: int = 0
) -> tuple[Tensor, Tensor]:
    """As `reference.spot`."""
    longest = strings.shape[1]
    score, end = log_probs.new_empty(sizes.shape), torch.empty_like(sizes)
    if len(sizes):
        size = triton.next_power_of_2(2 * longest + 1)
        spot_kernel[(len(sizes),)](
            log_probs, first, count, strings, sizes, score, end, len(log_probs), longest, log_probs.stride(0),
            blank=blank, BS=size, KIND=_kind(log_probs), num_warps=1 if size <= 256 else 4,
        )  # fmt: skip
    return score, end


def _kind(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32
