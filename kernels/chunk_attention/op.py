"""The one public function, as a pair of registered operators: the fast CPU path, or Triton on a GPU."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.chunk_attention import tiles
from kernels.chunk_attention.dense import chunk_attention_dense
from kernels.chunk_attention.reference import chunk_attention_reference

BACKENDS = ("auto", "reference")
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

torch.library.define(
    "kit_kernels::chunk_attention",
    "(Tensor q, Tensor k, Tensor v, Tensor table, Tensor u, Tensor w, Tensor lengths, "
    "SymInt chunk, SymInt left, SymInt far) -> (Tensor, Tensor)",
)
torch.library.define(
    "kit_kernels::chunk_attention_backward",
    "(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor table, Tensor u, Tensor w, Tensor out, Tensor lse, "
    "Tensor lengths, SymInt chunk, SymInt left, SymInt far) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


def chunk_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    u: Tensor,
    w: Tensor,
    lengths: Tensor | None = None,
    *,
    chunk: int = 0,
    left: int = -1,
    far: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Attend with content and relative position, each query to its own chunk and some chunks before it.

    The queries are the last Tq of the Tk key positions, so one call serves training (Tq = Tk) and streaming.

    Args:
        q: (B, Tq, H, D) queries.
        k: (B, Tk, H, D) keys.
        v: (B, Tk, H, D) values.
        table: (R, H, D) projected positions; row r stands for the distance i - j = far - r. It must have a row for
            every distance that a query sees: (left + 1) chunk - 1 down to -(chunk - 1), or Tk - 1 down to -(Tq - 1).
        u: (H, D) content bias.
        w: (H, D) position bias (the paper's v).
        lengths: (B,) valid keys of each row; None when all are.
        chunk: frames a chunk, counted from the first key; 0 for one chunk as long as the utterance.
        left: visible chunks before the query's own; -1 for all.
        far: the distance that the table begins with; Tk - 1 if None.
        backend: "auto" chooses by device; "reference" (or KIT_KERNELS=reference in the environment) takes the plain
            definition.

    Returns:
        (B, Tq, H, D); zero for a query that sees no key.

    Raises:
        ValueError: an argument's shape, type or device does not fit; the message names it.
    """
    keys = k.shape[1] if k.ndim == 4 else 0
    far = keys - 1 if far is None else far
    _check(q, k, v, table, u, w, lengths, chunk, left, far, backend)
    if lengths is None:
        lengths = torch.full((q.shape[0],), keys, dtype=torch.int32, device=q.device)
    if chunk <= 0:
        chunk, left = keys, 0  # one chunk
    elif left < 0:
        left = keys  # more chunks than there are
    exact = q.device.type == "cuda" and q.dtype == torch.float64  # the Triton kernels add up in single precision
    if exact or backend == "reference" or os.environ.get("KIT_KERNELS") == "reference":
        return chunk_attention_reference(q, k, v, table, u, w, lengths, chunk, left, far)
    if q.device.type == "cpu" and tiles.layout(q.shape[1], keys, chunk, left).count == 1:
        return chunk_attention_dense(q, k, v, table, u, w, lengths, chunk, left, far)
    return _ChunkAttention.apply(q, k, v, table, u, w, lengths.to(torch.int32), chunk, left, far)


