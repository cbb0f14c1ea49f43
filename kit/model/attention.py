"""Multi-head self-attention with relative positions, over a chunk mask or over a streaming cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.chunk_attention import chunk_attention


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


def view_whole(keys: int, queries: int, dim: int, like: Tensor) -> View:
    """The last `queries` of `keys` frames see all of them."""
    return View(position_table(keys, queries, dim, like), keys - 1)


def view_chunks(frames: int, dim: int, like: Tensor, lengths: Tensor, chunk: int, left: int) -> View:
    """Frames in chunks; under a limited left context only the distances that occur get a row."""
    chunk = chunk if 0 < chunk < frames else 0
    ahead = chunk or frames
    back = min(frames, (left + 1) * chunk) if chunk and left >= 0 else frames
    return View(position_table(back, ahead, dim, like), back - 1, lengths, chunk, left)


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

    def forward(self, x: Tensor, view: View, cache: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend over x, and over cached keys and values before it.

        Args:
            x: (B, T, D).
            view: what is visible among all Tk frames, cached ones first.
            cache: (B, S, H, 2 D/H) keys and values of S earlier frames, or None.

        Returns:
            (B, T, D) with the residual added, and keys and values of all Tk frames (B, Tk, H, 2 D/H).
        """
        shape = (self.heads, -1)
        q, k, v = (part.unflatten(-1, shape) for part in self._project(x).chunk(3, -1))
        state = torch.cat([k, v], -1)
        if cache is not None:
            state = torch.cat([cache, state], 1)
            k, v = state.chunk(2, -1)
        distances = self.position(view.table).unflatten(-1, shape)
        mixed = chunk_attention(
            q,
            k,
            v,
            distances,
            self.bias_u,
            self.bias_v,
            view.lengths,
            chunk=view.chunk,
            left=view.left,
            far=view.far,
            backend=self.backend,
        )
        return x + self.dropout(self.out(mixed.flatten(2))), state

    def _project(self, x: Tensor) -> Tensor:
        """Queries, keys and values (B, T, 3 D) in one product.

        The three norms differ in their affine part only, which folds into the projection:
        W (g * n + b) = (W * g) n + W b, with n the plain normalized input.
        """
        pairs = ((self.norm_q, self.q), (self.norm_k, self.k), (self.norm_v, self.v))
        weight = torch.cat([linear.weight * norm.weight for norm, linear in pairs])
        bias = torch.cat([linear.weight @ norm.bias for norm, linear in pairs])
        plain = F.layer_norm(x, x.shape[-1:], eps=self.norm_q.eps)
        return F.linear(plain, weight, bias)
