"""What a hypothesis is worth. Each reward is a pure function of normalized texts, and a small class that knows where
its arguments come from.

A reward of one's own is a subclass of `Reward`, named by `stage.rewards.NAME._target_`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from kit.decoding.alignment import excess
from kit.errors import UsageError
from kit.text.keywords import occurs
from kit.text.normalize import units
from kit.text.phonemes import PhonemeInventory


@dataclass(frozen=True)
class Case:
    """What is known of an utterance.

    Attributes:
        text: what was said, normalized.
        keywords: names that were said and have to be written, normalized.
        log_probs: (T, V) of the phonemes, by the head, on the CPU; None where no reward asks for them.
        inventory: of those phonemes.
    """

    text: str
    keywords: Collection[str] = ()
    log_probs: Tensor | None = field(default=None, repr=False)
    inventory: PhonemeInventory | None = field(default=None, repr=False)


class Reward:
    """Scores hypotheses. A subclass says how.

    Args:
        weight: of this reward in the sum; with 0 it is not asked.

    Raises:
        UsageError: the weight is no finite number.
    """

    listens = False  # whether it needs the phonemes' log-probabilities

    def __init__(self, weight: float) -> None:
        if not math.isfinite(weight):
            raise UsageError(f"stage.rewards: weight={weight} is no finite number")
        self.weight = float(weight)

    def __call__(self, texts: Sequence[str], case: Case) -> list[float]:
        """The reward of each hypothesis (normalized) of one utterance, before its weight."""
        raise NotImplementedError


class Accuracy(Reward):
    """exp(-sharpness times the character error rate); NIM4-ASR's has 2."""

    def __init__(self, weight: float = 1.0, sharpness: float = 2.0) -> None:
        super().__init__(weight)
        self.sharpness = _positive("accuracy", "sharpness", sharpness)

    def __call__(self, texts: Sequence[str], case: Case) -> list[float]:
        """See `accuracy`."""
        return [accuracy(text, case.text, self.sharpness) for text in texts]


class Hallucination(Reward):
    """-1 for what is much too long or much too short; NIM4-ASR's bounds are 2 and 0.5."""

    def __init__(self, weight: float = 0.5, longest: float = 2.0, shortest: float = 0.5) -> None:
        super().__init__(weight)
        self.longest = _positive("hallucination", "longest", longest)
        self.shortest = shortest
        if not 0 <= shortest < longest:
            raise UsageError(f"stage.rewards.hallucination: shortest={shortest} must be from 0 to below {longest}")

    def __call__(self, texts: Sequence[str], case: Case) -> list[float]:
        """See `hallucination`."""
        return [hallucination(text, case.text, self.longest, self.shortest) for text in texts]


class Context(Reward):
    """Whether the keywords are there; NIM4-ASR gives 0.5 for one that is and -0.5 for one that is not."""

    def __init__(self, weight: float = 0.5, present: float = 0.5, absent: float = -0.5) -> None:
        super().__init__(weight)
        self.present, self.absent = present, absent

    def __call__(self, texts: Sequence[str], case: Case) -> list[float]:
        """See `context`."""
        return [context(text, case.keywords, self.present, self.absent) for text in texts]


class Acoustic(Reward):
    """How well the phonemes of a hypothesis explain the audio; ours, not the paper's.

    It needs no transcript, so it holds the text to what was heard where a transcript is wrong or the LLM guesses.
    """

    listens = True

    def __init__(self, weight: float = 0.5, scale: float = 2.0) -> None:
        super().__init__(weight)
        self.scale = _positive("acoustic", "scale", scale)

    def __call__(self, texts: Sequence[str], case: Case) -> list[float]:
        """See `acoustic`."""
        assert case.log_probs is not None and case.inventory is not None
        return [acoustic(worse, self.scale) for worse in excess(case.log_probs, texts, case.inventory)]


def accuracy(found: str, said: str, sharpness: float = 2.0) -> float:
    """exp(-sharpness * CER), from 1 down to 0. Spaces between words are characters; where nothing was said each
    character written is an error of its own.
    """
    return math.exp(-sharpness * edits(found, said) / max(1, len(said)))


def hallucination(found: str, said: str, longest: float = 2.0, shortest: float = 0.5) -> float:
    """-1 if a text has more than `longest` or less than `shortest` times the units that were said, else 0.

    Units are Han characters and Latin words.
    """
    size, wanted = len(units(found)), len(units(said))
    return -1.0 if size > longest * wanted or size < shortest * wanted else 0.0


def context(found: str, keywords: Collection[str], present: float = 0.5, absent: float = -0.5) -> float:
    """The mean over the keywords of `present` or `absent`; 0 where there are none."""
    if not keywords:
        return 0.0
    return sum(present if occurs(name, found) else absent for name in keywords) / len(keywords)


def acoustic(worse: float, scale: float = 2.0) -> float:
    """exp(-excess / scale), 1 for a text that explains the audio as well as the best path of the phonemes or better.

    Args:
        worse: `kit.decoding.alignment.excess` of the text, in nats a phoneme.
    """
    return math.exp(-max(0.0, worse) / scale)


def edits(found: str, said: str) -> int:
    """Levenshtein's distance in characters."""
    if found == said or not found or not said:
        return max(len(found), len(said)) if found != said else 0
    wanted = np.frombuffer(said.encode("utf-32-le"), np.uint32)
    places = np.arange(len(said) + 1)
    cost = places
    for character in np.frombuffer(found.encode("utf-32-le"), np.uint32):
        swapped = cost[:-1] + (wanted != character)
        best = np.concatenate([[cost[0] + 1], np.minimum(swapped, cost[1:] + 1)])
        cost = np.minimum.accumulate(best - places) + places  # characters that were said and not found
    return int(cost[-1])


def _positive(name: str, key: str, value: float) -> float:
    if not value > 0:
        raise UsageError(f"stage.rewards.{name}: {key}={value} must be above 0")
    return float(value)
