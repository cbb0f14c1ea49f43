"""Iterative asynchronous SFT: adaptor and LLM learn on an encoder that no gradient of theirs reaches."""

from __future__ import annotations

from stages.base import TranscriptStage


class IterativeSFT(TranscriptStage):
    """Adaptor and LLM move; the encoder is frozen, and swapped for newer ones of the pre-training (stages/swap.py)."""
