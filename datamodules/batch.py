"""What data modules hand to stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class SpeechBatch:
    """Utterances of about equal length.

    Attributes:
        features: (B, T, F) log-mel, not normalized, zero behind each row's length.
        lengths: (B,) feature frames.
        texts: normalized transcripts.
        phonemes: (B, U) phoneme ids, zero behind each row's length.
        phoneme_lengths: (B,).
        languages: "zh", "en" or "mixed".
        frame_labels: (B, T') phoneme id (0 = none) of each encoder frame, -100 where unknown; None without alignments.
        cuts: the Lhotse cuts.
        position: (epoch, batches of it taken) after this batch; kept in checkpoints.
    """

    features: Tensor
    lengths: Tensor
    texts: list[str]
    phonemes: Tensor
    phoneme_lengths: Tensor
    languages: list[str]
    frame_labels: Tensor | None = None
    cuts: Sequence[Any] = field(default_factory=list)
    position: tuple[int, int] = (0, 0)

    def to(self, device: torch.device | str) -> SpeechBatch:
        """The same batch with its tensors on `device`."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return dataclasses.replace(self, **moved)

    def __len__(self) -> int:
        return len(self.texts)


@dataclass
class TextBatch:
    """Sentences without speech.

    Attributes:
        texts: normalized sentences.
        phonemes: phoneme ids of each.
        position: as in SpeechBatch.
    """

    texts: list[str]
    phonemes: list[list[int]]
    position: tuple[int, int] = (0, 0)

    def to(self, device: torch.device | str) -> TextBatch:
        """Nothing to move."""
        return self

    def __len__(self) -> int:
        return len(self.texts)
