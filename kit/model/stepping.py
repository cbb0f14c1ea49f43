"""One streaming step of encoder and phoneme head as a function of its caches, made of plain operations alone.

What `ConformerEncoder.step` does in place, on rings and by kernels of ours, is done here on caches that go in and come
out, so that other runtimes can do it (`kit.model.onnx_file`). The numbers are the same, as tests and every export see.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kit.model.encoder import Chunk, ConformerBlock, chunk_features
from kit.model.recognizer import Recognizer
from kit.model.subsampling import output_length


class Caches(NamedTuple):
    """What B streams carry from step to step; all zeros at a stream's beginning.

    Attributes:
        cached: (B,) int64 how many of the S frames are there.
        keys, values: (L, B, S, H, D/H) of the last S frames, the newest at the end.
        past: (L, B, reach, 2 D) of the convolutions.
    """

    cached: Tensor
    keys: Tensor
    values: Tensor
    past: Tensor


class Step(NamedTuple):
    """What comes out of a step.

    Attributes:
        log_probs: (B, C, V) of the phonemes, blank first.
        frames: (B, C, D) of the encoder.
        fresh: (B,) int64 how many of the C frames are there.
        caches: for the next step.
    """

    log_probs: Tensor
    frames: Tensor
    fresh: Tensor
    caches: Caches


class StreamStep(nn.Module):
    """A step of B streams that hear one chunk each.

    Args:
        recognizer: with encoder and phoneme head.
        chunk: its frames C and the visible left chunks, both finite; S is their product.
    """

    def __init__(self, recognizer: Recognizer, chunk: Chunk) -> None:
        super().__init__()
        if chunk.frames < 1 or chunk.left < 0:
            raise ValueError(f"a step needs finite chunks and left chunks, not {chunk}")
        self.encoder, self.head = recognizer.encoder, recognizer.phoneme_head
        self.chunk, self.span = chunk.frames, chunk.frames * chunk.left
        for index, block in enumerate(self.blocks):
            memory = block.attention.memory(1, self.chunk, self.span)
            for name in ("weight", "bias", "table"):
                self.register_buffer(f"{name}{index}", getattr(memory, name).detach().clone())

    @property
    def blocks(self) -> list[ConformerBlock]:
        """The encoder's."""
        return cast(list[ConformerBlock], list(self.encoder.blocks))

    @property
    def features(self) -> int:
        """Feature frames that a step hears: those of a chunk, and what its last frame sees beyond them."""
        return chunk_features(self.chunk)

    def start(self, streams: int) -> Caches:
        """The caches of so many streams that have heard nothing."""
        like = self.encoder.subsampling.out.weight
        dim, heads, layers = self.encoder.dim, self.encoder.heads, len(self.blocks)
        keys, values = (like.new_zeros(layers, streams, self.span, heads, dim // heads) for _ in "kv")
        past = torch.stack([block.convolution.empty_cache(streams, like) for block in self.blocks])
        return Caches(torch.zeros(streams, dtype=torch.long, device=like.device), keys, values, past)

    def forward(
        self, features: Tensor, length: Tensor, cached: Tensor, keys: Tensor, values: Tensor, past: Tensor
    ) -> tuple[Tensor, ...]:
        """The fields of `Step`, those of its caches last.

        Args:
            features: (B, `features`, F) log-mel, not normalized; anything behind a row's length.
            length: (B,) int64 how many of them are there; all but at a stream's end.
            cached, keys, values, past: as in `Caches`.
        """
        x = self.encoder.normalize(features)
        x = torch.where(torch.arange(x.shape[1], device=x.device)[None, :, None] < length[:, None, None], x, 0.0)
        x = self.encoder.subsampling(x)  # (B, C, D)
        fresh = output_length(length).clamp(max=self.chunk)
        live = (torch.arange(self.chunk, device=x.device) < fresh[:, None])[..., None]
        seen = torch.arange(self.span, device=x.device) >= self.span - cached[:, None]
        hidden = ~torch.cat([seen, live[..., 0]], 1)[:, None, None]  # (B, 1, 1, S + C)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for index, block in enumerate(self.blocks):
            x = x + 0.5 * block.feed_forward1(x)
            x, newer_keys, newer_values = self._attend(index, x, keys[index], values[index], hidden)
            x, newer_past = block.convolution.stream(x, past[index], live)
            x = block.norm(x + 0.5 * block.feed_forward2(x))
            found.append((newer_keys, newer_values, newer_past))
        newer = (torch.stack(parts) for parts in zip(*found, strict=True))
        return self.head(x).log_softmax(-1), x, fresh, (cached + fresh).clamp(max=self.span), *newer

    def step(self, features: Tensor, length: Tensor, caches: Caches) -> Step:
        """`forward` with names."""
        log_probs, frames, fresh, *newer = self(features, length, *caches)
        return Step(log_probs, frames, fresh, Caches(*newer))

    def _attend(
        self, index: int, x: Tensor, keys: Tensor, values: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, D) over the cached frames and its own; its keys and values go in behind those that move out."""
        attention = self.blocks[index].attention
        weight, bias, table = (getattr(self, f"{name}{index}") for name in ("weight", "bias", "table"))
        heads = self.encoder.heads
        plain = F.layer_norm(x, x.shape[-1:], eps=attention.norm_q.eps)
        q, k, v = F.linear(plain, weight, bias).unflatten(-1, (3, heads, -1)).unbind(2)
        keys, values = torch.cat([keys, k], 1), torch.cat([values, v], 1)  # (B, S + C, H, D/H)
        content = torch.einsum("bihd,bjhd->bhij", q + attention.bias_u, keys)
        position = self._by_place(torch.einsum("bihd,rhd->bhir", q + attention.bias_v, table))
        score = (content + position) / math.sqrt(q.shape[-1])
        weights = score.masked_fill(hidden, torch.finfo(score.dtype).min).softmax(-1)
        mixed = torch.einsum("bhij,bjhd->bihd", weights, values).flatten(2)
        return x + attention.out(mixed), keys[:, self.chunk :], values[:, self.chunk :]

    def _by_place(self, scores: Tensor) -> Tensor:
        """(B, H, C, R) by distance, the farthest first, to (B, H, C, S + C) by place.

        Query i sees place j at the row C - 1 - i + j. Read as one line of numbers, that is a step of one row less a
        column, so that no index is needed.
        """
        rows = scores.shape[-1]
        line = F.pad(scores, (0, 1)).flatten(2)[..., self.chunk - 1 :]  # the rows are R + 1 long
        return line[..., : self.chunk * rows].unflatten(-1, (self.chunk, rows))[..., : self.span + self.chunk]
