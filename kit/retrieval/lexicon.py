"""What searches for hotwords work on: names by their sound, be it a database of millions or the list of one session."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import daachorse


@dataclass(frozen=True)
class Entry:
    """One hotword.

    Attributes:
        text: as it was given; in Unicode's composed form, without control characters and outer spaces.
        kind: such as "place"; "" if none was given.
        weight: the higher, the likelier it is to be meant.
    """

    text: str
    kind: str = ""
    weight: float = 1.0


class Lexicon(ABC):
    """Names under their phoneme strings. A key is the number of a string, from 0, in the order of the strings.

    Attributes:
        version: changes whenever the content does.
        keys: number of different phoneme strings.
        longest: phonemes of the longest one; 0 if there is none.
    """

    version: str
    keys: int
    longest: int

    @abstractmethod
    def entries(self, key: int) -> list[Entry]:
        """The names that sound so, by falling weight, then by their text."""

    @abstractmethod
    def phonemes(self, key: int) -> bytes:
        """The string: numbers in the phoneme inventory, a byte each."""

    @property
    @abstractmethod
    def automaton(self) -> daachorse.DoubleArrayAhoCorasick:
        """Finds all strings in `bytes` of phonemes at once; what it answers with are the keys."""


class MemoryLexicon(Lexicon):
    """Some names in memory; it never changes.

    Args:
        sounds: phoneme string -> names.
        version: to go by.
    """

    def __init__(self, sounds: dict[bytes, list[Entry]], version: str) -> None:
        self.version = version
        self._strings = sorted(sounds)
        self._entries = [sorted(sounds[string], key=rank) for string in self._strings]
        self.keys = len(self._strings)
        self.longest = max(map(len, self._strings), default=0)

    def entries(self, key: int) -> list[Entry]:
        """The names that sound so, by falling weight, then by their text."""
        return list(self._entries[key])

    def phonemes(self, key: int) -> bytes:
        """The string: numbers in the phoneme inventory, a byte each."""
        return self._strings[key]

    @cached_property
    def automaton(self) -> daachorse.DoubleArrayAhoCorasick:
        """Finds all strings in `bytes` of phonemes at once."""
        return build_automaton(self._strings)


def rank(entry: Entry) -> tuple[float, str]:
    """The order of names that sound alike."""
    return -entry.weight, entry.text


def build_automaton(strings: list[bytes]) -> daachorse.DoubleArrayAhoCorasick:
    """An Aho-Corasick automaton as a double array, over sorted phoneme strings, whose values are their places."""
    import daachorse

    return daachorse.DoubleArrayAhoCorasick(strings)
