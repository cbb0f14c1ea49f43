"""The data module that all corpora share: Lhotse manifests in, bucketed batches of cached features out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset import DynamicBucketingSampler, DynamicCutSampler
from omegaconf import DictConfig
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from datamodules.batch import SpeechBatch, TextBatch
from datamodules.features import FeatureStore, build, digest
from kit.errors import KitError
from kit.model.losses import IGNORE
from kit.model.subsampling import output_length
from kit.text.normalize import language_of, normalize
from kit.text.phonemes import PhonemeInventory, phonemize

# An encoder frame sees 7 feature frames of 25 ms every 10 ms: its middle lies here.
FRAME_SECONDS, FRAME_MIDDLE = 0.04, 0.0425


class SpeechDataset(Dataset):
    """Turns a CutSet into a SpeechBatch; what depends on the cut alone is computed once."""

    def __init__(self, store: FeatureStore, inventory: PhonemeInventory) -> None:
        self.store, self.inventory = store, inventory
        self._labels: dict[str, tuple[str, torch.Tensor, torch.Tensor | None]] = {}

    def __getitem__(self, item: tuple[tuple[int, int], CutSet]) -> SpeechBatch:
        position, cuts = item
        rows = list(cuts)
        features = [self.store[cut.id] for cut in rows]
        labels = [self.labels(cut) for cut in rows]
        phonemes = [ids for _, ids, _ in labels]
        aligned = [frames for _, _, frames in labels if frames is not None]
        return SpeechBatch(
            features=pad_sequence(features, batch_first=True),
            lengths=torch.tensor([len(row) for row in features]),
            texts=[text for text, _, _ in labels],
            phonemes=pad_sequence(phonemes, batch_first=True),
            phoneme_lengths=torch.tensor([len(ids) for ids in phonemes]),
            languages=[cut.supervisions[0].language for cut in rows],
            frame_labels=pad_sequence(aligned, batch_first=True, padding_value=IGNORE)
            if len(aligned) == len(rows)
            else None,
            cuts=rows,
            position=position,
        )

    def labels(self, cut: Cut) -> tuple[str, torch.Tensor, torch.Tensor | None]:
        """Normalized text, phoneme ids (U,) and, where the corpus is aligned, the label of each encoder frame (T',)."""
        if cut.id not in self._labels:
            supervision = cut.supervisions[0]
            text = normalize(supervision.text)
            aligned = (supervision.alignment or {}).get("phoneme")
            symbols = [item.symbol for item in aligned] if aligned else phonemize(text)
            frames = self._frame_labels(aligned, self.store.length(cut.id)) if aligned else None
            self._labels[cut.id] = text, torch.tensor(self.inventory.encode(symbols)), frames
        return self._labels[cut.id]

    def _frame_labels(self, aligned: list[Any], length: int) -> torch.Tensor:
        middles = torch.arange(output_length(length)) * FRAME_SECONDS + FRAME_MIDDLE
        starts = torch.tensor([item.start for item in aligned])
        ends = torch.tensor([item.end for item in aligned])
        ids = torch.tensor(self.inventory.encode([item.symbol for item in aligned]))
        index = torch.searchsorted(starts, middles, right=True) - 1
        inside = (index >= 0) & (middles < ends[index.clamp_min(0)])
        return torch.where(inside, ids[index.clamp_min(0)], 0)


class Endless:
    """Goes through a Lhotse sampler epoch after epoch, from a given position, telling where it is.

    A checkpoint keeps the position of the last batch *trained on*, which a loader's read-ahead cannot blur.
    """

    def __init__(self, sampler: DynamicBucketingSampler, start: tuple[int, int]) -> None:
        self.sampler, self.start = sampler, start

    def __iter__(self) -> Iterator[tuple[tuple[int, int], CutSet]]:
        epoch, skip = self.start
        while True:
            self.sampler.set_epoch(epoch)
            count = 0
            for count, cuts in enumerate(self.sampler, 1):
                if count > skip:
                    yield (epoch, count), cuts
            if not count:
                return
            epoch, skip = epoch + 1, 0


class TextSampler:
    """Random sentences for ever; which ones depends on the seed and the position alone."""

    def __init__(self, size: int, batch: int, seed: int, start: int) -> None:
        self.size, self.batch, self.seed, self.start = size, batch, seed, start

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        step = self.start
        while True:
            step += 1
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
            yield step, torch.randint(self.size, (self.batch,), generator=generator).tolist()


class TextDataset(Dataset):
    """Sentences with their phonemes, each pronounced once."""

    def __init__(self, texts: list[str], inventory: PhonemeInventory) -> None:
        self.texts, self.inventory = texts, inventory
        self._phonemes: dict[int, list[int]] = {}

    def __getitem__(self, item: tuple[int, list[int]]) -> TextBatch:
        step, rows = item
        return TextBatch([self.texts[row] for row in rows], [self.phonemes(row) for row in rows], (0, step))

    def phonemes(self, row: int) -> list[int]:
        """Phoneme ids of one sentence."""
        if row not in self._phonemes:
            self._phonemes[row] = self.inventory.encode(phonemize(self.texts[row]))
        return self._phonemes[row]


class SpeechData(L.LightningDataModule):
    """Base of all corpora. A subclass says where its CutSets are (`cuts`) and makes them first (`prepare_data`).

    Args:
        config: the whole configuration; reads `data`, `cache`, `seed`, `model.features` and, for training,
            `stage.batch_seconds` or `stage.batch_texts`.
    """

    def __init__(self, config: DictConfig) -> None:
        super().__init__()
        self.config = config
        self.inventory = PhonemeInventory.default()
        self.position = (0, 0)
        self._stores: dict[str, FeatureStore] = {}
        self._cuts: dict[str, CutSet] = {}
        self._datasets: dict[str, SpeechDataset] = {}
        self._texts: TextDataset | None = None

    def load_cuts(self, split: str) -> CutSet:
        """The CutSet of "train", "dev" or a test part."""
        raise NotImplementedError

    def test_parts(self) -> list[str]:
        """Names of the parts that a report covers."""
        raise NotImplementedError

    def texts(self) -> list[str]:
        """Normalized sentences for training a language model: here the training transcripts."""
        return [self.dataset("train").labels(cut)[0] for cut in self.cuts("train")]

    def begin(self, config: DictConfig) -> None:
        """Start another stage on the same data: its batch sizes, its seed, from the first batch."""
        self.config, self.position = config, (0, 0)

    def cuts(self, split: str) -> CutSet:
        """The cuts of a split, read once."""
        if split not in self._cuts:
            cuts = self.load_cuts(split).to_eager()
            if not len(cuts) and split != "dev":
                raise KitError(
                    f"the {split} part of data={self.config.data.name} is empty; give it at least one utterance"
                )
            self._cuts[split] = cuts
        return self._cuts[split]

    def store(self, split: str) -> FeatureStore:
        """The cached features of a split, computed at first use."""
        if split not in self._stores:
            bins = self.config.model.features.bins
            folder = Path(self.config.cache) / "features" / f"{split}-{digest(self.cuts(split), bins)}"
            self._stores[split] = build(self.cuts(split), folder, bins, f"{self.config.data.name}/{split}")
        return self._stores[split]

    def dataset(self, split: str) -> SpeechDataset:
        """The dataset of a split."""
        if split not in self._datasets:
            self._datasets[split] = SpeechDataset(self.store(split), self.inventory)
        return self._datasets[split]

    def normalization(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (F,) of the training features."""
        return self.store("train").statistics()

    def train_dataloader(self) -> DataLoader:
        """Batches without end: speech, or text where the stage asks for `stage.data: text`."""
        if self.config.stage.get("data", "speech") == "text":
            return self._text_loader()
        cuts = self.cuts("train")
        with _eager_cuts():
            sampler = DynamicBucketingSampler(
                cuts,
                max_duration=self.config.stage.batch_seconds,
                num_buckets=min(self.config.data.buckets, len(cuts)),
                shuffle=True,
                seed=self.config.seed,
            )
        return self._loader(self.dataset("train"), Endless(sampler, self.position))

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The dev part, longest first; nothing where a corpus has none."""
        return self.part_dataloader("dev") if len(self.cuts("dev")) else []

    def part_dataloader(self, split: str) -> DataLoader:
        """Any part, in order of duration, each utterance once."""
        ordered = self.cuts(split).sort_by_duration()
        with _eager_cuts():
            sampler = DynamicCutSampler(ordered, max_duration=self.config.data.evaluation_seconds, shuffle=False)
        return self._loader(self.dataset(split), [((0, 0), cuts) for cuts in sampler])

    def state_dict(self) -> dict[str, Any]:
        """Where training is: epoch, and batches of it already trained on."""
        return {"position": list(self.position)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.position = tuple(state["position"])

    def _text_loader(self) -> DataLoader:
        if self._texts is None:
            self._texts = TextDataset(self.texts(), self.inventory)
        size = len(self._texts.texts)
        sampler = TextSampler(size, self.config.stage.batch_texts, self.config.seed, self.position[1])
        return self._loader(self._texts, sampler)

    def _loader(self, dataset: Dataset, sampler: Any) -> DataLoader:
        return DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=self.config.data.workers)


@contextmanager
def _eager_cuts() -> Iterator[None]:
    """Lhotse warns of cuts held in memory; it is audio that is large, not they."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*eagerly read CutSet")
        yield


def detect_language(text: str) -> str:
    """ "zh", "en" or "mixed", for manifests that do not say."""
    return language_of(normalize(text))
