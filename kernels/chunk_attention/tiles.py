"""The CPU path: dense matrix products over blocks of queries and the window of keys that they see.

Under a limited left context a block of Q queries sees a window of W keys, whatever the length T: time and memory grow
with T, not with its square. Otherwise the one block is the whole utterance. Positions come by distance: each block
multiplies its queries with the table's rows once, and a strided view of the product (`shifted`) is the score by key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.chunk_attention.dense import shifted

MASKED = -1e30  # finite, so that a row without any visible key does not become NaN
BLOCK = 32  # least queries a block; fewer make products too thin for the processor


@dataclass(frozen=True)
class Layout:
    """How queries and keys are cut.

    Attributes:
        queries, keys: Tq and Tk.
        block: queries a block Q.
        count: blocks n; the last may stick out.
        window: keys W that a block looks at; its last Q are the block's own positions.
    """

    queries: int
    keys: int
    block: int
    count: int
    window: int

    @property
    def rows(self) -> int:
        """Distances in a window: W - 1 down to -(Q - 1)."""
        return self.window + self.block - 1


def layout(queries: int, keys: int, chunk: int, left: int) -> Layout:
    """Blocks of whole chunks under a limited left context, where that saves anything; otherwise one block."""
    whole = Layout(queries, keys, queries, 1, keys)
    if queries != keys:
        return whole
    block = max(1, BLOCK // chunk) * chunk
    window = left * chunk + block
    return whole if 2 * window > keys else Layout(queries, keys, block, -(-queries // block), window)


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
    """Output (B, Tq, H, D) and the natural logarithm of each row's sum of exponentials (B, H, Tq).

    Arguments as in `chunk_attention`, with chunk and left not negative. Half precision is computed in single.
    """
    given = q.dtype
    q, k, v, table, u, w = _computable(q, k, v, table, u, w)
    plan = layout(q.shape[1], k.shape[1], chunk, left)
    score = _scores(plan, _blocks(q, plan), _windows(k, plan), table, u, w, far)
    hidden = ~visible(plan, lengths, chunk, left)
    weight = score.masked_fill_(hidden, MASKED).softmax(-1)
    lse = score.amax(-1) - weight.amax(-1).log()  # a row's largest weight is exp(largest score - lse)
    out = weight @ _windows(v, plan)
    empty = hidden.all(-1, keepdim=True)
    if bool(empty.any()):
        out = out.masked_fill_(empty, 0.0)
    out = _unblock(out, plan)
    return out.to(given), lse.flatten(2)[..., : plan.queries].transpose(0, 1).contiguous()


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    u: Tensor,
    w: Tensor,
    out: Tensor,
    lse: Tensor,
    lengths: Tensor,
    chunk: int,
    left: int,
    far: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, table, u and w. The weights are computed again from the saved `lse`."""
    types = [x.dtype for x in (q, k, v, table, u, w)]
    grad, out, q, k, v, table, u, w = _computable(grad, out, q, k, v, table, u, w)
    plan = layout(q.shape[1], k.shape[1], chunk, left)
    queries, keys, grads = _blocks(q, plan), _windows(k, plan), _blocks(grad, plan)
    hidden = ~visible(plan, lengths, chunk, left)
    known = F.pad(lse, (0, plan.count * plan.block - plan.queries)).unflatten(-1, (plan.count, plan.block))
    weight = _scores(plan, queries, keys, table, u, w, far).sub_(known.transpose(0, 1)[..., None])
    # Filled before and after: the exponential of -1e30 takes many times as long as that of a small number.
    weight = weight.masked_fill_(hidden, 0.0).exp_().masked_fill_(hidden, 0.0)
    delta = _blocks((grad * out).sum(-1, keepdim=True), plan)
    scale = 1 / math.sqrt(q.shape[-1])
    change = (grads @ _windows(v, plan).mT).sub_(delta).mul_(weight).mul_(scale)  # of the raw scores (H, B, n, Q, W)
    by_distance = change.new_zeros(*change.shape[:-1], plan.rows)
    shifted(by_distance, plan.window).copy_(change)
    flat = by_distance.flatten(1, 3)  # (H, B n Q, R)
    content = change @ keys
    position = (flat @ _rows(table, plan, far)).view_as(content)
    to_place = _shifted(queries, w).flatten(1, 3)
    gradients = (
        _unblock(content + position, plan),
        _fold(change.mT @ _shifted(queries, u), plan),
        _fold(weight.mT @ grads, plan),
        _whole_table(flat.mT @ to_place, table.shape[0], plan, far),
        content.sum((1, 2, 3)),
        position.sum((1, 2, 3)),
    )
    return tuple(x.to(kind) for x, kind in zip(gradients, types, strict=True))  # type: ignore[return-value]


