"""Utterances that break off: what a recognizer adds to them was never said."""

from __future__ import annotations

from random import Random

from lhotse.cut import Cut
from lhotse.utils import fastcopy

from datamodules.augmentation import alignment
from datamodules.features import RATE
from kit.text.keywords import occurs
from kit.text.normalize import normalize, units
from kit.text.phonemes import pronounce

SHARES = (0.4, 0.8)  # of an utterance that is left, evenly, by its id


def truncated(cut: Cut) -> Cut | None:
    """The beginning of an utterance, and the text of the words that end within it; None where no word does.

    Where the corpus has no alignment, as large a share of the units (Han characters and words) as of the time.
    """
    share = Random(cut.id).uniform(*SHARES)
    seconds = round(share * cut.duration * RATE) / RATE
    supervision = cut.supervisions[0]
    text, phonemes = _said(cut, seconds, share)
    if not text:
        return None
    custom = dict(supervision.custom or {})
    if isinstance(custom.get("entities"), list):
        custom["entities"] = [name for name in custom["entities"] if occurs(normalize(str(name)), text)]
    kept = {"phoneme": alignment(cut)[:phonemes]} if phonemes else None
    left = fastcopy(supervision, text=text, duration=seconds, custom=custom, alignment=kept)
    return fastcopy(cut, id=f"{cut.id}-truncated", duration=seconds, supervisions=[left])


def _said(cut: Cut, seconds: float, share: float) -> tuple[str, int]:
    """The normalized text of a cut up to so many seconds, and how many of its phonemes are aligned, if they are."""
    text, items = normalize(cut.supervisions[0].text), alignment(cut)
    said = pronounce(text)
    if not items or sum(len(phonemes) for _, phonemes in said) != len(items):
        parts = units(text)
        return normalize(" ".join(parts[: int(share * len(parts))])), 0
    kept: list[str] = []
    count = 0
    for unit, phonemes in said:
        if phonemes and items[count + len(phonemes) - 1].end > seconds:
            break
        kept.append(unit)
        count += len(phonemes)
    return normalize(" ".join(kept)), count
