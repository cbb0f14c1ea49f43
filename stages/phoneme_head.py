"""The phoneme head alone, by CTC, on an encoder that does not move any more."""

from __future__ import annotations

from torch import Tensor

from datamodules.batch import SpeechBatch
from kit.model.losses import ctc_loss
from stages.base import Stage


class PhonemeHeadStage(Stage):
    """Only the head moves; all other parts are exported with it, so that a whole recognizer comes out."""

    def loss(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """Phoneme CTC."""
        frames, lengths, _ = self.heard(batch)
        logits = self.recognizer.phoneme_head(frames)
        backend = self.config.stage.loss.backend
        return {"loss": ctc_loss(logits, lengths, batch.phonemes, batch.phoneme_lengths, backend)}
