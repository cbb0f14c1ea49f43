"""What each stage does to the encoder's frames, measured with every validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from datamodules.base import SpeechData
from datamodules.batch import SpeechBatch
from kit.decoding.alignment import align
from kit.distributed import shares_parameters
from kit.model.export import load_export
from kit.model.losses import IGNORE
from kit.model.recognizer import Recognizer
from kit.model.representation import linear_cka, phoneme_probe, semantic_probe, sentence_vectors, spectral_entropy
from kit.runs import Run
from kit.snapshots import source_of
from kit.text.normalize import units
from stages.watch import frames_of

_COMMON = 3  # utterances that a unit must occur in to count in a sentence vector


FEWEST = 10  # utterances of training, below which nothing can be fitted to them


class Representation(L.Callback):
    """Logs, on fixed utterances of the dev part (see kit/model/representation.py for the definitions):

    dev/drift             linear CKA to the encoder that pre-training ended with: 1 where it was not moved; while an
                          encoder is trained every `drift_every` steps, too
    dev/spectral_entropy  how evenly frames use their dimensions
    dev/phoneme_probe     share of frames whose phoneme a linear reader finds
    dev/semantic_probe    what frames tell of the sentence beside its phonemes

    Args:
        utterances: of the dev part, half of them to fit the phoneme probe.
        sentences: of the training part, to fit the semantic probe; 0 for none.
        drift_every: steps; None for no drift between validations.
    """

    def __init__(self, utterances: int, sentences: int, drift_every: int | None = None) -> None:
        self.utterances, self.sentences, self.drift_every = utterances, sentences, drift_every
        self._probes: dict[str, list[SpeechBatch]] = {}
        self._reference: Tensor | None = None

    def on_validation_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
        """Measure, where there is an encoder."""
        data, recognizer = trainer.datamodule, module.recognizer  # type: ignore[attr-defined]
        if "encoder" not in recognizer.parts or not isinstance(data, SpeechData) or not trainer.is_global_zero:
            return
        for name, value in self._measure(trainer, data, recognizer).items():
            module.log(f"dev/{name}", value, batch_size=1, rank_zero_only=True)

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        """Measure the drift of an encoder that moves, now and then."""
        step, whole = trainer.global_step, (index + 1) % trainer.accumulate_grad_batches == 0
        if not (self.drift_every and whole and trainer.is_global_zero) or step % self.drift_every:
            return
        if step == trainer.max_steps or shares_parameters(trainer):
            return  # a validation comes, or one process has but a part of the encoder
        data, encoder = trainer.datamodule, getattr(module.recognizer, "encoder", None)  # type: ignore[attr-defined]
        if encoder is None or not isinstance(data, SpeechData):
            return
        if not any(parameter.requires_grad for parameter in encoder.parameters()):
            return
        batches = self._probe(data, "dev", self.utterances)
        reference = self._pretrained(trainer, batches)
        if reference is not None:
            drift = linear_cka(torch.cat(frames_of(encoder, batches)), reference)
            for logger in trainer.loggers:
                logger.log_metrics({"dev/drift": drift}, step)

    def _measure(self, trainer: L.Trainer, data: SpeechData, recognizer: Recognizer) -> dict[str, float]:
        batches = self._probe(data, "dev", self.utterances)
        frames = frames_of(recognizer.encoder, batches)
        together = torch.cat(frames)
        values = {"spectral_entropy": spectral_entropy(together)}
        reference = self._pretrained(trainer, batches)
        if reference is not None:
            values["drift"] = linear_cka(together, reference)
        labels = phoneme_labels(recognizer, batches, frames)
        values["phoneme_probe"] = _phoneme_probe(frames, labels)
        if self.sentences and len(data.cuts("train")) >= FEWEST:
            values["semantic_probe"] = self._semantic(data, recognizer, batches, frames)
        return values

    def _probe(self, data: SpeechData, split: str, utterances: int) -> list[SpeechBatch]:
        if split not in self._probes:
            self._probes[split] = data.probe(utterances, split)
        return self._probes[split]

    def _pretrained(self, trainer: L.Trainer, batches: Sequence[SpeechBatch]) -> Tensor | None:
        """The same frames by the encoder that pre-training ended with; None where there is none, or not yet."""
        if self._reference is None:
            starts = Run(Path(trainer.default_root_dir)).notes().get("starts", {})
            found = next(filter(None, (source_of(Path(path)) for path in starts.values())), None)
            if found is None or not found[0].finished:
                return None
            encoder = load_export(found[0].run.export, ("encoder",)).encoder
            self._reference = torch.cat(frames_of(encoder, batches))
        return self._reference

    def _semantic(
        self, data: SpeechData, recognizer: Recognizer, batches: Sequence[SpeechBatch], frames: Sequence[Tensor]
    ) -> float:
        fitted = self._probe(data, "train", self.sentences)
        rows = [*frames_of(recognizer.encoder, fitted), *frames]
        everything = [*fitted, *batches]
        texts = [text for batch in everything for text in batch.texts]
        phonemes = [row[:size] for batch in everything for row, size in _phonemes(batch)]
        counts = torch.stack([torch.bincount(row, minlength=len(recognizer.inventory)) for row in phonemes])
        held_out = torch.arange(len(rows)) >= sum(len(batch) for batch in fitted)
        pooled = torch.stack([row.mean(0) for row in rows])
        return semantic_probe(pooled, counts, sentence_vectors(bags_of_units(texts)), held_out)


def bags_of_units(texts: Sequence[str]) -> Tensor:
    """(U, W) counts of the units (Han characters and words) that several of the U texts have."""
    bags = [Counter(units(text)) for text in texts]
    documents = Counter(unit for bag in bags for unit in bag)
    columns = {unit: place for place, unit in enumerate(unit for unit in documents if documents[unit] >= _COMMON)}
    counts = torch.zeros(len(texts), max(1, len(columns)))
    for row, bag in enumerate(bags):
        for unit, count in bag.items():
            if unit in columns:
                counts[row, columns[unit]] = count
    return counts


@torch.no_grad()
def phoneme_labels(recognizer: Recognizer, batches: Sequence[SpeechBatch], frames: Sequence[Tensor]) -> list[Tensor]:
    """The phoneme of each frame (T',) of every utterance, 0 where there is none: those of the corpus, or, where it is
    not aligned, by the phoneme head's best path.
    """
    found: list[Tensor] = []
    for batch in batches:
        for row, (ids, size) in enumerate(_phonemes(batch)):
            heard = frames[len(found)]
            if batch.frame_labels is not None:
                labels = batch.frame_labels[row, : len(heard)].clamp_min(0)
                found.append(torch.nn.functional.pad(labels, (0, len(heard) - len(labels))))
            else:
                found.append(_aligned(recognizer, heard, ids[:size].tolist()))
    return found


def _aligned(recognizer: Recognizer, frames: Tensor, ids: list[int]) -> Tensor:
    labels = torch.zeros(len(frames), dtype=torch.long)
    if "phoneme_head" in recognizer.parts:
        scores = recognizer.phoneme_head(frames.to(recognizer.device)).log_softmax(-1).cpu()
        for symbol, (start, end) in zip(ids, align(scores, ids) or (), strict=False):
            labels[start:end] = symbol
    return labels


def _phonemes(batch: SpeechBatch) -> list[tuple[Tensor, int]]:
    return list(zip(batch.phonemes.cpu(), batch.phoneme_lengths.tolist(), strict=True))


def _phoneme_probe(frames: Sequence[Tensor], labels: Sequence[Tensor]) -> float:
    """Fitted on every other utterance, counted on the rest."""
    held_out = torch.cat([torch.full((len(row),), bool(place % 2)) for place, row in enumerate(frames)])
    together, symbols = torch.cat(list(frames)), torch.cat(list(labels))
    said = (symbols != 0) & (symbols != IGNORE)
    if not (said & held_out).any() or not (said & ~held_out).any():
        return 0.0
    return phoneme_probe(together[said], symbols[said], held_out[said])
