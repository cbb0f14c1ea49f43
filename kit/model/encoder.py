"""The streaming Conformer encoder: one set of weights, the same numbers offline and chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.model.attention import Memory, RelativeAttention, View, view_chunks
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


def chunk_features(frames: int) -> int:
    """Feature frames that a chunk of so many encoder frames is made from; the next begins 4 frames a frame later."""
    return (frames - 1) * STRIDE + CONTEXT


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
        x = self.attention(x, view)
        x = self.convolution(x, valid, view.chunk)
        return self.norm(x + 0.5 * self.feed_forward2(x))

    def stream(self, x: Tensor, memory: Memory, past: Tensor, live: Tensor, counts: Counts) -> Tensor:
        """One chunk (B, T, D) of some streams; brings the attention's memory and the convolution's past up to date."""
        x = x + 0.5 * self.feed_forward1(x)
        x = self.attention.stream(x, memory, *counts)
        x, newer = self.convolution.stream(x, past[counts.slots], live)
        past[counts.slots] = newer
        return self.norm(x + 0.5 * self.feed_forward2(x))


class Counts(NamedTuple):
    """Frames that each stream had before (N,), frames in each row of the chunk (B,), the rows' streams (B,)."""

    start: Tensor
    fresh: Tensor
    slots: Tensor


@dataclass
class EncoderCache:
    """What streaming remembers of N streams between two calls; nothing in it grows with the audio if `left` is finite.

    Attributes:
        chunk: chunk size and visible left chunks.
        features: (N, r, F) normalized feature frames not yet wholly used; `stream` alone uses it.
        start: (N,) int32 encoder frames that each stream has had.
        memory: per layer the attention's rings.
        past: per layer (N, reach, 2 D), the convolution's past.
        longest: no stream has had more frames than this.
    """

    chunk: Chunk
    features: Tensor
    start: Tensor
    memory: list[Memory]
    past: list[Tensor]
    longest: int = 0

    def reset(self, slots: Sequence[int]) -> None:
        """Forget what these streams have heard."""
        rows = torch.tensor(list(slots), device=self.start.device)
        self.start[rows] = 0
        for past in self.past:
            past[rows] = 0.0  # of the rings nothing before `start` is seen


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
        """(B, T, F) log-mel features to zero mean and unit variance over the training set, in the weights' type."""
        return ((features - self.mean) * self.scale).to(self.subsampling.out.weight.dtype)

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

    @torch.no_grad()
    def start(self, chunk: Chunk, streams: int = 1) -> EncoderCache:
        """A cache for so many streams; `chunk.frames` must be positive."""
        if chunk.frames <= 0:
            raise ValueError(f"streaming needs a chunk of at least one frame, not {chunk.frames}")
        span = chunk.frames * (chunk.left if chunk.left >= 0 else 4)
        like = self.subsampling.out.weight
        return EncoderCache(
            chunk,
            like.new_zeros(streams, 0, self.bins),
            torch.zeros(streams, dtype=torch.int32, device=like.device),
            [block.attention.memory(streams, chunk.frames, span) for block in self._blocks()],
            [block.convolution.empty_cache(streams, like) for block in self._blocks()],
        )

    @torch.no_grad()
    def step(
        self, features: Tensor, cache: EncoderCache, fresh: Tensor | None = None, slots: Tensor | None = None
    ) -> Tensor:
        """One chunk of some of the cache's streams, each where it is by itself.

        All that changes from step to step is on the device, so the step can be captured in a CUDA graph, unless
        `left` is -1: then the rings grow.

        Args:
            features: (B, t, F) normalized; those of n <= C frames in the cache's chunks of C, padded with zeros:
                t = 4 (n - 1) + 7.
            fresh: (B,) int32, how many of the n frames are there: all but at a stream's end; None: all.
            slots: (B,) int32, the stream of each row, no two alike; None: the first B in order.

        Returns:
            (B, n, D); anything behind a row's fresh frames.
        """
        x = self.subsampling(features)
        batch, frames = x.shape[:2]
        if fresh is None:
            fresh = torch.full((batch,), frames, dtype=torch.int32, device=x.device)
        if slots is None:
            slots = torch.arange(batch, dtype=torch.int32, device=x.device)
        if cache.chunk.left < 0:
            self._grow(cache, frames)
        live = (torch.arange(frames, device=x.device) < fresh[:, None])[..., None]
        counts = Counts(cache.start, fresh, slots)
        for block, memory, past in zip(self._blocks(), cache.memory, cache.past, strict=True):
            x = block.stream(x, memory, past, live, counts)
        cache.start.index_add_(0, slots, fresh)
        return x

    @torch.no_grad()
    def stream(self, features: Tensor, cache: EncoderCache, final: bool = False) -> tuple[Tensor, EncoderCache]:
        """Encode what has come of streams that go in step, in whole chunks; with `final` the shorter last chunk too.

        Equals `forward` under the same chunk, whatever the sizes of the pieces.

        Args:
            features: (N, t, F) log-mel frames that follow the earlier ones, t >= 0.
            cache: from `start` or an earlier call; it is used up.
            final: no more will come: flush the tail with the padding of the whole pass.

        Returns:
            (N, n, D) new frames, n a multiple of the chunk unless final, and the cache to go on with.
        """
        waiting = torch.cat([cache.features, self.normalize(features)], 1)
        size = chunk_features(cache.chunk.frames)
        done = []
        while waiting.shape[1] >= size or (final and waiting.shape[1]):
            piece = F.pad(waiting[:, :size], (0, 0, 0, CONTEXT - 1))[:, :size] if final else waiting[:, :size]
            done.append(self.step(piece, cache))
            waiting = waiting[:, cache.chunk.frames * STRIDE :]
        cache.features = waiting
        empty = features.new_zeros(features.shape[0], 0, self.dim)
        return (torch.cat(done, 1) if done else empty), cache

    @torch.no_grad()
    def enlarge(self, cache: EncoderCache, streams: int) -> None:
        """Make room for more streams; those that are there go on."""
        more = streams - len(cache.start)
        cache.start = F.pad(cache.start, (0, more))
        cache.past = [F.pad(past, (0, 0, 0, 0, 0, more)) for past in cache.past]
        for memory in cache.memory:
            memory.keys, memory.values = (F.pad(x, (0, 0, 0, 0, 0, 0, 0, more)) for x in (memory.keys, memory.values))

    def _grow(self, cache: EncoderCache, frames: int) -> None:
        """Make room for a past of any length: rings twice as long once they are full."""
        cache.longest += frames
        span = cache.memory[0].span
        if cache.longest <= span + cache.chunk.frames:
            return
        for index, (block, old) in enumerate(zip(self._blocks(), cache.memory, strict=True)):
            new = block.attention.memory(len(cache.start), cache.chunk.frames, 2 * span)
            new.keys[:, : old.keys.shape[1]] = old.keys
            new.values[:, : old.values.shape[1]] = old.values
            cache.memory[index] = new

    def _blocks(self) -> list[ConformerBlock]:
        return cast(list[ConformerBlock], list(self.blocks))