class _ChunkAttention(torch.autograd.Function):
    """Keeps the inputs, the output and one number a row for the backward pass."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        out, lse = torch.ops.kit_kernels.chunk_attention(*inputs)
        ctx.save_for_backward(*inputs[:7], out, lse)
        ctx.numbers = inputs[7:]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v, table, u, w, lengths, out, lse = ctx.saved_tensors
        gradients = torch.ops.kit_kernels.chunk_attention_backward(
            grad, q, k, v, table, u, w, out, lse, lengths, *ctx.numbers
        )
        return *gradients, None, None, None, None


@torch.library.register_fake("kit_kernels::chunk_attention")
def _(q, k, v, table, u, w, lengths, chunk, left, far):  # type: ignore[no-untyped-def]
    batch, queries, heads, _ = q.shape
    kept = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty(q.shape), q.new_empty((batch, heads, queries), dtype=kept)


@torch.library.register_fake("kit_kernels::chunk_attention_backward")
def _(grad, q, k, v, table, u, w, out, lse, lengths, chunk, left, far):  # type: ignore[no-untyped-def]
    return tuple(x.new_empty(x.shape) for x in (q, k, v, table, u, w))


torch.library.impl("kit_kernels::chunk_attention", "CPU", tiles.forward)
torch.library.impl("kit_kernels::chunk_attention_backward", "CPU", tiles.backward)


@torch.library.impl("kit_kernels::chunk_attention", "CUDA")
def _(q, k, v, *others):  # type: ignore[no-untyped-def]
    from kernels.chunk_attention import triton_kernels

    return triton_kernels.forward(_rows(q), _rows(k), _rows(v), *_packed(others))


@torch.library.impl("kit_kernels::chunk_attention_backward", "CUDA")
def _(grad, q, k, v, *others):  # type: ignore[no-untyped-def]
    from kernels.chunk_attention import triton_kernels

    return triton_kernels.backward(grad, _rows(q), _rows(k), _rows(v), *_packed(others))


def _rows(x: Tensor) -> Tensor:
    """With contiguous last dimension, which is all that the kernels ask for."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _packed(others: tuple[Any, ...]) -> list[Any]:
    table, u, w, *rest = others
    return [_rows(table), u.contiguous(), w.contiguous(), *rest]


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    u: Tensor,
    w: Tensor,
    lengths: Tensor | None,
    chunk: int,
    left: int,
    far: int,
    backend: str,
) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is not one of {', '.join(BACKENDS)}")
    if q.ndim != 4 or q.dtype not in _TYPES:
        raise ValueError(f"q must be (B, Tq, H, D) and floating, not {tuple(q.shape)} of {q.dtype}")
    batch, queries, heads, dim = q.shape
    if k.ndim != 4 or (k.shape[0], *k.shape[2:]) != (batch, heads, dim) or k.shape[1] < queries:
        raise ValueError(f"k must be ({batch}, Tk >= {queries}, {heads}, {dim}), not {tuple(k.shape)}")
    expected = {"v": (v, tuple(k.shape)), "u": (u, (heads, dim)), "w": (w, (heads, dim))}
    if lengths is not None:
        expected["lengths"] = (lengths, (batch,))
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape}, not {tuple(tensor.shape)}")
    if table.ndim != 3 or tuple(table.shape[1:]) != (heads, dim):
        raise ValueError(f"table must be (R, {heads}, {dim}), not {tuple(table.shape)}")
    _check_table(table, queries, k.shape[1], chunk, left, far)
    for name, tensor in {"k": k, "v": v, "table": table}.items():
        if tensor.dtype != q.dtype:
            raise ValueError(f"{name} is {tensor.dtype}, but q is {q.dtype}")
    for name, given in {"k": k, "v": v, "table": table, "u": u, "w": w, "lengths": lengths}.items():
        if given is not None and given.device != q.device:
            raise ValueError(f"{name} is on {given.device}, but q is on {q.device}")


def _check_table(table: Tensor, queries: int, keys: int, chunk: int, left: int, far: int) -> None:
    seen = keys if chunk <= 0 or left < 0 else min(keys, (left + 1) * chunk)
    ahead = queries if chunk <= 0 else min(queries, chunk)
    if far < seen - 1:
        raise ValueError(f"table begins with the distance {far} (far), but queries see keys {seen - 1} frames back")
    if table.shape[0] < far + ahead:
        raise ValueError(
            f"table has {table.shape[0]} rows from the distance {far} down, but seeing {ahead - 1} frames ahead needs "
            f"{far + ahead}"
        )
