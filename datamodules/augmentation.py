"""Augmentation of the audio itself, as Lhotse transforms that carry supervisions and alignments along.

Every transform touches a share of the utterances; its chances depend on what it is called, on the utterance and on the
place in training alone, so that one taken out leaves the others as they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from lhotse.cut import Cut, MixedCut, PaddingCut
from lhotse.supervision import AlignmentItem
from omegaconf import DictConfig
from torch import Tensor

from datamodules.features import RATE, Computed, Extract, Joined, Settings
from datamodules.noise import Noises, open_noises
from datamodules.recordings import audio_files, cut_of, open_files, recording_of, with_samples
from datamodules.synthesis import room_folder
from kit.plugins import build_named

if TYPE_CHECKING:
    from datamodules.base import SpeechData

NOISE_FOLDER = "noise_from"  # the setting that names it


class Transform:
    """One augmentation. A subclass says how it changes a cut.

    Args:
        share: of the utterances to touch, 0 to 1.
    """

    def __init__(self, share: float) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share={share} is not from 0 to 1")
        self.share = share

    def prepare(self, data: SpeechData) -> None:
        """Make or open what the transform needs; called once before the first cut."""

    def __call__(self, cut: Cut, generator: np.random.Generator) -> Cut:
        """The changed cut, or the very same where chance passes it by; its id stays."""
        return self.change(cut, generator) if generator.random() < self.share else cut

    def change(self, cut: Cut, generator: np.random.Generator) -> Cut:
        """The changed cut."""
        raise NotImplementedError


class Speed(Transform):
    """Speed perturbation: tempo and pitch together (Ko et al. 2015).

    Args:
        factors: one is drawn; 0.9 takes longer.
    """

    def __init__(self, share: float, factors: Sequence[float]) -> None:
        super().__init__(share)
        if not factors or not all(0.25 <= factor <= 4 for factor in factors):
            raise ValueError(f"factors={list(factors)} is not a list of numbers from 0.25 to 4")
        self.factors = [float(factor) for factor in factors]

    def change(self, cut: Cut, generator: np.random.Generator) -> Cut:
        """At one of the factors."""
        factor = self.factors[int(generator.integers(len(self.factors)))]
        return cut if factor == 1 else cut.perturb_speed(factor, affix_id=False)


class Reverberation(Transform):
    """Convolution with the impulse response of a room; the direct sound and the power stay where they were.

    Args:
        folder: of impulse responses as audio files; None for simulated rooms (Lhotse's own generator needs torchaudio).
    """

    def __init__(self, share: float, folder: str | None = None) -> None:
        super().__init__(share)
        self.folder = folder

    def prepare(self, data: SpeechData) -> None:
        """Read the impulse responses."""
        cache = Path(data.config.cache)
        folder = room_folder(cache) if self.folder is None else Path(self.folder).expanduser()
        files = audio_files(folder, "augmentation.transforms.*.folder")
        store = open_files(files, cache, "rooms")
        self.rooms = [recording_of(name, store[name]) for name in files]

    def change(self, cut: Cut, generator: np.random.Generator) -> Cut:
        """In one of the rooms."""
        return cut.reverb_rir(self.rooms[int(generator.integers(len(self.rooms)))], affix_id=False)


class Silence(Transform):
    """Digital silence before and after, each `seconds` times a number from Beta(alpha, beta)."""

    def __init__(self, share: float, seconds: float, alpha: float, beta: float) -> None:
        super().__init__(share)
        if seconds < 0 or alpha <= 0 or beta <= 0:
            raise ValueError(f"seconds={seconds}, alpha={alpha} or beta={beta} is too small")
        self.seconds, self.alpha, self.beta = seconds, alpha, beta

    def change(self, cut: Cut, generator: np.random.Generator) -> Cut:
        """Longer on both sides, by whole samples."""
        before, after = np.rint(self.seconds * RATE * generator.beta(self.alpha, self.beta, 2)).astype(int).tolist()
        size = before + cut.num_samples + after
        empty = PaddingCut("silence", size / RATE, RATE, feat_value=0.0, num_samples=size)
        return empty.mix(cut, offset_other_by=before / RATE, preserve_id="right")  # twice as fast as two calls of pad


class Noise(Transform):
    """Noise over all of the cut at a signal-to-noise ratio from N(mean, deviation) dB.

    The signal's power is the mean over the recording, without the silence that `Silence` put around it.

    Args:
        folder: of recordings; None for synthesized noise.
        held_out: take the noise for evaluation, which is never trained on.
    """

    def __init__(
        self, share: float, mean: float, deviation: float, folder: str | None = None, held_out: bool = False
    ) -> None:
        super().__init__(share)
        if deviation < 0:
            raise ValueError(f"deviation={deviation} is below 0")
        self.mean, self.deviation = mean, deviation
        self.folder, self.held_out = folder, held_out

    def prepare(self, data: SpeechData) -> None:
        """Open the recordings, or make them."""
        self.noises = noises_for(data, self.folder, self.held_out)

    def change(self, cut: Cut, generator: np.random.Generator) -> Cut:
        """With a piece of noise from its first sample to its last."""
        ratio = float(generator.normal(self.mean, self.deviation))
        name, samples = self.noises.piece(cut.num_samples, generator)
        return cut.mix(cut_of(name, samples), snr=ratio, preserve_id="left")


class Augmentation:
    """A chain of transforms over the utterances of a split.

    Args:
        transforms: by name, in order, prepared.
        audio: samples of the split.
        seed: of training; None makes chance a matter of the utterance's id alone.
        settings: of the features, as `Extract` takes them.
    """

    def __init__(
        self,
        transforms: Mapping[str, Transform],
        audio: Joined[np.ndarray] | Computed[np.ndarray],
        seed: int | None,
        settings: Settings | None = None,
    ) -> None:
        self.transforms, self.audio, self.seed = transforms, audio, seed
        self._extract = Extract(settings)

    def __call__(self, cut: Cut, place: tuple[int, ...]) -> tuple[Cut, Tensor] | None:
        """The changed cut and its features (T, F), or None where no transform touched it.

        Args:
            place: in training: epoch, batch of it, row of that.
        """
        began = changed = with_samples(cut, self.audio.of(cut))
        at = cut.id if self.seed is None else f"{self.seed} {place} {cut.id}"
        for name, transform in self.transforms.items():
            drawn = hashlib.sha256(f"{at} {name}".encode()).digest()
            changed = transform(changed, np.random.default_rng(int.from_bytes(drawn[:16], "big")))
        return None if changed is began else (changed, self.features(changed))

    def features(self, cut: Cut) -> Tensor:
        """(T, F) float32 log-mel of a cut's audio, the same numbers as in the cache for one that was not changed."""
        return self._extract(torch.from_numpy(cut.load_audio()[0])).float()


def build_transforms(section: DictConfig | None, data: SpeechData) -> dict[str, Transform]:
    """The transforms of a configuration's `augmentation` section, prepared, in its order; null takes one out.

    Raises:
        KitError: a wrong class or option, or recordings that cannot be had.
    """
    named = {str(name): options for name, options in ((section and section.transforms) or {}).items() if options}
    found = build_named(named, Transform, "augmentation.transforms")
    for transform in found:
        transform.prepare(data)
    return dict(zip(named, found, strict=True))


def noises_for(data: SpeechData, folder: str | None, held_out: bool) -> Noises:
    """The noise for training or for evaluation; what is synthesized babbles in the voices of the corpus."""
    return open_noises(folder, Path(data.config.cache), data.speech, held_out, NOISE_FOLDER)


def alignment(cut: Cut) -> list[AlignmentItem]:
    """The phonemes of a cut in seconds after `speech_start`; empty where the corpus is not aligned.

    Lhotse moves a supervision with the track that it is on, but leaves its alignment where it was on that track.
    """
    items: list[AlignmentItem] = (cut.supervisions[0].alignment or {}).get("phoneme", [])
    return items


def speech_start(cut: Cut) -> float:
    """The second of a cut at which the recording begins that is spoken in."""
    if not isinstance(cut, MixedCut):
        return 0.0
    track = next(track for track in cut.tracks if track.cut.supervisions)
    return float(track.offset) + speech_start(track.cut)
