"""The two readers of the encoder: phoneme head and speech adaptor."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PhonemeHead(nn.Module):
    """Three-layer MLP from encoder frames to phoneme logits, index 0 the CTC blank.

    The first two layers stand beside a skip connection, and the second starts at zero: the head begins as a linear one.
    A plain MLP keeps the gradient from a young encoder (docs/results.md has the figures).

    Args:
        dim: encoder dimension D.
        hidden: width of the hidden layer; None is D.
        symbols: number V of phonemes, blank included.
    """

    def __init__(self, dim: int, symbols: int, hidden: int | None = None) -> None:
        super().__init__()
        width = hidden or dim
        self.expand, self.reduce, self.out = nn.Linear(dim, width), nn.Linear(width, dim), nn.Linear(dim, symbols)
        nn.init.zeros_(self.reduce.weight)
        nn.init.zeros_(self.reduce.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, D) to logits (B, T, V)."""
        return self.out(frames + self.reduce(F.silu(self.expand(frames))))


class Adaptor(nn.Module):
    """Concatenates `stack` frames and maps them by a 2-layer MLP into the LLM's embedding space.

    Args:
        dim: encoder dimension D.
        stack: frames a speech token; 4 gives 6.25 tokens a second.
        hidden: width of the hidden layer.
        output: the LLM's hidden size E.
    """

    def __init__(self, dim: int, stack: int, hidden: int, output: int) -> None:
        super().__init__()
        self.stack = stack
        self.norm = nn.LayerNorm(dim * stack)
        self.layers = nn.Sequential(nn.Linear(dim * stack, hidden), nn.GELU(), nn.Linear(hidden, output))

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) and lengths (B,) to speech embeddings (B, ceil(T / stack), E) and their lengths."""
        inside = torch.arange(frames.shape[1], device=frames.device) < lengths[:, None]
        frames = frames.masked_fill(~inside[..., None], 0.0)  # a row's last token must not see padding
        frames = F.pad(frames, (0, 0, 0, -frames.shape[1] % self.stack))
        stacked = frames.unflatten(1, (-1, self.stack)).flatten(2)
        return self.layers(self.norm(stacked)), (lengths + self.stack - 1) // self.stack
