"""Encoder pre-training: CTC over dynamic chunks, on one view of each utterance or on two that must agree."""

from __future__ import annotations

from torch import Tensor

from datamodules.batch import SpeechBatch
from kit.model.losses import consistency_loss, ctc_loss, frame_loss
from stages.base import Stage


class Pretrain(Stage):
    """CTC on the encoder's output and, with a smaller weight, on its middle block through the same head.

    With `stage.loss.consistency` above 0 it is CR-CTC (Yao et al. 2024, arXiv 2410.05101): each utterance goes in under
    two different masks, both are scored, and the two outputs are drawn to each other.

    Where the corpus has alignments, `stage.loss.kick_start` is the share of the steps over which a frame-wise
    cross-entropy on them fades into CTC: (1 - w) CTC + w CE, w from 1 to 0. CTC alone stays for long where every frame
    says blank; with aligned labels a small model leaves that plateau at once.
    """

    def loss(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """CTC, intermediate CTC, the kick-start, and how far the two views are apart."""
        options = self.config.stage.loss
        views = 2 if options.consistency else 1
        frames, lengths, middle = self.heard(batch, middle=options.middle > 0, views=views)
        logits = self.recognizer.phoneme_head(frames)
        values = self._scored("ctc", logits, lengths, batch, views)
        total = values.pop("total")
        if middle is not None:
            inner = self._scored("middle", self.recognizer.phoneme_head(middle), lengths, batch, views)
            total = (1 - options.middle) * total + options.middle * inner.pop("total")
            values |= inner
        if options.consistency:
            values["consistency"] = consistency_loss(logits, lengths, batch.phoneme_lengths)
            ramp = min(1.0, self.progress() / options.ramp) if options.ramp else 1.0
            total = total + options.consistency * ramp * values["consistency"]
        return {"loss": total, **values}

    def _scored(self, name: str, logits: Tensor, lengths: Tensor, batch: SpeechBatch, views: int) -> dict[str, Tensor]:
        """CTC of all views under `name`, the kick-start if it is on, and both weighed as "total"."""
        targets, sizes = batch.phonemes.repeat(views, 1), batch.phoneme_lengths.repeat(views)
        ctc = ctc_loss(logits, lengths, targets, sizes, self.config.stage.loss.backend)
        kick = self._kick()
        if not kick or batch.frame_labels is None:
            return {name: ctc, "total": ctc}
        aligned = frame_loss(logits, batch.frame_labels.repeat(views, 1))
        return {name: ctc, f"{name}_frames": aligned, "total": (1 - kick) * ctc + kick * aligned}

    def _kick(self) -> float:
        share = self.config.stage.loss.kick_start
        return max(0.0, 1 - self.progress() / share) if share else 0.0
