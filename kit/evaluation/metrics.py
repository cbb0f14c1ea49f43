"""Error rates as torchmetrics classes: summed over utterances and devices before dividing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from kit.evaluation.alignment import Edits, text_edits
from kit.text.keywords import occurs
from kit.text.phonemes import phonemize
from kit.text.scoring import units

LONGER = 1.5  # times the reference: NIM4-ASR's hallucination is a hypothesis more than 50 % longer ...
OVERLAP = (
    0.2  # ... with negligible overlap, for which it gives no figure: fewer of the reference's units found than this
)


class ErrorRate(Metric):
    """Errors a reference unit, and how many there were of each kind; a subclass says what a unit is (`split`).

    Texts are taken as they are: normalize them first (`kit.text.scoring`). Infinite where there were errors and no
    unit, NaN where there was neither.
    """

    full_state_update = False
    substitutions: Tensor
    deletions: Tensor
    insertions: Tensor
    length: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in Edits._fields:
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    @staticmethod
    def split(text: str) -> list[str]:
        """The units of a text."""
        raise NotImplementedError

    def update(self, preds: Sequence[str], target: Sequence[str]) -> None:
        """Add B hypotheses and references."""
        self._count(text_edits(self.split, wanted, found) for found, wanted in zip(preds, target, strict=True))

    def _count(self, found: Iterable[Edits]) -> None:
        total = sum(found, Edits(0, 0, 0, 0))
        for name, value in zip(Edits._fields, total, strict=True):
            setattr(self, name, getattr(self, name) + value)

    def edits(self) -> Edits:
        """The errors of each kind, and the reference units."""
        return Edits(*(int(getattr(self, name)) for name in Edits._fields))

    def compute(self) -> Tensor:
        """From 0; more than 1 where there are more errors than units."""
        return (self.substitutions + self.deletions + self.insertions) / self.length


class MixedErrorRate(ErrorRate):
    """Errors a Han character or Latin word: the rate of code-switched speech, and of several languages together."""

    @staticmethod
    def split(text: str) -> list[str]:
        """Han characters, and what stands between them and white space."""
        return units(text)


class CharErrorRate(ErrorRate):
    """Errors a character, the spaces between Latin words among them."""

    @staticmethod
    def split(text: str) -> list[str]:
        """All characters."""
        return list(text)


class WordErrorRate(ErrorRate):
    """Errors a word, which ends at white space."""

    @staticmethod
    def split(text: str) -> list[str]:
        """What stands between white space."""
        return text.split()


class PhonemeErrorRate(WordErrorRate):
    """Errors a phoneme; a text is phonemes with spaces between them."""

    def update_strings(self, found: Sequence[Sequence[object]], wanted: Sequence[Sequence[object]]) -> None:
        """Add phoneme strings of B utterances, as ids or as symbols."""
        self.update([" ".join(map(str, row)) for row in found], [" ".join(map(str, row)) for row in wanted])


class Share(Metric):
    """How many of all things counted are of one kind; NaN while nothing was counted."""

    part: Tensor
    whole: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("part", "whole"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def count(self, kinds: Sequence[bool]) -> None:
        """Add things, each with whether it is of the kind."""
        self.part += sum(kinds)
        self.whole += len(kinds)

    def compute(self) -> Tensor:
        """From 0 to 1."""
        return self.part / self.whole


class EntityRecall(Share):
    """Share of the names that stand verbatim, on the borders of units, in the hypotheses. All in normalized form."""

    def update(self, preds: Sequence[str], names: Sequence[Sequence[str]]) -> None:
        """Add B hypotheses and the names that each should have."""
        self.count([occurs(name, text) for text, row in zip(preds, names, strict=True) for name in row])


class EntityPrecision(Share):
    """Share of the names in the hypotheses that were said. All in normalized form."""

    def update(self, found: Sequence[Sequence[str]], names: Sequence[Sequence[str]]) -> None:
        """Add, for B utterances, the names of a list that the hypothesis has and those that it should have."""
        self.count([name in row for told, row in zip(found, names, strict=True) for name in told])


class HallucinationRate(Share):
    """Share of the hypotheses over LONGER times as long as the reference that have less than OVERLAP of it.

    Length and overlap are counted in units (Han characters and Latin words) of the normalized texts; a unit that the
    reference has twice must be found twice.
    """

    def update(self, preds: Sequence[str], target: Sequence[str]) -> None:
        """Add B hypotheses and references."""
        self.count([_invented(*map(units, pair)) for pair in zip(preds, target, strict=True)])


class RecitedRate(Share):
    """Share of the wrong hints, those that were not said, that the hypotheses have. All in normalized form."""

    def update(self, preds: Sequence[str], target: Sequence[str], hints: Sequence[Sequence[str]]) -> None:
        """Add B hypotheses, references and lists of hints."""
        for found, said, row in zip(preds, target, hints, strict=True):
            self.count([occurs(hint, found) for hint in row if not occurs(hint, said)])


class HintPrecision(Share):
    """Share of the hints that were said, by their letters or by their sound. All in normalized form."""

    def update(self, hints: Sequence[Sequence[str]], target: Sequence[str]) -> None:
        """Add B lists of hints and references."""
        for row, text in zip(hints, target, strict=True):
            said = phonemize(text) if row else []
            self.count([occurs(hint, text) or _contains(said, phonemize(hint)) for hint in row])


class HintVerbatim(Share):
    """Share of the hints that were said, by their letters. All in normalized form."""

    def update(self, hints: Sequence[Sequence[str]], target: Sequence[str]) -> None:
        """Add B lists of hints and references."""
        self.count([occurs(hint, text) for row, text in zip(hints, target, strict=True) for hint in row])


class HintRecall(Share):
    """Share of the names said that were given as hints. All in normalized form."""

    def update(self, hints: Sequence[Sequence[str]], names: Sequence[Sequence[str]]) -> None:
        """Add B lists of hints and the names that were said."""
        self.count([name in row for row, said in zip(hints, names, strict=True) for name in said])


def _contains(said: Sequence[str], wanted: Sequence[str]) -> bool:
    return any(said[at : at + len(wanted)] == wanted for at in range(len(said) - len(wanted) + 1))


def _invented(found: list[str], said: list[str]) -> bool:
    common = (Counter(found) & Counter(said)).total()
    return len(found) > LONGER * len(said) and common < OVERLAP * max(1, len(said))


def rate_of_language(language: str) -> ErrorRate:
    """The customary rate: characters for Mandarin, words for English, units for code-switch."""
    rates: dict[str, type[ErrorRate]] = {"zh": CharErrorRate, "en": WordErrorRate}
    return rates.get(language, MixedErrorRate)()


RATE_NAMES = {"zh": "CER", "en": "WER", "mixed": "MER"}
