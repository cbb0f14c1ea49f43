"""Utterances with what came out of them, and the rates of any set of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from kit.errors import KitError
from kit.evaluation.alignment import Edits, text_edits
from kit.evaluation.metrics import (
    RATE_NAMES,
    EntityPrecision,
    EntityRecall,
    ErrorRate,
    HallucinationRate,
    HintPrecision,
    HintRecall,
    HintVerbatim,
    MixedErrorRate,
    PhonemeErrorRate,
    RecitedRate,
    Share,
    rate_of_language,
)
from kit.evaluation.significance import interval
from kit.text.normalize import language_of, normalize
from kit.text.scoring import foreign, units

NO_ANSWER = "no answer"
EMPTY = "reference is empty"
LEFT_OUT = "left out of the part, not scored"
SCRIPT = "reference in another script"
NAMED = 20  # ids of a fault that are told


@dataclass(frozen=True)
class Scored:
    """One utterance and what came out.

    Attributes:
        reference, hypothesis: as they are scored; no hypothesis where there is no LLM.
        written, told: the same as they were written and recognized.
        phonemes: heard; None from a system that tells none.
        names: that the reference has.
        named: names of the whole part that the hypothesis has.
        hints: that the recognizer was given or found by itself; shown: those of them that the LLM saw.
        snr: signal-to-noise ratio in dB, estimated, or known where noise was mixed in; None where nobody looked.
        answered: whether a system said anything, and be it that it heard nothing.
    """

    id: str
    language: str
    domain: str
    seconds: float
    reference: str
    hypothesis: str | None
    phonemes: list[str] | None
    reference_phonemes: list[str]
    names: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    written: str = ""
    told: str | None = None
    named: list[str] = field(default_factory=list)
    snr: float | None = None
    answered: bool = True

    @property
    def text(self) -> str:
        """The hypothesis, or nothing."""
        return self.hypothesis or ""

    def edits(self) -> Edits:
        """Errors in Han characters and Latin words."""
        return text_edits(units, self.reference, self.text)

    def faults(self) -> list[str]:
        """What is wrong with the reference or the answer."""
        found = [] if self.answered else [NO_ANSWER]
        if not self.reference:
            return [*found, EMPTY]
        strange = foreign(self.written) or self._in_another_script()
        return [*found, SCRIPT] if strange else found

    def _in_another_script(self) -> bool:
        said = language_of(self.reference)
        return (self.language, said) in (("zh", "en"), ("en", "zh"), ("en", "mixed"))


def as_dict(row: Scored) -> dict[str, Any]:
    """Plain values, the errors by kind among them."""
    return {**asdict(row), "errors": row.edits()._asdict() if row.hypothesis is not None else None}


def from_dict(content: Mapping[str, Any], where: str) -> Scored:
    """What `as_dict` made.

    Raises:
        KitError: something is missing.
    """
    known = {one.name for one in fields(Scored)}
    try:
        return Scored(**{key: value for key, value in content.items() if key in known})
    except (TypeError, AttributeError) as error:
        raise KitError(f"{where} holds an utterance that is none ({error}); give a report of kit evaluate") from error


def check_ids(ids: Iterable[str], part: str) -> None:
    """Raises: KitError: two utterances have one id, so that nobody could say whose text is whose."""
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        shown = ", ".join(twice[:5]) + (" ..." if len(twice) > 5 else "")
        raise KitError(f"{len(twice)} ids of the {part} part are there more than once: {shown}; give each its own")


def faults(rows: Sequence[Scored], left_out: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Fault -> how many utterances have it, and the first of their ids; those that a corpus left out among them."""
    found: dict[str, list[str]] = {LEFT_OUT: list(left_out)} if left_out else {}
    for row in rows:
        for fault in row.faults():
            found.setdefault(fault, []).append(row.id)
    return {fault: {"count": len(ids), "ids": ids[:NAMED]} for fault, ids in found.items()}


