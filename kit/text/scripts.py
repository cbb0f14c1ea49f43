"""In which scripts a transcript is written, and whether that fits the language that it should be in."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from kit.text.normalize import HAN

_HAN = re.compile(rf"[{HAN}]")
MOST_LATIN = 0.5  # of the units of a Mandarin transcript: names and loanwords are usual, a sentence of them is not


def scripts(text: str) -> dict[str, int]:
    """How many Han characters, Latin words and letters of other scripts a text has."""
    found = {"han": 0, "latin": 0, "other": 0}
    before = ""
    for character in text:
        kind = _script(character)
        if kind and not (kind == "latin" and before == "latin"):
            found[kind] += 1
        before = kind if kind or not _inside(character) else before
    return found


def foreign(text: str, language: str) -> str | None:
    """What is odd about the script of a transcript, or None.

    Args:
        language: "zh" (Han, with Latin words among them), "en" (Latin) or "mixed" (both).
    """
    found = scripts(text)
    if found["other"]:
        return f"{found['other']} letters are neither Han nor Latin"
    if language == "en" and found["han"]:
        return f"{found['han']} Han characters in English"
    if language == "zh" and found["latin"] > MOST_LATIN * (found["latin"] + found["han"]):
        return f"{found['latin']} Latin words among {found['han']} Han characters"
    return None


@lru_cache(maxsize=1 << 16)
def _script(character: str) -> str:
    if _HAN.match(character):
        return "han"
    if not unicodedata.category(character).startswith("L"):
        return ""
    name = unicodedata.name(character, "")
    return "latin" if "LATIN" in name else "han" if name.startswith("CJK") else "other"


def _inside(character: str) -> bool:
    """Whether it can stand within a Latin word."""
    return character in "'’-." or unicodedata.category(character).startswith("M")
