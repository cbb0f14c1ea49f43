"""Error rates as torchmetrics classes: summed over utterances and devices before dividing."""

from __future__ import annotations

from collections.abc import Sequence

from torchmetrics import Metric
from torchmetrics.text import CharErrorRate, WordErrorRate

from kit.text.normalize import normalize, units


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


def rate_of_language(language: str) -> Metric:
    """The customary rate: characters for Mandarin, words for English, units for code-switch."""
    return {"zh": CharErrorRate, "en": WordErrorRate}.get(language, MixedErrorRate)()


RATE_NAMES = {"zh": "CER", "en": "WER", "mixed": "MER"}


def _spaced(texts: str | list[str]) -> list[str]:
    return [" ".join(units(normalize(text))) for text in ([texts] if isinstance(texts, str) else texts)]