def _computable(*tensors: Tensor) -> list[Tensor]:
    kind = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    return [x.to(kind) for x in tensors]


def _shifted(queries: Tensor, bias: Tensor) -> Tensor:
    """(H, B, n, Q, D) plus (H, D)."""
    return queries + bias[:, None, None, None]


def visible(plan: Layout, lengths: Tensor, chunk: int, left: int) -> Tensor:
    """(B, n, Q, W) bool: whether a block's query may look at its window's key."""
    first = torch.arange(plan.count, device=lengths.device)[:, None] * plan.block + plan.keys - plan.queries
    place = first + torch.arange(plan.block, device=lengths.device)  # (n, Q)
    key = first - (plan.window - plan.block) + torch.arange(plan.window, device=lengths.device)  # (n, W)
    ahead = (place // chunk)[:, :, None] - (key // chunk)[:, None]
    inside = (key >= 0) & (key < lengths[:, None, None])  # (B, n, W)
    return inside[:, :, None] & (ahead >= 0) & (ahead <= left)


def _scores(plan: Layout, queries: Tensor, keys: Tensor, table: Tensor, u: Tensor, w: Tensor, far: int) -> Tensor:
    """Scaled scores (H, B, n, Q, W) of every query with every key of its window."""
    scale = 1 / math.sqrt(queries.shape[-1])
    heads, batch, count, block, dim = queries.shape
    to_place = _shifted(queries, w).mul_(scale).view(heads, -1, dim)
    by_distance = (to_place @ _rows(table, plan, far).mT).view(heads, batch, count, block, plan.rows)
    to_key = _shifted(queries, u).mul_(scale)
    return (to_key @ keys.mT).add_(shifted(by_distance, plan.window))


def _blocks(x: Tensor, plan: Layout) -> Tensor:
    """(B, Tq, H, D) to (H, B, n, Q, D)."""
    missing = plan.count * plan.block - plan.queries
    x = F.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x
    return x.unflatten(1, (plan.count, plan.block)).permute(3, 0, 1, 2, 4).contiguous()


def _windows(x: Tensor, plan: Layout) -> Tensor:
    """(B, Tk, H, D) to (H, B, n, W, D); windows overlap, so this copies."""
    if plan.count == 1:
        return x.permute(2, 0, 1, 3)[:, :, None].contiguous()
    x = F.pad(x, (0, 0, 0, 0, plan.window - plan.block, plan.count * plan.block - plan.keys))
    return x.unfold(1, plan.window, plan.block).permute(2, 0, 1, 4, 3).contiguous()


def _unblock(x: Tensor, plan: Layout) -> Tensor:
    """(H, B, n, Q, D) to (B, Tq, H, D)."""
    return x.permute(1, 2, 3, 0, 4).flatten(1, 2)[:, : plan.queries].contiguous()


def _fold(x: Tensor, plan: Layout) -> Tensor:
    """Add up windows (H, B, n, W, D) to keys (B, Tk, H, D), piece by piece in a fixed order."""
    if plan.count == 1:
        return x[:, :, 0].permute(1, 2, 0, 3).contiguous()
    heads, batch, count, window, dim = x.shape
    behind = window - plan.block
    total = x.new_zeros(heads, batch, behind + count * plan.block, dim)
    for first in range(0, window, plan.block):
        size = min(plan.block, window - first)
        whole = total[:, :, first:].as_strided(
            (heads, batch, count, size, dim),
            (*total.stride()[:2], plan.block * dim, dim, 1),
            total.storage_offset() + first * dim,
        )
        whole += x[..., first : first + size, :]
    return total[:, :, behind : behind + plan.keys].permute(1, 2, 0, 3).contiguous()


def _rows(table: Tensor, plan: Layout, far: int) -> Tensor:
    """The table's rows (H, R, D) for a window's distances W - 1 down to -(Q - 1); zero where it has none."""
    before, after = _margins(table.shape[0], plan, far)
    return F.pad(table, (0, 0, 0, 0, before, after)).permute(1, 0, 2).contiguous()


def _whole_table(x: Tensor, size: int, plan: Layout, far: int) -> Tensor:
    """The gradient of `_rows` (H, R, D) as one of the table (size, H, D)."""
    before, after = _margins(size, plan, far)
    return F.pad(x.permute(1, 0, 2), (0, 0, 0, 0, -before, -after)).contiguous()


def _margins(size: int, plan: Layout, far: int) -> tuple[int, int]:
    """Rows to add (or, negative, to cut) before and after the table."""
    before = plan.window - 1 - far
    return before, plan.rows - size - before
