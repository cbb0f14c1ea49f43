"""The streaming Conformer encoder: one set of weights, the same numbers offline and chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.model.attention import RelativeAttention, View, view_chunks, view_whole
from kit.model.convolution import ChunkConvolution
from kit.model.subsampling import CONTEXT, STRIDE, Subsampling, output_length


@dataclass(frozen=True)
class Chunk:
    """How much of the utterance a frame may see.

    Attributes:
        frames: encoder frames (40 ms each) a chunk; 0 is the whole utterance.
        left: earlier chunks that stay visible; -1 is all of them.
    """

    frames: int = 0
    left: int = -1


WHOLE = Chunk()


def draw_chunk(frames: int, limited_left: bool = True) -> Chunk:
    """One random chunk a batch for training (WeNet's dynamic chunks, arXiv 2012.05481), from torch's generator.

    Args:
        frames: length L of the batch in encoder frames. c ~ U{1..L-1}; beyond L/2 the whole utterance is visible,
            otherwise c mod 25 + 1 frames.
        limited_left: draw the visible left chunks as well (all of them half of the time).
    """
    if frames < 2:
        return WHOLE
    size = int(torch.randint(1, frames, ()))
    if size > frames / 2:
        return WHOLE
    size = size % 25 + 1
    if not limited_left or float(torch.rand(())) < 0.5:
        return Chunk(size)
    return Chunk(size, int(torch.randint(0, max(1, (frames - 1) // size), ())))


def _feed_forward(dim: int, factor: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, factor * dim),
        nn.SiLU(),
        nn.Dropout(dropout),
        nn.Linear(factor * dim, dim),
        nn.Dropout(dropout),
    )


class ConformerBlock(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, norm (Gulati et al. 2020, arXiv 2005.08100)."""

    def __init__(
        self, dim: int, heads: int, feed_forward: int, kernel: int, dropout: float, attention: str = "auto"
    ) -> None:
        super().__init__()
        self.feed_forward1 = _feed_forward(dim, feed_forward, dropout)
        self.attention = RelativeAttention(dim, heads, dropout, attention)
        self.convolution = ChunkConvolution(dim, kernel, dropout)
        self.feed_forward2 = _feed_forward(dim, feed_forward, dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, view: View, valid: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D); `valid` (B, T, 1) marks frames."""
        x = x + 0.5 * self.feed_forward1(x)
        x, _ = self.attention(x, view)
        x = self.convolution(x, valid, view.chunk)
        return self.norm(x + 0.5 * self.feed_forward2(x))

    def stream(self, x: Tensor, view: View, keys: Tensor, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One chunk with the caches of attention and convolution; gives the output and both caches."""
        x = x + 0.5 * self.feed_forward1(x)
        x, keys = self.attention(x, view, keys)
        x, frames = self.convolution.stream(x, frames)
        return self.norm(x + 0.5 * self.feed_forward2(x)), keys, frames


@dataclass
class EncoderCache:
    """What streaming remembers between two calls.

    Attributes:
        chunk: chunk size and visible left chunks.
        features: (B, r, F) normalized feature frames not yet wholly used.
        keys: per layer (B, S, H, 2 D/H), attention keys and values of the visible past.
        frames: per layer (B, reach, 2 D), the convolution's past.
    """

    chunk: Chunk
    features: Tensor
    keys: list[Tensor] = field(default_factory=list)
    frames: list[Tensor] = field(default_factory=list)


class ConformerEncoder(nn.Module):
    """Global normalization, 4x subsampling and Conformer blocks.

    Args:
        bins: feature dimension F.
        dim: model dimension D.
        heads, layers, kernel: of the blocks.
        feed_forward: width of the feed-forward layers as a multiple of D.
        channels: of the subsampling.
        dropout: everywhere.
        attention: backend of `kernels.chunk_attention`, "auto" or "reference"; the numbers are the same.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        bins: int,
        dim: int,
        heads: int,
        layers: int,
        kernel: int,
        feed_forward: int = 4,
        channels: int = 32,
        dropout: float = 0.0,
        attention: str = "auto",
    ) -> None:
        super().__init__()
        self.dim, self.bins, self.heads = dim, bins, heads
        self.register_buffer("mean", torch.zeros(bins))
        self.register_buffer("scale", torch.ones(bins))
        self.subsampling = Subsampling(bins, channels, dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            ConformerBlock(dim, heads, feed_forward, kernel, dropout, attention) for _ in range(layers)
        )

    def set_normalization(self, mean: Tensor, deviation: Tensor) -> None:
        """Keep the training set's mean and standard deviation, both (F,)."""
        self.mean.copy_(mean)
        self.scale.copy_(1.0 / deviation.clamp_min(1e-5))

    def normalize(self, features: Tensor) -> Tensor:
        """(B, T, F) log-mel features to zero mean and unit variance over the training set."""
        return (features - self.mean) * self.scale

    def forward(
        self, features: Tensor, lengths: Tensor, chunk: Chunk = WHOLE, *, normalized: bool = False, middle: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Encode whole utterances under a chunk mask.

        Args:
            features: (B, T, F) log-mel, any values behind each row's length.
            lengths: (B,) feature frames.
            chunk: what a frame may see.
            normalized: the features went through `normalize` already (augmentation works on those).
            middle: also give the output of the middle block, for intermediate CTC.

        Returns:
            frames (B, T', D), their lengths (B,) and the middle block's frames or None.
        """
        x = features if normalized else self.normalize(features)
        size = x.shape[1]
        used = torch.arange(size, device=x.device)[None, :, None] < lengths[:, None, None]
        x = F.pad(x.masked_fill(~used, 0.0), (0, 0, 0, CONTEXT - 1))  # zeros are the mean: the tail sees nothing new
        x = self.dropout(self.subsampling(x))  # (B, T', D)
        lengths = output_length(lengths)
        frames = x.shape[1]
        valid = (torch.arange(frames, device=x.device) < lengths[:, None])[..., None]
        view = view_chunks(frames, self.dim, x, lengths, chunk.frames, chunk.left)
        halfway = None
        for index, block in enumerate(self.blocks, 1):
            x = block(x, view, valid)
            if middle and index == len(self.blocks) // 2:
                halfway = x
        return x, lengths, halfway

    def start(self, chunk: Chunk, batch: int = 1) -> EncoderCache:
        """A cache for `batch` streams that begin together; `chunk.frames` must be positive."""
        if chunk.frames <= 0:
            raise ValueError(f"streaming needs a chunk of at least one frame, not {chunk.frames}")
        like = self.subsampling.out.weight
        return EncoderCache(
            chunk,
            like.new_zeros(batch, 0, self.bins),
            [like.new_zeros(batch, 0, self.heads, 2 * self.dim // self.heads) for _ in self.blocks],
            [block.convolution.empty_cache(batch, like) for block in self._blocks()],
        )

    def stream(self, features: Tensor, cache: EncoderCache, final: bool = False) -> tuple[Tensor, EncoderCache]:
        """Encode what has come, in whole chunks; with `final` the shorter last chunk too.

        Equals `forward` under the same chunk, whatever the sizes of the pieces.

        Args:
            features: (B, t, F) log-mel frames that follow the earlier ones, t >= 0.
            cache: from `start` or an earlier call; it is used up.
            final: no more will come: flush the tail with the padding of the whole pass.

        Returns:
            (B, n, D) new frames, n a multiple of the chunk unless final, and the cache to go on with.
        """
        waiting = torch.cat([cache.features, self.normalize(features)], 1)
        step = cache.chunk.frames * STRIDE
        need = step - STRIDE + CONTEXT
        done = []
        while waiting.shape[1] >= need:
            done.append(self._chunk(waiting[:, :need], cache))
            waiting = waiting[:, step:]
        if final:
            done += self._flush(waiting, cache, step)
            waiting = waiting[:, :0]
        cache.features = waiting
        empty = features.new_zeros(features.shape[0], 0, self.dim)
        return (torch.cat(done, 1) if done else empty), cache

    def _blocks(self) -> list[ConformerBlock]:
        return cast(list[ConformerBlock], list(self.blocks))

    def _flush(self, waiting: Tensor, cache: EncoderCache, step: int) -> list[Tensor]:
        done = []
        while waiting.shape[1]:
            piece = F.pad(waiting[:, : step - STRIDE + CONTEXT], (0, 0, 0, CONTEXT - 1))
            piece = piece[:, : step - STRIDE + CONTEXT]
            done.append(self._chunk(piece, cache))
            waiting = waiting[:, step:]
        return done

    def _chunk(self, features: Tensor, cache: EncoderCache) -> Tensor:
        """One chunk of normalized features (B, t, F) through subsampling and blocks; advances the cache."""
        x = self.subsampling(features)
        keep = cache.chunk.left * cache.chunk.frames if cache.chunk.left >= 0 else None
        view = view_whole(cache.keys[0].shape[1] + x.shape[1], x.shape[1], self.dim, x)
        for index, block in enumerate(self._blocks()):
            x, keys, cache.frames[index] = block.stream(x, view, cache.keys[index], cache.frames[index])
            cache.keys[index] = keys if keep is None else keys[:, max(0, keys.shape[1] - keep) :]
        return x
