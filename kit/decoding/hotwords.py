"""Hotwords: names of a database, or of a list of the session's own, that are heard become hints, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from kit.decoding.callbacks import DecodingCallback, Utterance
from kit.decoding.events import Hotword
from kit.retrieval.database import Shared
from kit.retrieval.exact import ExactSearch, Match, State
from kit.retrieval.hints import HintSet
from kit.retrieval.lexicon import Lexicon
from kit.retrieval.names import Name, check_inventory, make_name
from kit.retrieval.personal import PersonalList
from kit.text.phonemes import PhonemeInventory


class Hotwords(DecodingCallback):
    """What all ways of searching share: the lists, the hints of an utterance, the events.

    A way of searching is a subclass with `begin` and `find`. The database may be replaced at any time; the next
    utterance goes by the new one. Names that are added or removed, by whichever thread, count from the next chunk on,
    also for what was heard of the utterance before.

    Args:
        database: folder of a database; None for none.
        personal: file of names of the session's own; None for none at first.
        most: hints at most.
        homophones: names of one sound among them at most.
        shortest: phonemes that a name must have to be looked for; None goes by how many there are.

    Attributes:
        own: the session's own names.
        tells_all: whether `find` tells every time all that was heard, and what it tells no more never was.
    """

    vouches = True
    tells_all = False
    own: PersonalList

    def __init__(
        self,
        database: str | Path | None = None,
        personal: str | Path | None = None,
        most: int = 10,
        homophones: int = 2,
        shortest: int | None = None,
    ) -> None:
        self.database, self.personal = database, personal
        self.most, self.homophones, self.shortest = most, homophones, shortest
        self._shared: Shared | None = None

    def prepare(self, inventory: PhonemeInventory) -> None:
        """Open the lists.

        Raises:
            KitError: they cannot be read, or are not for this model's phonemes.
        """
        check_inventory(inventory)
        self._inventory = inventory
        self._shared = Shared.of(self.database, inventory) if self.database else None
        self.own = _own_list(self.personal, inventory) if self.personal else PersonalList(inventory)

    def add(self, names: Iterable[Name | str]) -> None:
        """Take up names of the session's own, all or none.

        Raises:
            KitError: one of them cannot be a hotword.
        """
        self.own.add(*[make_name(self._inventory, name) if isinstance(name, str) else name for name in names])

    def remove(self, texts: Iterable[str]) -> None:
        """Let names be hints no more, be they of the session's own or of the database."""
        for text in texts:
            self.own.remove(text)

    def begin(self, lexicon: Lexicon, own: bool) -> None:
        """A list is to be searched from the beginning of the utterance, in place of the one of its kind before.

        Args:
            own: whether it is what the session's own names are now, or the database.
        """
        raise NotImplementedError

    def find(self, utterance: Utterance) -> Iterable[tuple[Lexicon, Sequence[Match]]]:
        """What was heard in each list since the call before, or since it has begun; or else all, see `tells_all`."""
        raise NotImplementedError

    def start(self, utterance: Utterance) -> None:
        """An utterance begins."""
        self._big = self._shared.current() if self._shared else None
        self._found: list[Match] = []  # in the database
        self._names: dict[str, str] = {}
        self._told: set[str] = set()
        if self._big is not None:
            self.begin(self._big, own=False)
        self._renew()

    def chunk(self, utterance: Utterance) -> list[Hotword]:
        """Tells what is a hint from now on."""
        if self.own.version != self._mine.version:
            self._renew()
        found = self.find(utterance)
        if self.tells_all:
            self._found, self._set = [], HintSet(self.most, self.homophones)
        for lexicon, matches in found:
            if lexicon is self._big:
                self._found += matches
            self._heard(lexicon, matches)
        self._names = self._set.names()
        fresh = {hint: name for hint, name in self._names.items() if hint not in self._told}
        self._told |= fresh.keys()
        return [Hotword(utterance.index, utterance.seconds, name) for name in fresh.values()]

    def hints(self, utterance: Utterance) -> Sequence[str]:
        """The best, in the written form of the training."""
        return list(self._names)

    def _renew(self) -> None:
        """Go by the own list as it is now."""
        self._mine, self._set = self.own.snapshot(), HintSet(self.most, self.homophones)
        self.begin(self._mine, own=True)
        if self._big is not None:
            self._heard(self._big, self._found)

    def _heard(self, lexicon: Lexicon, matches: Sequence[Match]) -> None:
        self._set.add(lexicon, matches, own=lexicon is self._mine, hidden=self.own.hidden)


class ExactHotwords(Hotwords):
    """By exact matches in the phonemes of the greedy path (NIM4-ASR, arXiv 2604.18105): hardly a wrong hint."""

    def start(self, utterance: Utterance) -> None:
        """An utterance begins."""
        self._searches: dict[bool, tuple[ExactSearch, State]] = {}
        super().start(utterance)

    def begin(self, lexicon: Lexicon, own: bool) -> None:
        """Search a list from the beginning of the utterance."""
        self._searches[own] = ExactSearch(lexicon, self.shortest, self._inventory), State()

    def find(self, utterance: Utterance) -> Iterable[tuple[Lexicon, Sequence[Match]]]:
        """What ends in the phonemes that a list was not yet searched in."""
        for own, (search, state) in self._searches.items():
            matches, after = search.search(utterance.phonemes[state.heard :], state)
            self._searches[own] = search, after
            yield search.lexicon, matches


def _own_list(path: str | Path, inventory: PhonemeInventory) -> PersonalList:
    """The list in a file, which many sessions begin with: it is read again when the file has changed."""
    path = Path(path).resolve()
    seen = path.stat() if path.exists() else None
    return _read_list(path, seen and (seen.st_mtime_ns, seen.st_ino, seen.st_size), inventory).copy()


@lru_cache(maxsize=64)
def _read_list(path: Path, seen: object, inventory: PhonemeInventory) -> PersonalList:
    return PersonalList.load(path, inventory)
