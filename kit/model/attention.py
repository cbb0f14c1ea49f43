"""Multi-head self-attention with relative positions, over a chunk mask or over a streaming cache."""

from __future__ import annotations

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


class RelativeAttention(nn.Module):
    """Pre-norm self-attention with separate norms for query, key and value and no projection biases.

    Args:
        dim: model dimension D.
        heads: number of heads H; must divide D.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"encoder.dim={dim} is not a multiple of encoder.heads={heads}")
        self.heads = heads
        self.norm_q, self.norm_k, self.norm_v = (nn.LayerNorm(dim) for _ in range(3))
        self.q, self.k, self.v, self.position, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(5))
        self.bias_u = nn.Parameter(torch.zeros(heads, dim // heads))
        self.bias_v = nn.Parameter(torch.zeros(heads, dim // heads))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, table: Tensor, mask: Tensor | None = None, cache: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attend over x, and over cached keys and values before it.

        Args:
            x: (B, T, D).
            table: (Tk + T - 1, D) from `position_table`, where Tk counts cached frames too.
            mask: (B, T, Tk) bool, or None.
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
        distances = self.position(table).unflatten(-1, shape)
        mixed = chunk_attention(q, k, v, distances, self.bias_u, self.bias_v, mask)
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
