"""Attention with relative positions under a chunk mask."""

from kernels.chunk_attention.reference import chunk_attention, chunk_mask

__all__ = ["chunk_attention", "chunk_mask"]
