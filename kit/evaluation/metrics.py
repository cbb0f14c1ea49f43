"""Error rates as torchmetrics classes: summed over utterances and devices before dividing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.text import CharErrorRate, WordErrorRate

from kit.text.keywords import occurs
from kit.text.normalize import normalize, units
from kit.text.phonemes import phonemize

LONGER = 1.5  # times the reference: NIM4-ASR's hallucination is a hypothesis more than 50 % longer ...
OVERLAP = (
    0.2  # ... with negligible overlap, for which it gives no figure: fewer of the reference's units found than this
)


class MixedErrorRate(WordErrorRate):
    """Edit distance in units (Han characters and Latin words) a reference unit; texts are normalized first."""

    def update(self, preds: str | list[str], target: str | list[str]) -> None:
        """Add hypotheses and references, one or B of each."""
        super().update(_spaced(preds), _spaced(target))


class PhonemeErrorRate(WordErrorRate):
    """Edit distance of phoneme strings a reference phoneme."""

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


def rate_of_language(language: str) -> Metric:
    """The customary rate: characters for Mandarin, words for English, units for code-switch."""
    return {"zh": CharErrorRate, "en": WordErrorRate}.get(language, MixedErrorRate)()


RATE_NAMES = {"zh": "CER", "en": "WER", "mixed": "MER"}


def _spaced(texts: str | list[str]) -> list[str]:
    return [" ".join(units(normalize(text))) for text in ([texts] if isinstance(texts, str) else texts)]
