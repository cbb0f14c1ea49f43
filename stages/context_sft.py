"""Context SFT: everything goes on training with hints in the prompt, right ones and wrong ones."""

from __future__ import annotations

from stages.base import TranscriptStage


class ContextSFT(TranscriptStage):
    """Everything moves, at a smaller rate than in SFT, and most utterances have hints; the phoneme CTC loss stays on.

    The keywords are those of the training transcripts, or of `stage.context.keywords`.
    """
