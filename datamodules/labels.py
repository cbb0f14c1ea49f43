"""What the CTC head is to say, and when: phonemes, or characters in their place."""

from __future__ import annotations

from collections.abc import Sequence

from lhotse.supervision import AlignmentItem

from kit.text.phonemes import PhonemeInventory, pronounce


def respelled(aligned: Sequence[AlignmentItem], text: str, inventory: PhonemeInventory) -> list[AlignmentItem]:
    """A phoneme alignment of a normalized text in the symbols of an inventory.

    The characters of a unit (Han character or word) share the time of its phonemes evenly. Nothing where the
    alignment is not that of the text's pronunciation.
    """
    if inventory.kind == "phonemes":
        return list(aligned)
    said = pronounce(text)
    if sum(len(phonemes) for _, phonemes in said) != len(aligned):
        return []
    result: list[AlignmentItem] = []
    at = 0
    for (_, phonemes), (_, symbols) in zip(said, inventory.spell(text), strict=True):
        if not phonemes:  # nobody knows how it is said: nothing was aligned
            return []
        start, end = aligned[at].start, aligned[at + len(phonemes) - 1].end
        share = (end - start) / len(symbols)
        result += [AlignmentItem(symbol, start + place * share, share) for place, symbol in enumerate(symbols)]
        at += len(phonemes)
    return result
