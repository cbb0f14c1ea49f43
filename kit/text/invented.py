"""Names that nobody knows."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from kit.text.normalize import normalize, units


class Inventor:
    """Makes names up, out of the characters and words of some normalized texts.

    Args:
        texts: where they come from.
        choice: draws one of several; by default Python's generator.
    """

    def __init__(self, texts: Iterable[str], choice: Callable[[Sequence[str]], str] = random.choice) -> None:
        found = sorted({unit for text in texts for unit in units(text)})
        self.characters = [unit for unit in found if not unit.isascii()]
        self.words = [unit for unit in found if unit.isascii() and unit.isalpha() and len(unit) > 3]
        self._choice = choice

    def __call__(self, like: str) -> str:
        """A name as long as another one and in its scripts: any characters, and words of the halves of two others."""
        return normalize(" ".join(map(self._unit, units(like))))

    def _unit(self, like: str) -> str:
        pool = self.words if like.isascii() else self.characters
        if not pool:
            return like
        first = self._choice(pool)
        if not like.isascii():
            return first
        second = self._choice(pool)
        return first[: -(-len(first) // 2)] + second[len(second) // 2 :]