def groups(rows: list[Scored]) -> dict[str, list[Scored]]:
    """All rows, then those of each language, then those of each domain."""
    result = {"all": rows}
    for name in ("language", "domain"):
        for value in sorted({getattr(row, name) for row in rows} - {"-"}):
            result[value] = [row for row in rows if getattr(row, name) == value]
    return result


def rates(rows: list[Scored]) -> dict[str, Any]:
    """Error rates in percent: PER of the head; with an LLM also MER and the customary rate of each language, with their
    95 % intervals, the kinds of errors, the share of hallucinated utterances and, where there is anything to count, of
    names found and of wrong hints recited.
    """
    if not any(row.reference for row in rows):
        return in_silence(rows)
    result: dict[str, Any] = {}
    if all(row.phonemes is not None for row in rows):
        phonemes = PhonemeErrorRate()
        phonemes.update_strings([row.phonemes or [] for row in rows], [row.reference_phonemes for row in rows])
        result["PER"] = percent(phonemes)
    if any(row.hypothesis is None for row in rows):
        return result
    result |= _rate("MER", MixedErrorRate(), rows)
    for language in sorted({row.language for row in rows}):
        chosen = [row for row in rows if row.language == language]
        name = f"{language} {RATE_NAMES.get(language, 'MER')}"
        result |= _rate(name, rate_of_language(language), chosen)
    return {**result, **_shares(rows)}


def _rate(name: str, rate: ErrorRate, rows: Sequence[Scored]) -> dict[str, Any]:
    """A rate, its interval, and [substitutions, deletions, insertions, reference units]; none without a unit."""
    rate.update([row.text for row in rows], [row.reference for row in rows])
    found = [text_edits(rate.split, row.reference, row.text) for row in rows]
    if not rate.edits().length:
        return {}
    low, high = interval([one.errors for one in found], [one.length for one in found])
    around = [round(100 * low, 2), round(100 * high, 2)]
    return {name: percent(rate), f"{name} interval": around, f"{name} edits": list(rate.edits())}


def in_silence(rows: list[Scored]) -> dict[str, float]:
    """In how many clips without speech something was heard, and their share in percent: a text, or phonemes if there
    is no LLM.
    """
    texts = all(row.hypothesis is not None for row in rows)
    count = sum(bool(row.hypothesis if texts else row.phonemes) for row in rows)
    name = "with text" if texts else "with phonemes"
    return {name: count, f"{name}, %": round(100 * count / max(1, len(rows)), 2)}


def _shares(rows: list[Scored]) -> dict[str, float]:
    # Names and hints are in the canonical form, whatever the texts are scored in.
    texts, references = [normalize(row.text) for row in rows], [normalize(row.reference) for row in rows]
    invented, recall, precision, recited = HallucinationRate(), EntityRecall(), EntityPrecision(), RecitedRate()
    invented.update([row.text for row in rows], [row.reference for row in rows])
    recall.update(texts, [row.names for row in rows])
    precision.update([row.named for row in rows], [row.names for row in rows])
    recited.update(texts, references, [row.hints for row in rows])
    shares: dict[str, Share] = {
        "hallucination": invented,
        "entity recall": recall,
        "entity precision": precision,
        "recited": recited,
    }
    return {name: percent(share) for name, share in shares.items() if share.whole} | _hint_figures(rows)


def _hint_figures(rows: list[Scored]) -> dict[str, float]:
    """How many hints the LLM saw, and in percent how many of them were said, and how many names were among them."""
    hints = [row.shown for row in rows]
    if not any(row.hints for row in rows):
        return {}
    said, verbatim, recall = HintPrecision(), HintVerbatim(), HintRecall()
    for share in (said, verbatim):
        share.update(hints, [normalize(row.reference) for row in rows])
    recall.update(hints, [row.names for row in rows])
    shares: dict[str, Share] = {"hints said": said, "hints verbatim": verbatim, "names hinted": recall}
    figures = {"hints an utterance": round(sum(map(len, hints)) / len(rows), 2)}
    return figures | {name: percent(share) for name, share in shares.items() if share.whole}


def percent(metric: Any) -> float:
    """A metric in percent, as it is told."""
    return round(100 * float(metric.compute()), 2)
