"""When each phoneme of an utterance was spoken, from the synthesizer's events."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from kit.text.espeak import Speech

Part = tuple[str, tuple[str, ...]]
Event = tuple[float, str]

_MARK = re.compile(r"[_(;]")  # pauses and boundaries, changes of language, palatalization: not phonemes
_ACCENTS = "',%="
# One event for a vowel and the sonorant or vowel after it (car, near, hour, battle), two phonemes elsewhere.
_DOUBLE = re.compile(r"(?:[AeoOUi]@3?|aI@3?|aU@3?|@L)")
_VOWELS = tuple("aeiouyAEIOUVY03@")
_GLIDES = ("j", "w")
# eSpeak's names of the Mandarin initials, where they are not the pinyin.
_INITIALS = {
    "p": "b",
    "ph": "p",
    "t": "d",
    "th": "t",
    "k": "g",
    "kh": "k",
    "X": "h",
    "tS;": "j",
    "tS;h": "q",
    "S;": "x",
    "ts.": "zh",
    "ts.h": "ch",
    "s.": "sh",
    "z.": "r",
    "ts": "z",
    "tsh": "c",
}
_LATER = 0.01  # of a mismatch: between equal matches the earliest counts


def spoken_text(parts: Sequence[Part]) -> tuple[str, list[int]]:
    """What to give the synthesizer, and the character offset of each unit in it.

    Spaces surround Latin words, so that they are read as words; Han characters stand together, so that they are read
    as phrases.
    """
    text = ""
    offsets = []
    for unit, _ in parts:
        if text and (unit.isascii() or text[-1].isascii()):
            text += " "
        offsets.append(len(text))
        text += unit
    return text, offsets


def align(parts: Sequence[Part], offsets: Sequence[int], speech: Speech) -> tuple[list[float], float]:
    """Start of every phoneme and the end of the last, in seconds from the first sample of `speech`.

    Units (Mandarin characters, English words) begin exactly where the synthesizer began them. Inside a unit its own
    phonemes are used: one by one when there are as many, matched by kind when it has more, interpolated when it has
    fewer.

    Returns:
        Non-decreasing starts, as many as `parts` has phonemes, and the end.
    """
    end = _end(speech)
    starts: list[float] = []
    groups = _groups(parts, _unit_events(offsets, speech))
    for (phonemes, own), (_, following) in pairwise([*groups, ([], [(end, "")])]):
        starts += _spread(phonemes, own, following[0][0])
    return starts, end


def _unit_events(offsets: Sequence[int], speech: Speech) -> list[list[Event]]:
    """The synthesizer's phonemes in each unit, none for a unit that it joined to the one before; no accents."""
    first_events = [index for index, _, _ in speech.words]
    places = [at for _, at, _ in speech.words] or [0]
    events: list[list[Event]] = [[] for _ in offsets]
    for index, (seconds, name) in enumerate(speech.events):
        if _MARK.match(name):
            continue
        place = places[max(bisect_right(first_events, index) - 1, 0)]
        own = events[max(bisect_right(offsets, place) - 1, 0)]
        own.append((seconds, name.strip(_ACCENTS)))
        following, after = speech.events[index + 1] if index + 1 < len(speech.events) else (seconds, "")
        if _DOUBLE.fullmatch(own[-1][1]) and not after.startswith("r"):
            own.append(((seconds + following) / 2, after))
    return events


def _end(speech: Speech) -> float:
    spoken = [index for index, (_, name) in enumerate(speech.events) if not _MARK.match(name)]
    after = [seconds for seconds, name in speech.events[spoken[-1] + 1 :] if name.startswith("_")] if spoken else []
    return after[0] if after else len(speech.samples) / speech.rate


def _groups(parts: Sequence[Part], events: Sequence[list[Event]]) -> list[tuple[list[str], list[Event]]]:
    """Units with events; one without joins the one before it (or, at the start, the one after)."""
    groups: list[tuple[list[str], list[Event]]] = []
    for (_, phonemes), own in zip(parts, events, strict=True):
        if groups and (not own or not groups[-1][1]):
            groups[-1][0].extend(phonemes)
            groups[-1][1].extend(own)
        else:
            groups.append((list(phonemes), list(own)))
    return groups


def _spread(phonemes: Sequence[str], events: Sequence[Event], end: float) -> list[float]:
    times = [seconds for seconds, _ in events]
    if len(times) == len(phonemes):
        return times
    if len(times) > len(phonemes):
        return [times[index] for index in _matched(phonemes, [name for _, name in events])]
    places = np.arange(len(phonemes)) * len(times) / len(phonemes)
    return [float(seconds) for seconds in np.interp(places, np.arange(len(times) + 1), [*times, end])]


def _matched(phonemes: Sequence[str], names: Sequence[str]) -> list[int]:
    """The event where each phoneme begins: increasing, the first at the first, with the fewest mismatches."""
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [0])}  # last event used -> (cost, events used)
    for done, phoneme in enumerate(phonemes[1:], start=1):
        left = len(phonemes) - done
        longer: dict[int, tuple[float, list[int]]] = {}
        for index in range(done, len(names) - left + 1):
            cost = _mismatch(phoneme, names[index]) + _LATER * index
            before = min(chain for last, chain in best.items() if last < index)
            longer[index] = (before[0] + cost, [*before[1], index])
        best = longer
    return min(best.values())[1]


def _mismatch(phoneme: str, name: str) -> float:
    if phoneme[-1].isdigit():  # a Mandarin final
        return 0.0 if name.startswith(_VOWELS + _GLIDES) else 1.0
    if phoneme.islower():  # a Mandarin initial
        return 0.0 if _INITIALS.get(name, name) == phoneme else 1.0
    return 0.0 if name.startswith(_VOWELS) == phoneme.startswith(tuple("AEIOU")) else 1.0
