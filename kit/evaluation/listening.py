"""What the phoneme head hears in a part of the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from kit.model.encoder import WHOLE, Chunk
from kit.model.recognizer import Recognizer
from kit.progress import track

if TYPE_CHECKING:
    from datamodules.base import SpeechData
    from datamodules.batch import SpeechBatch

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


def listen(recognizer: Recognizer, data: SpeechData, split: str, decoding: DictConfig) -> Iterator[Listened]:
    """All utterances of a part, encoded in the chunks of `decoding`."""
    batches = track(list(data.part_dataloader(split)), f"listening to {split}")
    return hear(recognizer, batches, Chunk(decoding.chunk, decoding.left))


def hear(recognizer: Recognizer, batches: Iterable[SpeechBatch], chunk: Chunk = WHOLE) -> Iterator[Listened]:
    """All utterances of some batches, encoded under a chunk mask."""
    for batch in batches:
        batch = batch.to(recognizer.device)
        with torch.inference_mode():
            frames, lengths = recognizer.encode(batch.features, batch.lengths, chunk)
            log_probs = recognizer.phoneme_head(frames).float().log_softmax(-1).cpu()
        for row, (cut, text) in enumerate(zip(batch.cuts, batch.texts, strict=True)):
            said = batch.phonemes[row, : batch.phoneme_lengths[row]].tolist()
            yield Listened(cut, log_probs[row, : lengths[row]], said, text)
