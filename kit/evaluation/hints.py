"""Names in held-out utterances: which each of them says, and which hints it gets, the same for every model."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from kit.text.keywords import Keywords, occurs
from kit.text.normalize import normalize

if TYPE_CHECKING:
    from datamodules.base import SpeechData

RETRIEVED = 10  # wrong hints beside the right ones in "mixed": about what a retriever gives
NEAREST = 4  # of those that sound like a name, so many may stand for it in "homophone"


class Names:
    """The names that held-out parts mention: those annotated, or rare words where none are.

    Args:
        data: whose held-out parts are evaluated.
        split: the part that is; None, a test part or the one without speech counts the names of all test parts.
        kind: which hints to give: "right", "wrong", "homophone", "mixed" (see `hints`), or None for none.
    """

    def __init__(self, data: SpeechData, split: str | None = None, kind: str | None = None) -> None:
        parts = [split] if split and split not in (*data.test_parts(), data.SILENCE) else data.test_parts()
        self.data, self.kind = data, kind
        self.annotated = any(data.entities(cut) for part in parts for cut in data.cuts(part))
        self.keywords = Keywords(data.keywords(parts), data.transcripts(parts))

    def said(self, cut: Any, text: str) -> list[str]:
        """The names in an utterance and its normalized transcript."""
        if self.annotated:
            return list(dict.fromkeys(self.data.entities(cut) or ()))
        return self.keywords.mentioned(text)

    def written(self, text: str) -> list[str]:
        """Those of all names that any text has."""
        return self.keywords.mentioned(normalize(text))

    def hints(self, cut: Any, text: str) -> list[str]:
        """The hints of an utterance, drawn by its id.

        right: the names said; wrong: as many others; homophone: for each one that sounds like it; mixed: the names said
        among RETRIEVED others.
        """
        said, draw = self.said(cut, text), Random(f"{self.kind} {cut.id}")
        if self.kind == "right":
            return said
        if self.kind == "wrong":
            return self._others(text, len(said), draw)
        if self.kind == "homophone":
            alike = [[other for other in self.keywords.alike(name) if not occurs(other, text)] for name in said]
            return list(dict.fromkeys(draw.choice(row[:NEAREST]) for row in alike if row))
        if self.kind == "mixed":
            hints = said + self._others(text, RETRIEVED, draw)
            draw.shuffle(hints)
            return hints
        return []

    def _others(self, text: str, count: int, draw: Random) -> list[str]:
        """Names that a text does not have."""
        names = self.keywords.names
        drawn = draw.sample(names, min(len(names), 2 * count + 10))  # more, since a text may have some of them
        return [name for name in drawn if not occurs(name, text)][:count]
