"""`python -m kit bench chunk_attention`: ours against what PyTorch offers for the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.benchmark import Call, Case, Provider, Suite
from kernels.chunk_attention import chunk_attention, chunk_attention_reference, chunk_mask
from kernels.chunk_attention.dense import shifted

Attend = Callable[..., Tensor]
_definition: Attend = chunk_attention_reference


@dataclass(frozen=True)
class Inputs:
    """The operator's tensors, and the gradient of its output for cases with a backward pass."""

    tensors: tuple[Tensor, ...]
    lengths: Tensor
    mask: Tensor
    grad: Tensor | None


def _make(sizes: dict[str, Any], device: torch.device) -> Inputs:
    batch, frames, heads, dim = (sizes[name] for name in ("batch", "frames", "heads", "dim"))
    draw = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=draw).to(device, sizes["dtype"])
        return values.requires_grad_() if sizes["backward"] else values

    tensors = (
        *(random(batch, frames, heads, dim) for _ in range(3)),
        random(2 * frames - 1, heads, dim),
        random(heads, dim),
        random(heads, dim),
    )
    lengths = torch.full((batch,), frames, device=device, dtype=torch.int32)
    grad = torch.randn(batch, frames, heads, dim, generator=draw).to(device, sizes["dtype"])
    mask = chunk_mask(frames, frames, lengths[:1], sizes["chunk"], sizes["left"])
    return Inputs(tensors, lengths, mask, grad if sizes["backward"] else None)


def _call(attend: Attend, inputs: Inputs) -> Call:
    """Forward, or forward and the gradients of everything."""
    if inputs.grad is None:
        return torch.no_grad()(lambda: attend(*inputs.tensors))
    return lambda: torch.autograd.grad(attend(*inputs.tensors), inputs.tensors, inputs.grad)


def _ours(inputs: Inputs, case: Case) -> Call:
    chunk, left, frames = case.sizes["chunk"], case.sizes["left"], case.sizes["frames"]
    back = min(frames, (left + 1) * chunk) if chunk and left >= 0 else frames
    ahead = chunk or frames

    def attend(q: Tensor, k: Tensor, v: Tensor, table: Tensor, u: Tensor, w: Tensor) -> Tensor:
        needed = table[frames - back : frames - 1 + ahead]
        return chunk_attention(q, k, v, needed, u, w, inputs.lengths, chunk=chunk, left=left, far=back - 1)

    return _call(attend, inputs)


def bias_by_key(q: Tensor, table: Tensor, w: Tensor) -> Tensor:
    """Position scores (B, H, Tq, Tk) by the relative shift, from all Tk + Tq - 1 distances."""
    return shifted((q + w).transpose(1, 2) @ table.permute(1, 2, 0), len(table) - q.shape[1] + 1)


def eager(q: Tensor, k: Tensor, v: Tensor, table: Tensor, u: Tensor, w: Tensor, mask: Tensor | None = None) -> Tensor:
    """What toolkits do: all pairs, relative shift, mask, softmax."""
    content = (q + u).transpose(1, 2) @ k.permute(0, 2, 3, 1)
    score = (content + bias_by_key(q, table, w)) / math.sqrt(q.shape[-1])
    return (_hide(score, mask).softmax(-1) @ v.transpose(1, 2)).transpose(1, 2)


def sdpa(q: Tensor, k: Tensor, v: Tensor, table: Tensor, u: Tensor, w: Tensor, mask: Tensor | None = None) -> Tensor:
    """torch's attention with the position scores as a dense mask."""
    bias = _hide(bias_by_key(q, table, w) / math.sqrt(q.shape[-1]), mask)
    query, key, value = (x.transpose(1, 2) for x in (q + u, k, v))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(q.dtype)).transpose(1, 2)


def _hide(score: Tensor, mask: Tensor | None) -> Tensor:
    return score if mask is None else score.masked_fill(~mask[:, None], -math.inf)


def _masked(attend: Attend, inputs: Inputs, case: Case) -> Call:
    return _call(partial(attend, mask=inputs.mask), inputs)


def _compiled(inputs: Inputs, case: Case) -> Call:
    return _call(partial(_compiled_eager(), mask=inputs.mask), inputs)


@cache
def _compiled_eager() -> Attend:
    return torch.compile(eager)


