"""Multi-head self-attention with relative positions, over a chunk mask or over a ring of earlier frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.chunk_attention import chunk_attention, chunk_attention_stream


def position_table(keys: int, queries: int, dim: int, like: Tensor) -> Tensor:
    """Sinusoids for the distances keys - 1 down to -(queries - 1): (keys + queries - 1, dim), in `like`'s type."""
    distance = torch.arange(keys - 1, -queries, -1.0, device=like.device)
    rate = torch.pow(10000.0, -torch.arange(0, dim, 2, device=like.device) / dim)
    angle = distance[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1).to(like.dtype)


@dataclass(frozen=True)
class View:
    """What the frames of one pass may see, and the positions of what they see.

    Attributes:
        table: (R, D) from `position_table`.
        far: the distance that the table begins with.
        lengths: (B,) valid frames of each row; None when all are.
        chunk: frames a chunk; 0 for the whole utterance.
        left: earlier chunks that stay visible; -1 for all.
    """

    table: Tensor
    far: int
    lengths: Tensor | None = None
    chunk: int = 0
    left: int = -1


def view_chunks(frames: int, dim: int, like: Tensor, lengths: Tensor, chunk: int, left: int) -> View:
    """Frames in chunks; under a limited left context only the distances that occur get a row."""
    chunk = chunk if 0 < chunk < frames else 0
    ahead = chunk or frames
    back = min(frames, (left + 1) * chunk) if chunk and left >= 0 else frames
    return View(position_table(back, ahead, dim, like), back - 1, lengths, chunk, left)


@dataclass
class Memory:
    """What one layer keeps of N streams, and what inference need not compute again.

    Attributes:
        keys, values: (N, S, H, D/H) rings of `kernels.chunk_attention_stream`.
        span: earlier frames that a chunk sees.
        weight, bias: (3 D, D) and (3 D,) of query, key and value with their norms folded in.
        table: (R, H, D/H) projected positions.
    """

    keys: Tensor
    values: Tensor
    span: int
    weight: Tensor
    bias: Tensor
    table: Tensor


class RelativeAttention(nn.Module):
    """Pre-norm self-attention with separate norms for query, key and value and no projection biases.

    Args:
        dim: model dimension D.
        heads: number of heads H; must divide D.
        backend: of `kernels.chunk_attention`.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, backend: str = "auto") -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"encoder.dim={dim} is not a multiple of encoder.heads={heads}")
        self.heads, self.backend = heads, backend
        self.norm_q, self.norm_k, self.norm_v = (nn.LayerNorm(dim) for _ in range(3))
        self.q, self.k, self.v, self.position, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(5))
        self.bias_u = nn.Parameter(torch.zeros(heads, dim // heads))
        self.bias_v = nn.Parameter(torch.zeros(heads, dim // heads))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, view: View) -> Tensor:
        """(B, T, D) to (B, T, D), residual added, each frame over what it may see."""
        q, k, v = self._parts(x, *self._folded())
        mixed = chunk_attention(
            q,
            k,
            v,
            self._positions(view.table),
            self.bias_u,
            self.bias_v,
            view.lengths,
            chunk=view.chunk,
            left=view.left,
            far=view.far,
            backend=self.backend,
        )
        return x + self.dropout(self.out(mixed.flatten(2)))

    def memory(self, streams: int, chunk: int, span: int) -> Memory:
        """Empty rings for so many streams of chunks of `chunk` frames that see `span` earlier ones."""
        weight, bias = self._folded()
        dim = self.out.in_features
        keys, values = (weight.new_zeros(streams, span + chunk, self.heads, dim // self.heads) for _ in "kv")
        table = self._positions(position_table(span + chunk, chunk, dim, weight)).contiguous()
        return Memory(keys, values, span, weight, bias, table)

    def stream(self, x: Tensor, memory: Memory, start: Tensor, fresh: Tensor, slots: Tensor) -> Tensor:
        """One chunk (B, T, D) of some streams; start, fresh and slots as in `kernels.chunk_attention_stream`."""
        q, k, v = self._parts(x, memory.weight, memory.bias)
        mixed = chunk_attention_stream(
            q,
            k,
            v,
            memory.keys,
            memory.values,
            memory.table,
            self.bias_u,
            self.bias_v,
            start,
            fresh,
            slots,
            span=memory.span,
            far=memory.keys.shape[1] - 1,
            backend=self.backend,
        )
        return x + self.out(mixed.flatten(2))

    def _positions(self, table: Tensor) -> Tensor:
        return self.position(table).unflatten(-1, (self.heads, -1))

    def _parts(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, T, H, D/H) in one product."""
        plain = F.layer_norm(x, x.shape[-1:], eps=self.norm_q.eps)
        q, k, v = F.linear(plain, weight, bias).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return q, k, v

    def _folded(self) -> tuple[Tensor, Tensor]:
        """Weight (3 D, D) and bias (3 D,) of that product.

        The three norms differ in their affine part only, which folds into the projection:
        W (g * n + b) = (W * g) n + W b, with n the plain normalized input.
        """
        pairs = ((self.norm_q, self.q), (self.norm_k, self.k), (self.norm_v, self.v))
        weight = torch.cat([linear.weight * norm.weight for norm, linear in pairs])
        return weight, torch.cat([linear.weight @ norm.bias for norm, linear in pairs])
