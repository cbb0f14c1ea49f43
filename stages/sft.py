"""Late joint SFT: everything trains end to end, at a small rate."""

from __future__ import annotations

from stages.base import TranscriptStage


class SFT(TranscriptStage):
    """Everything moves; the phoneme CTC loss stays on, so that the head keeps true to the moving encoder."""
