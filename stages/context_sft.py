"""Context SFT: everything goes on training with hints in the prompt, right ones and wrong ones."""

from __future__ import annotations

from omegaconf import DictConfig

from datamodules.batch import SpeechBatch
from kit.model.recognizer import Recognizer
from stages.base import TranscriptStage
from stages.hints import HintDraw


class ContextSFT(TranscriptStage):
    """Everything moves, at a smaller rate than in SFT; the phoneme CTC loss stays on.

    The keywords are those of the training transcripts, or of `stage.context.keywords`.
    """

    def __init__(self, recognizer: Recognizer, config: DictConfig) -> None:
        super().__init__(recognizer, config)
        self.draw: HintDraw | None = None

    def on_fit_start(self) -> None:
        """Lightning has the data module ready."""
        self.draw = HintDraw.of(self.config.stage.context, self.trainer.datamodule)  # type: ignore[attr-defined]

    def hints(self, batch: SpeechBatch) -> list[list[str]] | None:
        """Drawn anew for every utterance of the batch."""
        assert self.draw is not None, "on_fit_start comes first"
        return [self.draw(text) for text in batch.texts]
