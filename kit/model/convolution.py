"""The Conformer's convolution, confined to its chunk: it looks back freely and never past its own chunk's end."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChunkConvolution(nn.Module):
    """Pointwise, gate, depthwise, norm, Swish, pointwise (as in FireRedASR-AED's public code), symmetric kernel.

    A symmetric kernel of 33 frames would look 16 frames ahead, as far as a 640 ms chunk is long. Under a chunk size
    the frames behind the chunk's end read as zeros (Dynamic Chunk Convolution, Li et al. 2023, arXiv 2304.09325), in
    training as in streaming; without chunks it is the ordinary convolution, so offline weights keep their meaning.

    Args:
        dim: model dimension D.
        kernel: odd kernel size of the depthwise convolution.
    """

    def __init__(self, dim: int, kernel: int, dropout: float = 0.0) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"encoder.kernel={kernel} is even; the symmetric convolution needs an odd size")
        self.reach = kernel // 2
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, 4 * dim, bias=False)
        self.depthwise = nn.Conv1d(2 * dim, 2 * dim, kernel, groups=2 * dim, bias=False)
        self.depthwise_norm = nn.LayerNorm(2 * dim)
        self.reduce = nn.Linear(2 * dim, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor, chunk: int = 0) -> Tensor:
        """(B, T, D) to (B, T, D), residual added; `valid` (B, T, 1) marks frames, `chunk` in frames (0 = whole)."""
        gated = self._gate(x).masked_fill(~valid, 0.0)
        unbroken = chunk <= 0 or chunk >= x.shape[1] or self.reach == 0
        mixed = self._whole(gated) if unbroken else self._chunked(gated, chunk)
        return x + self._finish(mixed)

    def stream(self, x: Tensor, past: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """One chunk (B, T, D), `live` (B, T, 1) marks frames, after `past` (B, reach, 2 D), the gated frames before it.

        Gives the output and the past of the next chunk; the next chunk of a row that is not all live is another's.
        """
        gated = torch.cat([past, self._gate(x).masked_fill(~live, 0.0)], 1)
        mixed = _depthwise(F.pad(gated, (0, 0, 0, self.reach)), self.depthwise.weight)
        return x + self._finish(mixed), gated[:, gated.shape[1] - self.reach :]

    def empty_cache(self, batch: int, like: Tensor) -> Tensor:
        """The cache before the first chunk: silence, as the padding of the whole pass."""
        return like.new_zeros(batch, self.reach, len(self.depthwise.weight))

    def _gate(self, x: Tensor) -> Tensor:
        return F.glu(self.expand(self.norm(x)), -1)

    def _finish(self, mixed: Tensor) -> Tensor:
        return self.dropout(self.reduce(F.silu(self.depthwise_norm(mixed))))

    def _whole(self, gated: Tensor) -> Tensor:
        return _depthwise(F.pad(gated, (0, 0, self.reach, self.reach)), self.depthwise.weight)

    def _chunked(self, gated: Tensor, chunk: int) -> Tensor:
        """The taps on past and present run over the whole row, those on the future over each chunk by itself.

        Cutting out windows and convolving them with the whole kernel would repeat the past `reach` frames a chunk:
        three times the work at 6 frames, forward and backward.
        """
        weight = self.depthwise.weight
        size, tail = gated.shape[1], -gated.shape[1] % chunk
        past = _depthwise(F.pad(gated, (0, 0, self.reach, 0)), weight[..., : self.reach + 1])
        pieces = F.pad(gated, (0, 0, 0, tail)).unflatten(1, (-1, chunk))  # (B, n, chunk, C)
        ahead = F.pad(pieces, (0, 0, 0, self.reach)).flatten(0, 1)[:, 1:]
        future = _depthwise(ahead, weight[..., self.reach + 1 :])  # (B n, chunk, C)
        return past + future.reshape(len(gated), size + tail, -1)[:, :size]


def _depthwise(x: Tensor, weight: Tensor) -> Tensor:
    """Depthwise convolution of (B, N, C) with (C, 1, K) to (B, N - K + 1, C), no padding.

    As a 2-d convolution of height 1 the rows are already in channels-last order, for which the CPU has a kernel about
    twice as fast, and nothing is transposed.
    """
    rows = x.transpose(1, 2).unsqueeze(2)
    return F.conv2d(rows, weight.unsqueeze(2), groups=len(weight)).squeeze(2).transpose(1, 2)
