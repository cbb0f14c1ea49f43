"""The data module that all corpora share: Lhotse manifests in, bucketed batches of cached features out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut, MixedCut
from lhotse.dataset import DynamicBucketingSampler, DynamicCutSampler
from omegaconf import DictConfig
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from datamodules.augmentation import (
    NOISE_FOLDER,
    Augmentation,
    Noise,
    Transform,
    alignment,
    build_transforms,
    noises_for,
    speech_start,
)
from datamodules.batch import SpeechBatch
from datamodules.features import (
    AudioStore,
    Computed,
    FeatureStore,
    Joined,
    build,
    build_audio,
    computed_features,
    computed_samples,
    digest,
    sampled_statistics,
)
from datamodules.labels import respelled
from datamodules.noise import clips_without_speech
from datamodules.rows import EAGER, Chained, durations, subset
from datamodules.sampling import Endless, FavorLong, OwnIds, some
from datamodules.sentences import TextDataset, TextSampler
from datamodules.sources import read_samples
from datamodules.truncation import truncated
from kit.distributed import place
from kit.errors import KitError, UsageError
from kit.model.losses import IGNORE
from kit.model.subsampling import output_length
from kit.text.keywords import mine
from kit.text.normalize import language_of, normalize
from kit.text.phonemes import CharacterInventory, PhonemeInventory

if TYPE_CHECKING:
    from kit.model.recognizer import Recognizer

# An encoder frame sees 7 feature frames of 25 ms every 10 ms: its middle lies here.
FRAME_SECONDS, FRAME_MIDDLE = 0.04, 0.0425

SOME = 2000  # utterances that stand for all where all are too many

JOIN = "+"  # "train+made" is two parts taken as one

Labels = tuple[str, torch.Tensor, torch.Tensor | None]


class SpeechDataset(Dataset):
    """Turns a CutSet into a SpeechBatch; what depends on the cut alone is computed once."""

    def __init__(self, store: Joined[torch.Tensor] | Computed[torch.Tensor], inventory: PhonemeInventory) -> None:
        self.store, self.inventory = store, inventory
        self.augmentation: Augmentation | None = None
        self._labels: dict[str, Labels] = {}
        self._remember = isinstance(store, Joined)  # of corpora that are computed anew there are too many to remember

    def augmented(self, augmentation: Augmentation) -> SpeechDataset:
        """The same utterances as an augmentation changes them; what is known of their texts is shared."""
        other = copy(self)
        other.augmentation = augmentation
        return other

    def __getitem__(self, item: tuple[tuple[int, int], CutSet]) -> SpeechBatch:
        position, cuts = item
        heard = [self._heard(cut, (*position, row)) for row, cut in enumerate(cuts)]
        rows = [cut for cut, _, _ in heard]
        features = [frames for _, frames, _ in heard]
        labels = [labels for _, _, labels in heard]
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

    def _heard(self, cut: Cut, place: tuple[int, ...]) -> tuple[Cut, torch.Tensor, Labels]:
        """A cut as it comes into the batch at `place`: changed if chance wants it, its features (T, F), its labels."""
        changed = self.augmentation(cut, place) if self.augmentation else None
        if changed is None:
            return cut, self.store.of(cut), self.labels(cut)
        moved, features = changed
        text, phonemes, frames = self.labels(cut)
        if frames is not None:
            aligned = respelled(alignment(moved), text, self.inventory)
            frames = self._frame_labels(phonemes, aligned, len(features), speech_start(moved))
        return moved, features, (text, phonemes, frames)

    def labels(self, cut: Cut) -> Labels:
        """Normalized text, phoneme ids (U,) and, where it is known, the label of each encoder frame (T',)."""
        if cut.id in self._labels:
            return self._labels[cut.id]
        text = normalize(cut.supervisions[0].text)
        aligned = respelled(alignment(cut), text, self.inventory)
        spelled = [symbol for _, symbols in self.inventory.spell(text) for symbol in symbols]
        symbols = [item.symbol for item in aligned] or spelled
        phonemes = torch.tensor(self.inventory.encode(symbols), dtype=torch.long)
        known = bool(aligned) or not symbols
        frames = self._frame_labels(phonemes, aligned, self.store.length(cut)) if known else None
        if self._remember:
            self._labels[cut.id] = text, phonemes, frames
        return text, phonemes, frames

    @staticmethod
    def _frame_labels(phonemes: torch.Tensor, aligned: list[Any], length: int, begin: float = 0.0) -> torch.Tensor:
        """The phoneme (T',) under the middle of each encoder frame, where the recording begins at second `begin`."""
        middles = torch.arange(output_length(length)) * FRAME_SECONDS + FRAME_MIDDLE - begin
        if not aligned:
            return torch.zeros(len(middles), dtype=torch.long)
        starts = torch.tensor([item.start for item in aligned])
        ends = torch.tensor([item.end for item in aligned])
        index = torch.searchsorted(starts, middles, right=True) - 1
        inside = (index >= 0) & (middles < ends[index.clamp_min(0)])
        return torch.where(inside, phonemes[index.clamp_min(0)], 0)


class SpeechData(L.LightningDataModule):
    """Base of all corpora. A subclass says where its CutSets are (`cuts`) and makes them first (`prepare_data`).

    Args:
        config: the whole configuration; reads `data`, `cache`, `seed`, `model.features` and, for training,
            `stage.batch_seconds` or `stage.batch_texts`.
    """

    SILENCE = "silence"  # the part of every corpus that has clips without speech
    NO_SPEECH = "no_speech"  # the like of it for training, with other noise
    TRUNCATED = "truncated"  # the part that has the first test part's utterances, broken off
    MADE: str | None = None  # the part with made-up names for training, where a corpus has one

    def __init__(self, config: DictConfig) -> None:
        super().__init__()
        self.config = config
        self._inventory: PhonemeInventory | None = None
        self.position = (0, 0)
        self.left_out: dict[str, list[str]] = {}  # part -> ids of utterances that it cannot have, for reports
        self._features: DictConfig | None = None
        self._stores: dict[str, FeatureStore] = {}
        self._cuts: dict[str, CutSet] = {}
        self._datasets: dict[str, SpeechDataset] = {}
        self._texts: TextDataset | None = None
        self._audio: dict[str, AudioStore] = {}
        self._transforms: dict[str, Transform] | None = None

    @property
    def stored(self) -> bool:
        """Whether features and samples are computed once and kept, or from the recordings whenever they are wanted."""
        return bool(self.config.data.get("stored", True))

    @property
    def features(self) -> dict[str, Any]:
        """What the features are made of, as `LogMel` takes it: `model.features`, or what `use_model` said."""
        return {str(key): value for key, value in (self._features or self.config.model.features).items()}

    @property
    def inventory(self) -> PhonemeInventory:
        """What the labels are written in: `model.labels`, or what `use_inventory` said."""
        if self._inventory is None:
            characters = self.config.model.labels == "characters"
            texts = (normalize(cut.supervisions[0].text) for cut in self.cuts("train")) if characters else ()
            self._inventory = CharacterInventory.of(texts) if characters else PhonemeInventory.default()
        return self._inventory

    def use_inventory(self, inventory: PhonemeInventory) -> None:
        """Write labels in the symbols of a model that is there already."""
        if inventory != self.inventory:
            self._inventory = inventory
            self._datasets.clear()

    def use_model(self, recognizer: Recognizer) -> None:
        """Write labels, and make features, as a model wants them that is there already."""
        self.use_inventory(recognizer.inventory)
        before, self._features = self.features, recognizer.config.features
        if self.features != before:
            self._stores.clear()
            self._datasets.clear()

    def warm_up(self) -> None:
        """Compute now what training needs, so that several processes find it done."""
        if not self.stored:
            return
        for split in (*self.drawn_part().split(JOIN), "dev"):
            if len(self.cuts(split)):
                self.store(split)

    def training_part(self) -> str:
        """The speech that the stage trains on: "train", or "train+made" with `stage.made_names`; + joins parts."""
        return f"train+{self.MADE}" if self.MADE and self.config.stage.get("made_names") else "train"

    def drawn_part(self) -> str:
        """All that the stage trains on: the training part, and with `stage.no_speech` the clips without any."""
        part = self.training_part()
        return f"{part}{JOIN}{self.NO_SPEECH}" if self.config.stage.get("no_speech") else part

    def load_cuts(self, split: str) -> CutSet:
        """The CutSet of "train", "dev" or a test part."""
        raise NotImplementedError

    def test_parts(self) -> list[str]:
        """Names of the parts that a report covers."""
        raise NotImplementedError

    def texts(self) -> list[str]:
        """Normalized sentences for training a language model: here the training transcripts."""
        return self.transcripts(["train"])

    def sentences(self) -> list[str]:
        """Those of `texts` that are in `data.languages`, if these are given."""
        wanted = self.config.data.get("languages")
        return [text for text in self.texts() if language_of(text) in wanted] if wanted else self.texts()

    def transcripts(self, splits: Sequence[str]) -> list[str]:
        """Normalized transcripts of some parts."""
        return [normalize(cut.supervisions[0].text) for split in splits for cut in self.cuts(split)]

    @staticmethod
    def entities(cut: Cut) -> list[str] | None:
        """Normalized names in a transcript as annotated (`supervision.custom["entities"]`); None where nobody did.

        Raises:
            KitError: the annotation is no list of texts.
        """
        names = (cut.supervisions[0].custom or {}).get("entities")
        if names is None:
            return None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise KitError(f'the entities of utterance {cut.id} are {names!r}; write a list of names like ["a", "b"]')
        return [name for name in map(normalize, names) if name]

    def keywords(self, splits: Sequence[str]) -> list[str]:
        """Names that the transcripts of some parts mention: those annotated, or rare words where none are."""
        names = {name for split in splits for cut in self.cuts(split) for name in self.entities(cut) or ()}
        return sorted(names) or mine(self.transcripts(splits))

    def begin(self, config: DictConfig) -> None:
        """Start another stage on the same data: its batch sizes, its seed, from the first batch."""
        self.config, self.position = config, (0, 0)

    def cuts(self, split: str) -> CutSet:
        """The cuts of a split, read once."""
        if split not in self._cuts:
            cuts = self._part(split)
            if not len(cuts) and split != "dev":
                raise KitError(
                    f"the {split} part of data={self.config.data.name} is empty; give it at least one utterance"
                )
            self._cuts[split] = cuts
        return self._cuts[split]

    def _part(self, split: str) -> CutSet:
        if split == self.SILENCE:
            return self._without_speech(training=False)
        if split == self.NO_SPEECH:
            return self._without_speech(training=True)
        if split == self.TRUNCATED:
            return CutSet.from_cuts(filter(None, map(truncated, self.cuts(self.test_parts()[0]))))
        if JOIN in split:
            parts = {part: self.cuts(part) for part in split.split(JOIN)}
            together = Chained({part: cuts.data for part, cuts in parts.items()}, rename=False)
            return CutSet(together) if any(cuts.is_lazy for cuts in parts.values()) else CutSet.from_cuts(together)
        cuts = self.spoken(split)
        return cuts if split == "train" and cuts.is_lazy and len(cuts) > EAGER else cuts.to_eager()

    def spoken(self, split: str) -> CutSet:
        """The CutSet of a part as far as it is in `data.languages`, if these are given.

        Raises:
            UsageError: nothing of it is; a dev part is empty then.
        """
        cuts, wanted = self.load_cuts(split), self.config.data.get("languages")
        if not wanted:
            return cuts
        if not isinstance(cuts.data, Sequence):
            cuts = cuts.to_eager()
        spoken = [cut.supervisions[0].language for cut in cuts]
        places = [place for place, language in enumerate(spoken) if language in wanted]
        if spoken and not places and split != "dev":
            there = ", ".join(sorted(set(map(str, spoken))))
            raise UsageError(f"data.languages={list(wanted)} leaves nothing of the part {split}, which is in {there}")
        return subset(cuts, places)

    def store(self, split: str) -> FeatureStore:
        """The cached features of a split, computed at first use."""
        if split not in self._stores:
            folder = Path(self.config.cache) / "features" / f"{split}-{digest(self.cuts(split), **self.features)}"
            self._stores[split] = build(self.cuts(split), folder, self.features, f"{self.config.data.name}/{split}")
        return self._stores[split]

    def audio(self, split: str) -> AudioStore:
        """The decoded samples of a split, kept at first use."""
        if split not in self._audio:
            folder = Path(self.config.cache) / "audio" / f"{split}-{digest(self.cuts(split), 0)}"
            self._audio[split] = build_audio(self.cuts(split), folder, f"{self.config.data.name}/{split}")
        return self._audio[split]

    def samples(self, cut: Cut) -> torch.Tensor:
        """(N,) samples of any cut of this data at 16 kHz, as its features were made of them."""
        if isinstance(cut, MixedCut):  # with noise, whose tracks hold their samples already
            return torch.from_numpy(cut.load_audio()[0])
        return read_samples(cut)

    def speech(self) -> CutSet:
        """Utterances to make babble of: some of training's, or the test part's where there are none for training."""
        try:
            cuts = self.cuts("train")
        except UsageError:
            cuts = self.cuts(self.test_parts()[0])
        return cuts if len(cuts) <= EAGER else some(cuts, SOME)

    def _without_speech(self, training: bool) -> CutSet:
        noises = noises_for(self, self.config.get(NOISE_FOLDER), held_out=not training)
        return clips_without_speech(noises, Path(self.config.cache), training)

    def dataset(self, split: str) -> SpeechDataset:
        """The dataset of a split."""
        if split not in self._datasets:
            parts = split.split(JOIN)
            features = Joined([self.store(part) for part in parts]) if self.stored else computed_features(self.features)
            self._datasets[split] = SpeechDataset(features, self.inventory)
        return self._datasets[split]

    def normalization(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (F,) of the training features; of some of them where they are not kept."""
        return (
            self.store("train").statistics()
            if self.stored
            else sampled_statistics(some(self.cuts("train"), SOME), self.features)
        )

    def weights(self) -> torch.Tensor | None:
        """(n,) how often the utterances of training are to come up; None for all alike."""
        return None

    def _drawn(self, cuts: CutSet, power: float) -> tuple[torch.Tensor | None, int]:
        """`weights`, and of clips without speech such that `stage.no_speech` of what is drawn are such clips; and the
        utterances of an epoch: those with speech, and so many clips.
        """
        share, weights = self.config.stage.get("no_speech") or 0.0, self.weights()
        if not 0 <= share < 1:
            raise UsageError(f"stage.no_speech={share} is no share of the utterances drawn; give 0 to below 1")
        if not share:
            return weights, len(cuts)
        clips = len(self.cuts(self.NO_SPEECH))
        size = len(cuts) - clips
        count = max(size + 1, round(size / (1 - share)))
        lengths = durations(cuts) ** power
        weights = torch.ones(size, dtype=torch.float64) if weights is None else weights
        speech, silent = float((weights * lengths[:size]).sum()), float(lengths[size:].sum())
        ours = torch.full((clips,), speech / silent * (count / size - 1), dtype=torch.float64)
        return torch.cat([weights, ours]), count

    def train_dataloader(self) -> DataLoader:
        """Batches without end: speech, or text where the stage asks for `stage.data: text`."""
        if self.config.stage.get("data", "speech") == "text":
            return self._text_loader()
        cuts, power = self.cuts(self.drawn_part()), self.config.stage.get("favor_long") or 0.0
        weights, count = self._drawn(cuts, power)
        drawn = bool(power) or weights is not None or cuts.is_lazy
        sampler = (
            FavorLong(cuts, power, self.config.seed, self._buckets, weights, count) if drawn else self._buckets(cuts)
        )
        return self._loader(self._augmented_train(), Endless(sampler, self.position))

    def _augmented_train(self) -> SpeechDataset:
        """Training's utterances under the `augmentation` of the configuration."""
        if self._transforms is None:
            self._transforms = build_transforms(self.config.get("augmentation"), self)
        part = self.drawn_part()
        if not self._transforms:
            return self.dataset(part)
        seed = self.config.seed
        return self.dataset(part).augmented(Augmentation(self._transforms, self._samples(part), seed, self.features))

    def _samples(self, split: str) -> Joined[np.ndarray] | Computed[np.ndarray]:
        return Joined([self.audio(part) for part in split.split(JOIN)]) if self.stored else computed_samples()

    def _noisy(self, split: str, ratio: float) -> SpeechDataset:
        """A part with noise at `ratio` dB in every utterance, the same whatever the seed of training."""
        noise = Noise(1.0, ratio, 0.0, self.config.get(NOISE_FOLDER), held_out=True)
        noise.prepare(self)
        return self.dataset(split).augmented(Augmentation({"noise": noise}, self._samples(split), None, self.features))

    def _buckets(self, cuts: CutSet, shuffle: bool = True) -> DynamicBucketingSampler:
        """Shuffled batches of `stage.batch_seconds` in which utterances are about equally long.

        Of several processes that train together, each gets its own, equally many and from the same bucket.
        """
        rank, processes = place()
        buckets = min(self.config.data.buckets, len(cuts))
        # Lhotse makes no single bucket: one that nothing is long enough for stands beside it.
        bins: dict[str, Any] = {"num_buckets": buckets} if buckets > 1 else {"duration_bins": [1e9], "num_buckets": 2}
        with _eager_cuts():
            sampler = DynamicBucketingSampler(
                cuts,
                max_duration=self.config.stage.batch_seconds,
                **bins,
                shuffle=shuffle,
                seed=self.config.seed,
                rank=rank,
                world_size=processes,
            )
        return sampler.map(OwnIds(cuts)) if processes > 1 else sampler

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The dev part, longest first; nothing where a corpus has none."""
        return self.part_dataloader("dev") if len(self.cuts("dev")) else []

    def part_dataloader(self, split: str, noise_at: float | None = None) -> DataLoader:
        """Any part, in order of duration, each utterance once.

        Args:
            split: "train", "dev", a test part, "silence": some dozen clips without speech, or "truncated": utterances
                of the first test part that break off, with what is said of them until then.
            noise_at: mix held-out noise into every utterance at this signal-to-noise ratio in dB; clips without speech
                stay as they are.
        """
        ordered = self.cuts(split).sort_by_duration()
        with _eager_cuts():
            sampler = DynamicCutSampler(
                ordered, max_duration=self.config.data.evaluation_seconds, shuffle=False, rank=0, world_size=1
            )
        dataset = self.dataset(split) if noise_at is None or split == self.SILENCE else self._noisy(split, noise_at)
        return self._loader(dataset, [((0, 0), cuts) for cuts in own_share(list(sampler))])

    def probe(self, utterances: int, split: str = "dev") -> list[SpeechBatch]:
        """A fixed set of so many utterances, for looking at representations; of train where there is no dev."""
        split = split if len(self.cuts(split)) else "train"
        ordered = sorted(some(self.cuts(split), utterances), key=lambda cut: (-cut.duration, cut.id))
        size = max(1, int(self.config.data.evaluation_seconds / ordered[0].duration))
        batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
        return [self.dataset(split)[((0, 0), CutSet.from_cuts(cuts))] for cuts in batches]

    def state_dict(self) -> dict[str, Any]:
        """Where training is: epoch, and batches of it already trained on."""
        return {"position": list(self.position)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.position = tuple(state["position"])

    def _text_loader(self) -> DataLoader:
        if self._texts is None:
            self._texts = TextDataset(self.sentences())
        size = len(self._texts.texts)
        sampler = TextSampler(size, self.config.stage.batch_texts, self.config.seed, self.position[1])
        return self._loader(self._texts, sampler)

    def _loader(self, dataset: Dataset, sampler: Any) -> DataLoader:
        return DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=self.config.data.workers)


def own_share(batches: list[Any]) -> list[Any]:
    """Those of the batches to evaluate that fall to this process, of several; each batch falls to one.

    Where they are too few to go round, everybody takes them all, which changes no mean over all.
    """
    rank, processes = place()
    return batches[rank::processes] if len(batches) >= processes else batches


@contextmanager
def _eager_cuts() -> Iterator[None]:
    """Lhotse warns of cuts held in memory; it is audio that is large, not they."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*eagerly read CutSet")
        yield


def detect_language(text: str) -> str:
    """ "zh", "en" or "mixed", for manifests that do not say."""
    return language_of(normalize(text))
