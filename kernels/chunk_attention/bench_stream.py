"""`python -m kit bench chunk_attention_stream`: one streaming step, the keeping of keys and values included."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.benchmark import Call, Case, Provider, Suite
from kernels.chunk_attention import chunk_attention_stream
from kernels.chunk_attention.bench import PEAKS, eager, sdpa
from kernels.chunk_attention.reference import chunk_attention_stream_reference

Attend = Callable[..., Tensor]
_definition: Any = chunk_attention_stream_reference


@dataclass(frozen=True)
class Inputs:
    """A chunk (q, k, v), the ring or, for the others, the past in order, and what all share."""

    chunk: tuple[Tensor, Tensor, Tensor]
    rings: tuple[Tensor, Tensor]
    past: tuple[Tensor, Tensor]
    shared: tuple[Tensor, Tensor, Tensor]
    start: Tensor


def _make(sizes: dict[str, Any], device: torch.device) -> Inputs:
    batch, chunk, span, heads, dim = (sizes[name] for name in ("batch", "chunk", "span", "heads", "dim"))
    draw = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(device, sizes["dtype"])

    new = (*(random(batch, chunk, heads, dim) for _ in range(3)),)
    past = (*(random(batch, span, heads, dim) for _ in range(2)),)
    rings = (*(x.new_zeros(batch, span + chunk, heads, dim) for x in past),)
    begun = span + 2 * chunk  # so far that the ring has wrapped
    for ring, held in zip(rings, past, strict=True):
        ring[:, torch.arange(begun - span, begun, device=device) % ring.shape[1]] = held
    start = torch.full((batch,), begun, dtype=torch.int32, device=device)
    shared = (random(span + 2 * chunk - 1, heads, dim), random(heads, dim), random(heads, dim))
    return Inputs(new, rings, past, shared, start)  # type: ignore[arg-type]


def _ours(inputs: Inputs, case: Case) -> Call:
    def step() -> Tensor:
        return chunk_attention_stream(
            *inputs.chunk, *inputs.rings, *inputs.shared, inputs.start, span=case.sizes["span"]
        )

    return torch.no_grad()(step)


def _joined(attend: Attend, inputs: Inputs, case: Case) -> Call:
    """What toolkits do: append by torch.cat, attend, cut the past for the next step."""

    def step() -> Tensor:
        q, k, v = inputs.chunk
        keys, values = (torch.cat(pair, 1) for pair in zip(inputs.past, (k, v), strict=True))
        keep = k.shape[1]
        _ = keys[:, keep:].contiguous(), values[:, keep:].contiguous()
        return attend(q, keys, values, *inputs.shared)

    return torch.no_grad()(step)


def _flex(inputs: Inputs, case: Case) -> Call:
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Any = torch.compile(flex_attention)

    def attend(q: Tensor, k: Tensor, v: Tensor, table: Tensor, u: Tensor, w: Tensor) -> Tensor:
        band = (q + w).transpose(1, 2) @ table.permute(1, 2, 0) / math.sqrt(q.shape[-1])
        ahead = q.shape[1] - 1

        def position(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return score + band[batch, head, query, ahead - query + key]

        query, key, value = (x.transpose(1, 2) for x in (q + u, k, v))
        return compiled(query, key, value, score_mod=position).transpose(1, 2)

    return _joined(attend, inputs, case)


def _reference(inputs: Inputs, case: Case) -> Tensor:
    """In double (single on a GPU), from copies of the rings."""
    kind = torch.float64 if inputs.start.device.type == "cpu" else torch.float32
    tensors = [x.to(kind, copy=True) for x in (*inputs.chunk, *inputs.rings, *inputs.shared)]
    slots = torch.arange(len(inputs.start))
    fresh = torch.full_like(inputs.start, case.sizes["chunk"])
    span = case.sizes["span"]
    with torch.no_grad():
        return _definition(*tensors, slots, inputs.start, fresh, span, span + case.sizes["chunk"] - 1)


def _case(device: str, tolerance: float, **sizes: Any) -> Case:
    batch, chunk, span, heads, dim = (sizes[key] for key in ("batch", "chunk", "span", "heads", "dim"))
    element = torch.finfo(sizes["dtype"]).bits // 8
    frames = 2 * chunk + 2 * chunk + 2 * span + 2 * chunk  # q and out, new k and v, past k and v, kept k and v
    return Case(
        f"stream B{batch} C{chunk} S{span} H{heads} D{dim}",
        partial(_make, sizes),
        sizes,
        bytes=float(element * batch * frames * heads * dim),
        flops=3 * 2.0 * batch * heads * chunk * (span + chunk) * dim,
        devices=(device,),
        tolerance=tolerance,
    )


_SHAPE = {"chunk": 16, "span": 64}

SUITE = Suite(
    "chunk_attention_stream",
    cases=[
        *(_case("cpu", 1e-4, batch=size, heads=4, dim=36, dtype=torch.float32, **_SHAPE) for size in (1, 8)),
        *(_case("cuda", 2e-2, batch=size, heads=20, dim=64, dtype=torch.bfloat16, **_SHAPE) for size in (1, 64, 512)),
    ],
    providers=[
        Provider("ours", _ours),
        Provider("eager", partial(_joined, eager)),
        Provider("sdpa", partial(_joined, sdpa)),
        Provider("flex", _flex, devices=("cuda",)),
    ],
    reference=_reference,
    baseline="eager",
    peaks=PEAKS,
)
