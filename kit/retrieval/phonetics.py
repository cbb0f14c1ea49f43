"""How phonemes sound: each as a vector of weighted phonetic features, so that those easily confused lie close together.

The features are those of phonetics textbooks, for both languages in one space: place and manner of consonants; height,
backness and rounding of vowels, their glides and codas; tones by the pitch at their beginning and end.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kit.text.phonemes import INITIALS, PhonemeInventory

# What a feature counts: the more, the less often speakers and recognizers mix it up.
_WEIGHTS = {
    "consonant": 0.5, "labial": 0.7, "dental": 0.7, "palatal": 0.7, "retroflex": 0.7, "velar": 0.7,
    "stop": 0.6, "fricative": 0.6, "hiss": 0.6, "nasal": 0.8, "liquid": 0.8, "glide": 0.8, "breath": 0.4, "voice": 0.3,
    "vowel": 1.0, "height": 0.9, "back": 0.7, "round": 0.3,
    "from i": 0.5, "from u": 0.5, "to n": 0.5, "to ng": 0.3, "to i": 0.4, "to u": 0.4, "to r": 0.6,
    "tone begins": 0.25, "tone ends": 0.25, "tone is neutral": 0.2, "Mandarin": 0.3,
}  # fmt: skip
_PLACES = {name: place for place, name in enumerate(_WEIGHTS)}
DIM = len(_WEIGHTS)

_CONSONANTS = {
    "b": "labial stop", "p": "labial stop breath", "m": "labial nasal", "f": "labial fricative",
    "d": "dental stop", "t": "dental stop breath", "n": "dental nasal", "l": "dental liquid",
    "g": "velar stop", "k": "velar stop breath", "h": "velar fricative",
    "j": "palatal stop fricative hiss", "q": "palatal stop fricative hiss breath", "x": "palatal fricative hiss",
    "zh": "retroflex stop fricative hiss", "ch": "retroflex stop fricative hiss breath",
    "sh": "retroflex fricative hiss", "r": "retroflex liquid",
    "z": "dental stop fricative hiss", "c": "dental stop fricative hiss breath", "s": "dental fricative hiss",
    "B": "labial stop voice", "P": "labial stop breath", "M": "labial nasal", "F": "labial fricative",
    "V": "labial fricative voice", "D": "dental stop voice", "T": "dental stop breath", "N": "dental nasal",
    "L": "dental liquid", "G": "velar stop voice", "K": "velar stop breath", "NG": "velar nasal",
    "HH": "velar fricative", "CH": "palatal stop fricative hiss breath", "JH": "palatal stop fricative hiss voice",
    "SH": "palatal fricative hiss", "ZH": "palatal fricative hiss voice", "S": "dental fricative hiss",
    "Z": "dental fricative hiss voice", "TH": "dental fricative", "DH": "dental fricative voice",
    "R": "retroflex liquid", "W": "labial glide round", "Y": "palatal glide",
}  # fmt: skip

# Vowels in IPA: height (0 open, 1 close), backness, rounding.
_VOWELS = {
    "a": (0, 0.5, 0), "æ": (0.15, 0.1, 0), "ə": (0.45, 0.5, 0), "ɔ": (0.25, 0.9, 1), "ɛ": (0.35, 0.1, 0),
    "e": (0.6, 0.05, 0), "ɪ": (0.85, 0.15, 0), "i": (1, 0, 0), "o": (0.55, 1, 1), "ʊ": (0.85, 0.85, 1), "u": (1, 1, 1),
    "y": (1, 0.05, 1), "ɤ": (0.55, 0.8, 0),
}  # fmt: skip

# Glide, vowel and coda of every final, vowel and coda of every English vowel.
_FINALS = {
    "a": "- a -", "ai": "- a i", "an": "- a n", "ang": "- a ng", "ao": "- a u", "e": "- ɤ -", "ei": "- e i",
    "en": "- ə n", "eng": "- ə ng", "er": "- ə r", "i": "- i -", "ia": "i a -", "ian": "i ɛ n", "iang": "i a ng",
    "iao": "i a u", "ie": "i ɛ -", "in": "- i n", "ing": "- i ng", "iong": "i ʊ ng", "iou": "i o u", "o": "- o -",
    "ong": "- ʊ ng", "ou": "- o u", "u": "- u -", "ua": "u a -", "uai": "u a i", "uan": "u a n", "uang": "u a ng",
    "uei": "u e i", "uen": "u ə n", "ueng": "u ə ng", "uo": "u o -", "v": "- y -", "van": "y ɛ n", "ve": "y ɛ -",
    "vn": "- y n",
}  # fmt: skip
_ENGLISH = {
    "AA": "- a -", "AE": "- æ -", "AH": "- ə -", "AO": "- ɔ -", "AW": "- a u", "AY": "- a i", "EH": "- ɛ -",
    "ER": "- ə r", "EY": "- e i", "IH": "- ɪ -", "IY": "- i -", "OW": "- o u", "OY": "- ɔ i", "UH": "- ʊ -",
    "UW": "- u -",
}  # fmt: skip
_GLIDES = {"-": {}, "i": {"from i": 1.0}, "u": {"from u": 1.0}, "y": {"from i": 1.0, "from u": 0.7}}
_CODAS = {"-": {}, "n": {"to n": 1.0}, "ng": {"to n": 1.0, "to ng": 1.0}} | {x: {f"to {x}": 1.0} for x in "iur"}
_TONES = {1: (1.0, 1.0), 2: (0.4, 1.0), 3: (0.2, 0.4), 4: (1.0, 0.0), 5: (0.4, 0.4)}  # pitch at beginning and end
_TONAL = re.compile("([a-z]+)([1-5])")


@lru_cache(maxsize=8)
def vectors(inventory: PhonemeInventory) -> NDArray[np.float32]:
    """(V, DIM): the features of every symbol; zeros for the blank.

    A symbol of a foreign inventory gets a vector by chance, drawn from its name, about as far from all others as
    different sounds are from each other.
    """
    found = np.zeros((len(inventory), DIM), np.float32)
    for number, symbol in enumerate(inventory.symbols[1:], 1):
        features = _features(symbol)
        if features:
            found[number, [_PLACES[name] for name in features]] = [_WEIGHTS[name] * x for name, x in features.items()]
        else:
            found[number] = _by_chance(symbol)
    found.setflags(write=False)
    return found


@lru_cache(maxsize=8)
def costs(inventory: PhonemeInventory) -> NDArray[np.float32]:
    """(V, V): what it costs to take one symbol for another: 0 for the same, 1 for quite another sound."""
    table = vectors(inventory)
    found = np.minimum(np.linalg.norm(table[:, None] - table[None], axis=-1), 1.0).astype(np.float32)
    found.setflags(write=False)
    return found


@lru_cache(maxsize=8)
def bare(inventory: PhonemeInventory) -> NDArray[np.bool_]:
    """(V, V): whether a symbol is a Mandarin final that makes a syllable alone where it stands behind another, [before,
    symbol]; before is 0 where a string begins.
    """
    finals = [bool((tonal := _TONAL.fullmatch(symbol)) and tonal[1] in _FINALS) for symbol in inventory.symbols]
    found = np.outer([symbol not in INITIALS for symbol in inventory.symbols], finals)
    found.setflags(write=False)
    return found


def _features(symbol: str) -> dict[str, float]:
    """feature -> how much of it a symbol of the default inventory has; empty for others."""
    if symbol in _CONSONANTS:
        names = ["consonant", *_CONSONANTS[symbol].split(), *(["Mandarin"] if symbol in INITIALS else [])]
        return dict.fromkeys(names, 1.0)
    if symbol in _ENGLISH:
        return _vowel(_ENGLISH[symbol])
    tonal = _TONAL.fullmatch(symbol)
    if tonal is None or tonal[1] not in _FINALS:
        return {}
    begin, end = _TONES[int(tonal[2])]
    tone = {"tone begins": begin, "tone ends": end, "tone is neutral": float(tonal[2] == "5"), "Mandarin": 1.0}
    return _vowel(_FINALS[tonal[1]]) | tone


def _vowel(parts: str) -> dict[str, float]:
    glide, vowel, coda = parts.split()
    height, back, rounding = _VOWELS[vowel]
    return {"vowel": 1.0, "height": height, "back": back, "round": rounding, **_GLIDES[glide], **_CODAS[coda]}


def _by_chance(symbol: str) -> NDArray[np.float32]:
    seed = int.from_bytes(hashlib.sha256(symbol.encode()).digest()[:8], "little")
    drawn = np.random.default_rng(seed).standard_normal(DIM)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)
