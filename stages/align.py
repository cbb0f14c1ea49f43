"""Alignment: the adaptor learns to speak to a frozen LLM from a frozen encoder."""

from __future__ import annotations

from stages.base import TranscriptStage


class Align(TranscriptStage):
    """Only the adaptor moves."""
