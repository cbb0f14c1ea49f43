"""What the phoneme head hears in a part of the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from kit.model.encoder import Chunk
from kit.model.recognizer import Recognizer
from kit.progress import track

if TYPE_CHECKING:
    from datamodules.base import SpeechData

PARTS = ("encoder", "phoneme_head")  # of a recognizer that are needed


@dataclass(frozen=True)
class Listened:
    """An utterance.

    Attributes:
        log_probs: (T, V) of the phoneme head, on the CPU.
        phonemes: of the reference.
        text: normalized.
    """

    cut: Any
    log_probs: Tensor
    phonemes: list[int]
    text: str


@torch.inference_mode()
def listen(recognizer: Recognizer, data: SpeechData, split: str, decoding: DictConfig) -> Iterator[Listened]:
    """All utterances of a part, encoded in the chunks of `decoding`."""
    for batch in track(list(data.part_dataloader(split)), f"listening to {split}"):
        batch = batch.to(recognizer.device)
        chunk = Chunk(decoding.chunk, decoding.left)
        frames, lengths = recognizer.encode(batch.features, batch.lengths, chunk)
        log_probs = recognizer.phoneme_head(frames).float().log_softmax(-1).cpu()
        for row, (cut, text) in enumerate(zip(batch.cuts, batch.texts, strict=True)):
            said = batch.phonemes[row, : batch.phoneme_lengths[row]].tolist()
            yield Listened(cut, log_probs[row, : lengths[row]], said, text)
