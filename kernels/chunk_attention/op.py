"""The one public function, as a pair of registered operators: the fast CPU path, or Triton on a GPU."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.chunk_attention import dense, tiles
from kernels.chunk_attention.reference import chunk_attention_reference, chunk_attention_stream_reference

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
torch.library.define(
    "kit_kernels::chunk_attention_stream",
    "(Tensor q, Tensor k, Tensor v, Tensor(a!) ring_keys, Tensor(b!) ring_values, Tensor table, Tensor u, Tensor w, "
    "Tensor slots, Tensor start, Tensor fresh, SymInt span, SymInt far) -> Tensor",
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
    if exact or _plain(backend):
        return chunk_attention_reference(q, k, v, table, u, w, lengths, chunk, left, far)
    if q.device.type == "cpu" and tiles.layout(q.shape[1], keys, chunk, left).count == 1:
        return dense.chunk_attention_dense(q, k, v, table, u, w, lengths, chunk, left, far)
    return _ChunkAttention.apply(q, k, v, table, u, w, lengths.to(torch.int32), chunk, left, far)


def chunk_attention_stream(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ring_keys: Tensor,
    ring_values: Tensor,
    table: Tensor,
    u: Tensor,
    w: Tensor,
    start: Tensor,
    fresh: Tensor | None = None,
    slots: Tensor | None = None,
    *,
    span: int,
    far: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """One chunk of each of B streams: attend to it and to the `span` frames before it, and keep its keys and values.

    For inference: it has no gradient. All that changes from step to step lies on the device, so that a CUDA graph of
    the step can be replayed.

    Args:
        q, k, v: (B, Tq, H, D) of the chunk.
        ring_keys, ring_values: (N, S, H, D), S at least span + Tq, contiguous; frame t of a stream stands at t % S
            of its ring. The chunk is written there.
        table: (R, H, D) as in `chunk_attention`, for the distances span + Tq - 1 down to -(Tq - 1).
        u, w: (H, D) content and position bias.
        start: (N,) int32, frames that each ring's stream had before; the caller counts on.
        fresh: (B,) int32, how many of the Tq frames are there; None: all. The others give zero and are not kept.
        slots: (B,) int32, the ring of each row, no two alike; None: the first B in order.
        span: earlier frames that the chunk sees.
        far: the distance that the table begins with; span + Tq - 1 if None.
        backend: as in `chunk_attention`.

    Returns:
        (B, Tq, H, D).

    Raises:
        ValueError: an argument's shape, type or device does not fit; the message names it.
    """
    batch, queries = q.shape[:2] if q.ndim == 4 else (0, 0)
    far = span + queries - 1 if far is None else far
    if fresh is None:
        fresh = torch.full((batch,), queries, dtype=torch.int32, device=q.device)
    if slots is None:
        slots = torch.arange(batch, dtype=torch.int32, device=q.device)
    _check_backend(backend)
    _check_heads(q, table, {"k": (k, tuple(q.shape)), "v": (v, tuple(q.shape))}, u, w)
    _check_rings(q, ring_keys, ring_values, slots, start, fresh, span)
    _check_table(table, queries, span + queries, 0, -1, far)
    inputs = (q, k, v, ring_keys, ring_values, table, u, w)
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        raise ValueError("chunk_attention_stream has no gradient; call it under torch.no_grad()")
    exact = q.device.type == "cuda" and q.dtype == torch.float64
    if exact or _plain(backend):
        return chunk_attention_stream_reference(*inputs, slots, start, fresh, span, far)
    counts = (x.to(torch.int32) for x in (slots, start, fresh))
    return torch.ops.kit_kernels.chunk_attention_stream(*inputs, *counts, span, far)


def _plain(backend: str) -> bool:
    return backend == "reference" or os.environ.get("KIT_KERNELS") == "reference"


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


@torch.library.register_fake("kit_kernels::chunk_attention_stream")
def _(q, *others):  # type: ignore[no-untyped-def]
    return q.new_empty(q.shape)


torch.library.impl("kit_kernels::chunk_attention_stream", "CPU", dense.stream)
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


@torch.library.impl("kit_kernels::chunk_attention_stream", "CUDA")
def _(q, k, v, ring_keys, ring_values, *others):  # type: ignore[no-untyped-def]
    from kernels.chunk_attention import triton_kernels

    span = others[-2]
    if q.shape[1] > triton_kernels.LONGEST_CHUNK or span > triton_kernels.LONGEST_SPAN:
        return dense.stream(q, k, v, ring_keys, ring_values, *others)
    return triton_kernels.stream(_rows(q), _rows(k), _rows(v), ring_keys, ring_values, *_packed(others))


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
    _check_backend(backend)
    batch, queries, heads, dim = q.shape if q.ndim == 4 else (0, 0, 0, 0)
    fits = k.ndim == 4 and (k.shape[0], *k.shape[2:]) == (batch, heads, dim) and k.shape[1] >= queries
    if q.ndim == 4 and not fits:
        raise ValueError(f"k must be ({batch}, Tk >= {queries}, {heads}, {dim}), not {tuple(k.shape)}")
    _check_heads(q, table, {"k": (k, tuple(k.shape)), "v": (v, tuple(k.shape))}, u, w)
    if lengths is not None:
        _check_counts(q, {"lengths": (lengths, batch)})
    _check_table(table, queries, k.shape[1], chunk, left, far)


def _check_backend(backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} is not one of {', '.join(BACKENDS)}")


def _check_heads(
    q: Tensor, table: Tensor, like: dict[str, tuple[Tensor, tuple[int, ...]]], u: Tensor, w: Tensor
) -> None:
    """q itself, the tensors that must be like it in type and device, and the biases."""
    if q.ndim != 4 or q.dtype not in _TYPES:
        raise ValueError(f"q must be (B, Tq, H, D) and floating, not {tuple(q.shape)} of {q.dtype}")
    heads, dim = q.shape[2:]
    for name, (tensor, shape) in {**like, "u": (u, (heads, dim)), "w": (w, (heads, dim))}.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape}, not {tuple(tensor.shape)}")
    if table.ndim != 3 or tuple(table.shape[1:]) != (heads, dim):
        raise ValueError(f"table must be (R, {heads}, {dim}), not {tuple(table.shape)}")
    alike = {name: tensor for name, (tensor, _) in like.items()} | {"table": table}
    for name, tensor in alike.items():
        if tensor.dtype != q.dtype:
            raise ValueError(f"{name} is {tensor.dtype}, but q is {q.dtype}")
    for name, tensor in {**alike, "u": u, "w": w}.items():
        if tensor.device != q.device:
            raise ValueError(f"{name} is on {tensor.device}, but q is on {q.device}")


def _check_counts(q: Tensor, counts: dict[str, tuple[Tensor, int]]) -> None:
    for name, (tensor, size) in counts.items():
        if tuple(tensor.shape) != (size,):
            raise ValueError(f"{name} must be {(size,)}, not {tuple(tensor.shape)}")
        if tensor.is_floating_point():
            raise ValueError(f"{name} must be whole numbers, not {tensor.dtype}")
        if tensor.device != q.device:
            raise ValueError(f"{name} is on {tensor.device}, but q is on {q.device}")


def _check_rings(
    q: Tensor, keys: Tensor, values: Tensor, slots: Tensor, start: Tensor, fresh: Tensor, span: int
) -> None:
    batch, queries, heads, dim = q.shape
    if keys.ndim != 4 or tuple(keys.shape[2:]) != (heads, dim) or keys.shape[1] < span + queries:
        raise ValueError(f"ring_keys must be (N, S >= {span + queries}, {heads}, {dim}), not {tuple(keys.shape)}")
    if values.shape != keys.shape or not keys.is_contiguous() or not values.is_contiguous():
        raise ValueError("ring_keys and ring_values must have one shape and be contiguous")
    for name, ring in {"ring_keys": keys, "ring_values": values}.items():
        if ring.dtype != q.dtype or ring.device != q.device:
            raise ValueError(f"{name} is {ring.dtype} on {ring.device}, but q is {q.dtype} on {q.device}")
    if batch > keys.shape[0]:
        raise ValueError(f"ring_keys has {keys.shape[0]} rings, but there are {batch} streams")
    _check_counts(q, {"slots": (slots, batch), "start": (start, keys.shape[0]), "fresh": (fresh, batch)})


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