def _flex(inputs: Inputs, case: Case) -> Call:
    """FlexAttention, which skips masked blocks, with the band of position scores from one matrix product."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    frames, chunk, left = case.sizes["frames"], case.sizes["chunk"] or case.sizes["frames"], case.sizes["left"]
    reach = left if left >= 0 else frames
    back = min(frames, (reach + 1) * chunk)
    ahead = min(chunk, frames)

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = query // chunk - key // chunk
        return (distance >= 0) & (distance <= reach)

    block_mask = create_block_mask(visible, None, None, frames, frames, device=inputs.lengths.device)
    compiled: Any = torch.compile(flex_attention)

    def attend(q: Tensor, k: Tensor, v: Tensor, table: Tensor, u: Tensor, w: Tensor) -> Tensor:
        needed = table[frames - back : frames - 1 + ahead]
        band = (q + w).transpose(1, 2) @ needed.permute(1, 2, 0) / math.sqrt(q.shape[-1])  # (B, H, T, R)

        def position(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            row = (back - 1 - (query - key)).clamp(0, band.shape[-1] - 1)
            return score + band[batch, head, query, row]

        query, key, value = (x.transpose(1, 2) for x in (q + u, k, v))
        return compiled(query, key, value, score_mod=position, block_mask=block_mask).transpose(1, 2)

    return _call(attend, inputs)


def _reference(inputs: Inputs, case: Case) -> Any:
    """In double (single on a GPU, where the shapes are large), one row at a time."""
    kind = torch.float64 if inputs.lengths.device.type == "cpu" else torch.float32
    frames = case.sizes["frames"]
    chunk, left = case.sizes["chunk"] or frames, case.sizes["left"] if case.sizes["left"] >= 0 else frames
    shared = [x.detach().to(kind).requires_grad_(inputs.grad is not None) for x in inputs.tensors[3:]]
    outs, changes = [], []
    for row in range(inputs.lengths.shape[0]):
        own = [x[row : row + 1].detach().to(kind).requires_grad_(inputs.grad is not None) for x in inputs.tensors[:3]]
        lengths = inputs.lengths[row : row + 1]
        out = _definition(*own, *shared, lengths, chunk, left, frames - 1)
        outs.append(out.detach())
        if inputs.grad is not None:
            changes.append(torch.autograd.grad(out, [*own, *shared], inputs.grad[row : row + 1].to(kind)))
    if inputs.grad is None:
        return torch.cat(outs)
    parts = list(zip(*changes, strict=True))
    return [torch.cat(part) for part in parts[:3]] + [torch.stack(part).sum(0) for part in parts[3:]]


def _case(name: str, devices: tuple[str, ...], backward: bool, tolerance: float, **sizes: Any) -> Case:
    sizes |= {"backward": backward}
    batch, frames, heads, dim, chunk, left = (
        sizes[key] for key in ("batch", "frames", "heads", "dim", "chunk", "left")
    )
    seen = frames if not chunk else frames if left < 0 else min(frames, (left + 1) * chunk)
    element = torch.finfo(sizes["dtype"]).bits // 8
    tensors = 4 if not backward else 4 + 5 + 3  # q k v o; then those, the gradient given and three results
    products = 3 if not backward else 3 + 8  # content, position, values; then scores again and all gradients
    return Case(
        f"{name} {'forward+backward' if backward else 'forward'}",
        partial(_make, sizes),
        sizes,
        bytes=tensors * batch * frames * heads * dim * element,
        flops=products * 2.0 * batch * heads * frames * seen * dim,
        devices=devices,
        tolerance=tolerance,
    )


PEAKS = {"H100": (3.0e12, 8e14)}  # bytes a second counted read and written, bf16 FLOP/s
_TINY = {"heads": 4, "dim": 36, "dtype": torch.float32}
_LARGE = {"heads": 20, "dim": 64, "dtype": torch.bfloat16}
_BAND = {"frames": 750, "chunk": 16, "left": 4}

SUITE = Suite(
    "chunk_attention",
    cases=[
        case
        for backward in (False, True)
        for case in (
            _case("T750 C16 L4 B2 H4 D36", ("cpu",), backward, 1e-4, batch=2, **_BAND, **_TINY),
            _case("T750 full B1 H4 D36", ("cpu",), backward, 1e-4, batch=1, frames=750, chunk=0, left=-1, **_TINY),
            _case("T54 C6 all B13 H4 D36", ("cpu",), backward, 1e-4, batch=13, frames=54, chunk=6, left=-1, **_TINY),
            _case("T750 C16 L4 B64 H20 D64", ("cuda",), backward, 2e-2, batch=64, **_BAND, **_LARGE),
            _case("T750 full B64 H20 D64", ("cuda",), backward, 2e-2, batch=64, frames=750, chunk=0, left=-1, **_LARGE),
        )
    ],
    providers=[
        Provider("ours", _ours),
        Provider("eager", partial(_masked, eager)),
        Provider("compiled", _compiled, devices=("cuda",)),
        Provider("sdpa", partial(_masked, sdpa)),
        Provider("flex", _flex, devices=("cuda",)),
    ],
    reference=_reference,
    baseline="eager",
    peaks=PEAKS,
)
