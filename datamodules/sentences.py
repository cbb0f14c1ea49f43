"""Sentences without speech, for training a language model."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Dataset

from datamodules.batch import TextBatch
from kit.distributed import place
from kit.text.phonemes import PhonemeInventory, phonemize


class TextSampler:
    """Random sentences for ever; which ones depends on the seed and the position alone, and, of several processes that
    train together, on which one asks.
    """

    def __init__(self, size: int, batch: int, seed: int, start: int) -> None:
        self.size, self.batch, self.seed, self.start = size, batch, seed, start
        self.rank, self.processes = place()

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        step = self.start
        while True:
            step += 1
            drawn = (step - 1) * self.processes + self.rank + 1
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + drawn)
            yield step, torch.randint(self.size, (self.batch,), generator=generator).tolist()


class TextDataset(Dataset):
    """Sentences with their phonemes, each pronounced once."""

    def __init__(self, texts: list[str]) -> None:
        self.texts, self.inventory = texts, PhonemeInventory.default()
        self._phonemes: dict[int, list[int]] = {}

    def __getitem__(self, item: tuple[int, list[int]]) -> TextBatch:
        step, rows = item
        return TextBatch([self.texts[row] for row in rows], [self.phonemes(row) for row in rows], (0, step))

    def phonemes(self, row: int) -> list[int]:
        """Phoneme ids of one sentence."""
        if row not in self._phonemes:
            self._phonemes[row] = self.inventory.encode(phonemize(self.texts[row]))
        return self._phonemes[row]
