"""Encoder pre-training: phoneme CTC over dynamic chunks."""

from __future__ import annotations

from torch import Tensor

from datamodules.batch import SpeechBatch
from kit.model.losses import ctc_loss, frame_loss
from stages.base import Stage


class Pretrain(Stage):
    """Phoneme CTC on the encoder's output and, with a smaller weight, on its middle block through the same head.

    Where the corpus has alignments, `stage.loss.kick_start` is the share of the steps over which a frame-wise
    cross-entropy on them fades into CTC: (1 - w) CTC + w CE, w from 1 to 0. CTC alone stays for long where every frame
    says blank; with aligned labels a small model leaves that plateau at once.
    """

    def loss(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """CTC, intermediate CTC and the kick-start."""
        options = self.config.stage.loss
        frames, lengths, middle = self.heard(batch, middle=options.middle > 0)
        heads = (
            {"ctc": (1.0, frames)}
            if middle is None
            else {"ctc": (1 - options.middle, frames), "middle": (options.middle, middle)}
        )
        labels = batch.frame_labels
        kick = max(0.0, 1 - self.progress() / options.kick_start) if options.kick_start and labels is not None else 0.0
        values: dict[str, Tensor] = {}
        total = frames.new_zeros(())
        for name, (weight, output) in heads.items():
            logits = self.recognizer.phoneme_head(output)
            values[name] = ctc_loss(logits, lengths, batch.phonemes, batch.phoneme_lengths)
            part = values[name]
            if kick and labels is not None:
                values[f"{name}_frames"] = frame_loss(logits, labels)
                part = (1 - kick) * part + kick * values[f"{name}_frames"]
            total = total + weight * part
        return {"loss": total, **values}
