"""The hints of an utterance: what searches found in it so far, the best of it, each name once."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from kit.retrieval.exact import Match
from kit.retrieval.lexicon import Entry, Lexicon
from kit.text.normalize import normalize

as_hint = lru_cache(maxsize=1 << 14)(normalize)  # what stands in the prompt, as in training; the same names come again


@dataclass
class _Heard:
    """Phonemes [start, end) of an utterance, and hint -> name of what sounds so, by falling weight."""

    start: int
    end: int
    own: dict[str, Entry] = field(default_factory=dict)  # of the session's own list
    others: dict[str, Entry] = field(default_factory=dict)

    @property
    def names(self) -> dict[str, Entry]:
        """All, own ones first."""
        return {**self.own, **{hint: entry for hint, entry in self.others.items() if hint not in self.own}}

    @property
    def rank(self) -> tuple[bool, int, float, int]:
        """The higher the better: own names, then by length, weight, and who came last."""
        return bool(self.own), self.end - self.start, max(one.weight for one in self.names.values()), self.end


class HintSet:
    """Collects matches of one utterance and chooses hints among them.

    A match wholly inside a longer one counts for nothing, also where the longer one came later. Of the names that sound
    alike some are chosen, those of the session's own list first, then by weight; and so many of all.

    Args:
        most: hints at most.
        homophones: names of one sound at most.
    """

    def __init__(self, most: int = 10, homophones: int = 2) -> None:
        self.most, self.homophones = most, homophones
        self._heard: dict[tuple[int, int], _Heard] = {}

    def add(
        self, lexicon: Lexicon, matches: Iterable[Match], own: bool = False, hidden: Collection[str] = frozenset()
    ) -> None:
        """Matches in a lexicon.

        Args:
            own: it is the session's own list.
            hidden: normalized texts that are not wanted; a match of which nothing else is left never was.
        """
        for match in matches:
            names = self._wanted(lexicon.entries(match.key), hidden)
            if names:
                span = (match.start, match.end)
                heard = self._heard.setdefault(span, _Heard(*span))
                for hint, entry in names.items():
                    (heard.own if own else heard.others).setdefault(hint, entry)
        self._heard = {span: self._heard[span] for span in outermost(self._heard)}

    def names(self) -> dict[str, str]:
        """Hint -> name as it stands in its lexicon, the best first."""
        chosen: dict[str, str] = {}
        for heard in sorted(self._heard.values(), key=lambda one: one.rank, reverse=True):
            for hint, entry in list(heard.names.items())[: self.homophones]:
                chosen.setdefault(hint, entry.text)
        return dict(list(chosen.items())[: self.most])

    def _wanted(self, entries: Iterable[Entry], hidden: Collection[str]) -> dict[str, Entry]:
        """The first of them that make different hints."""
        found: dict[str, Entry] = {}
        for entry in entries:
            hint = as_hint(entry.text)
            if hint and hint not in hidden:
                found.setdefault(hint, entry)
            if len(found) == self.homophones:
                break
        return found


def outermost(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those of some different spans [start, end) that lie in no other one."""
    kept: list[tuple[int, int]] = []
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if not kept or end > kept[-1][1]:  # of those that begin no later, the last one kept reaches farthest
            kept.append((start, end))
    return kept
