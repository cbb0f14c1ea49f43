"""Hotwords that were heard rightly or nearly so, and that the audio confirms: all streams of a step in one search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit.decoding.callbacks import Utterance
from kit.decoding.hotwords import Hotwords
from kit.retrieval.database import Database
from kit.retrieval.exact import Match
from kit.retrieval.hybrid import Found, Hearing, HybridSearch, Progress, Proposal, compete, search_in, verify
from kit.retrieval.lexicon import Lexicon, MemoryLexicon
from kit.text.phonemes import PhonemeInventory


@dataclass
class _Course:
    """The search in one list: how far it is, and all of the utterance that has enough evidence."""

    search: HybridSearch
    progress: Progress
    found: list[Found]


class HybridHotwords(Hotwords):
    """By exact search, by similar sound, and by the audio (`kit.retrieval.hybrid`).

    Args:
        database, personal, most, homophones, shortest: as in `Hotwords`.
        margin: evidence in nats that a name needs: the more, the rarer are hints that nobody said, and right ones.
            `hotwords calibrate` tells which margin has which precision.
        verify: whether what was heard exactly needs it, too.
        device: where the names of the database are compared: "cpu", or a GPU.
    """

    tells_all = True

    def __init__(
        self,
        database: str | Path | None = None,
        personal: str | Path | None = None,
        most: int = 10,
        homophones: int = 2,
        shortest: int | None = None,
        margin: float = 0.3,
        verify: bool = True,
        device: str = "cpu",
    ) -> None:
        super().__init__(database, personal, most, homophones, shortest)
        self.margin, self.verify, self.device = margin, verify, device
        self._searches: dict[bool, HybridSearch] = {}

    def prepare(self, inventory: PhonemeInventory) -> None:
        """Open the lists.

        Raises:
            KitError: they cannot be read, are not for this model's phonemes, the database has no dense index, or there
                is no such device to search in it.
        """
        super().prepare(inventory)
        if self._shared is not None:
            self._shared.current().dense(self.device)

    def start(self, utterance: Utterance) -> None:
        """An utterance begins."""
        self._hearing = Hearing()
        self._courses: dict[bool, _Course] = {}
        self._next: dict[bool, _Course] = {}
        super().start(utterance)

    def begin(self, lexicon: Lexicon, own: bool) -> None:
        """Search a list from the beginning of the utterance."""
        if own not in self._searches or self._searches[own].lexicon is not lexicon:
            self._searches[own] = self._search(lexicon)
        self._courses[own] = _Course(self._searches[own], Progress(), [])
        self._next.pop(own, None)

    def _search(self, lexicon: Lexicon) -> HybridSearch:
        assert isinstance(lexicon, Database | MemoryLexicon)
        chances = self._big.dense(self.device).chances if self._big is not None else None
        return search_in(lexicon, self._inventory, self.margin, self.shortest, chances, self.device)

    @classmethod
    def together(cls, heard: Sequence[tuple[HybridHotwords, Utterance]]) -> None:
        """Search in the newest phonemes of all streams, and hold what is found against the audio, at once."""
        asked = [(one, own) for one, _ in heard for own in one._courses]
        for one, utterance in heard:
            one._hearing.hear(utterance.log_probs)
        _advance(asked)

    def find(self, utterance: Utterance) -> Iterable[tuple[Lexicon, Sequence[Match]]]:
        """All of the utterance that stands: later evidence may be better, and what it excludes falls."""
        self._hearing.hear(utterance.log_probs)
        _advance([(self, own) for own in self._courses if own not in self._next])  # such as a list that changed
        self._courses, self._next = self._next, {}
        owners = {id(one): course for course in self._courses.values() for one in course.found}
        standing = compete(one for course in self._courses.values() for one in course.found)
        for course in self._courses.values():
            yield course.search.lexicon, [one for one in standing if owners[id(one)] is course]

    def accepts(self, found: Found) -> bool:
        """Whether there is enough evidence that a name was said."""
        return found.evidence >= self.margin or (found.exact and not self.verify)


def _advance(asked: Sequence[tuple[HybridHotwords, bool]]) -> None:
    """Carry some callbacks' searches on to where they hear now; what was known before stays as it is."""
    proposed: list[tuple[list[Proposal], Progress]] = [([], Progress())] * len(asked)
    for rows in _alike([one._courses[own].search for one, own in asked]):
        chosen = [asked[row] for row in rows]
        heard = [(one._hearing, one._courses[own].progress) for one, own in chosen]
        search = chosen[0][0]._courses[chosen[0][1]].search
        for row, result in zip(rows, search.propose(heard), strict=True):
            proposed[row] = result
    judged = verify([one._hearing for one, _ in asked], [proposals for proposals, _ in proposed])
    for (one, own), (_, progress), found in zip(asked, proposed, judged, strict=True):
        course = one._courses[own]
        one._next[own] = _Course(course.search, progress, [*course.found, *filter(one.accepts, found)])


def _alike(searches: Sequence[HybridSearch]) -> list[list[int]]:
    """Their numbers in groups that can be searched in one call: of one lexicon, and asking for the same."""
    groups: dict[tuple[int, float, int], list[int]] = {}
    for number, search in enumerate(searches):
        groups.setdefault((id(search.lexicon), search.margin, search.shortest), []).append(number)
    return list(groups.values())
