"""Names by their sound and by the audio: what the greedy phonemes say, or nearly say, and the audio confirms.

An exact search finds what was heard rightly. For what was heard wrongly, every stretch of phonemes that a name might
be is looked up among the names that sound like it. All that is found is scored against the audio itself and weighed
against what is said by chance (`kit.retrieval.evidence`); of those that lay claim to the same phonemes the likeliest
is taken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kit.retrieval.acoustic import Question, scores
from kit.retrieval.database import Database
from kit.retrieval.edits import Edits
from kit.retrieval.evidence import Chances
from kit.retrieval.exact import ExactSearch, Match, State
from kit.retrieval.lexicon import Lexicon, MemoryLexicon
from kit.retrieval.phonetics import costs
from kit.text.phonemes import PhonemeInventory

# docs/hotwords.md has what other values are worth.
LENGTHS = (6, 8, 11, 14, 20)  # phonemes of the stretches that are looked up; names between come near enough
NEAREST = 6  # names a stretch
REACH = 80.0  # squared distance in the index that a nat of spare evidence reaches
BLOCK = 16  # phonemes that what follows holds for: a chunk, or a part of a longer one
COMPARED = 32  # names, the nearest, that are compared phoneme by phoneme
HEARD_SO = 0.6  # credit at least of what the greedy phonemes say just so, see `kit.retrieval.evidence`
HEARD = 8  # of these, the nearest by that, that are held against the audio
SLOPE = 2.5  # nats that an edit costs at least, by the audio: more in 98 of 100 names that were said
_BEFORE, _BEHIND = 2, 3  # frames around the phonemes of a stretch, where those that were lost may lie
_PAUSE = 25  # frames of silence, 1 s: what is beyond them before or behind a stretch is no part of it
_SPARE = 2  # phonemes before a stretch, likewise
_SHARED = 1  # phonemes that two names may both lay claim to


@dataclass(frozen=True)
class Found(Match):
    """A match and what is known of it.

    Attributes:
        evidence: in nats, see `kit.retrieval.evidence`.
        exact: whether the greedy phonemes say just this.
    """

    evidence: float
    exact: bool


@dataclass
class Hearing:
    """What searches want of an utterance; it grows with it.

    Attributes:
        phonemes: of the greedy path, repeats merged, blanks dropped.
        onsets: the frame in which each begins.
        frames: so far.
        log_probs: its chunks, (n, V) each.
    """

    phonemes: list[int] = field(default_factory=list)
    onsets: list[int] = field(default_factory=list)
    frames: int = 0
    log_probs: list[Tensor] = field(default_factory=list)
    _last: int = 0

    def hear(self, log_probs: Sequence[Tensor]) -> None:
        """Take in the utterance's chunks; those known already are passed over."""
        for chunk in log_probs[len(self.log_probs) :]:
            for frame, symbol in enumerate(chunk.argmax(-1).tolist(), self.frames):
                if symbol not in (0, self._last):
                    self.phonemes.append(symbol)
                    self.onsets.append(frame)
                self._last = symbol
            self.frames += len(chunk)
            self.log_probs.append(chunk)

    def stretch(self, start: int, end: int) -> tuple[int, int]:
        """Frames [first, last) in which something may have been said that was heard as the phonemes [start, end)."""
        first = max(self.onsets[max(0, start - _SPARE)] - _BEFORE, self.onsets[max(0, start)] - _PAUSE)
        last = self.onsets[end] + _BEHIND if end < len(self.onsets) else self.frames
        return max(0, first), min(last, self.onsets[end - 1] + _PAUSE, self.frames)


@dataclass(frozen=True)
class Progress:
    """How far a search has come in an utterance; it never changes.

    Attributes:
        exact: of the exact search; it tells how many phonemes were searched in.
        edits: of the comparison with all names of a list.
        said: the newest exact matches.
    """

    exact: State = field(default_factory=State)
    edits: NDArray[np.float32] | None = None
    said: tuple[Match, ...] = ()


@dataclass(frozen=True)
class Proposal:
    """What may have been said: the string `key` of a lexicon, where the phonemes [start, end) were heard."""

    key: int
    start: int
    end: int
    string: bytes
    credit: float
    exact: bool


class HybridSearch(ABC):
    """Proposes names of a lexicon, for `verify` to judge; made by `search_in`.

    Args:
        lexicon: what to search in.
        inventory: of its phonemes.
        credit: (keys,) of each name, see `kit.retrieval.evidence`.
        sizes: (keys,) phonemes of each.
        margin: evidence that a name needs: what cannot have so much is not proposed.
        shortest: phonemes of names that are looked for; as in `kit.retrieval.exact.ExactSearch`.
    """

    def __init__(
        self,
        lexicon: Lexicon,
        inventory: PhonemeInventory,
        credit: NDArray[np.float32],
        sizes: NDArray[np.int64],
        margin: float,
        shortest: int | None,
    ) -> None:
        self.lexicon, self.margin = lexicon, margin
        self._credit, self._sizes = credit, sizes
        self._exact, self._costs = ExactSearch(lexicon, shortest, inventory), costs(inventory)
        self.shortest = self._exact.shortest

    def propose(self, heard: Sequence[tuple[Hearing, Progress]]) -> list[tuple[list[Proposal], Progress]]:
        """What may have been said in the newest phonemes of each of some utterances, and how far they are now."""
        found = []
        for (one, done), (near, edits) in zip(heard, self._near(heard), strict=True):
            matches, state = self._exact.search(one.phonemes[done.exact.heard :], done.exact)
            # A little later the same name may be heard nearly, too, with a phoneme of what follows.
            said = (*(old for old in done.said if old.end > state.heard - 2 * self.lexicon.longest), *matches)
            found.append(([*self._said(matches), *_without(near, said)], Progress(state, edits, said)))
        return found

    @abstractmethod
    def _near(
        self, heard: Sequence[tuple[Hearing, Progress]]
    ) -> list[tuple[list[Proposal], NDArray[np.float32] | None]]:
        """Names that sound like something new in each utterance, and `Progress.edits`."""

    def _spare(self, keys: NDArray[np.int64]) -> NDArray[np.float32]:
        """What the audio of some names may cost them."""
        return np.where(self._sizes[keys] >= self.shortest, self._credit[keys] - self.margin, -np.inf)

    def _said(self, matches: Iterable[Match]) -> list[Proposal]:
        said = (self._proposal(one.key, one.start, one.end, exact=True) for one in matches)
        return [replace(one, credit=max(one.credit, HEARD_SO)) for one in said]

    def _proposal(self, key: int, start: int, end: int, exact: bool = False) -> Proposal:
        return Proposal(key, start, end, self.lexicon.phonemes(key), float(self._credit[key]), exact)


def search_in(
    lexicon: Database | MemoryLexicon,
    inventory: PhonemeInventory,
    margin: float,
    shortest: int | None = None,
    chances: Chances | None = None,
    device: str = "cpu",
) -> HybridSearch:
    """The search for a kind of lexicon.

    Args:
        lexicon, inventory, margin, shortest: as in `HybridSearch`.
        chances: how surprising phonemes are, for a list in memory; by default that of nothing in particular.
        device: where a database's names are compared: "cpu", or a GPU.

    Raises:
        KitError: the database has no dense index, or it is damaged.
    """
    if isinstance(lexicon, Database):
        return AmongMillions(lexicon, margin, shortest, device)
    return AmongSome(lexicon, inventory, margin, shortest, chances or Chances.typical(inventory))


class AmongMillions(HybridSearch):
    """By the dense index of a database."""

    def __init__(self, database: Database, margin: float, shortest: int | None, device: str) -> None:
        self._index = database.dense(device)
        super().__init__(database, database.inventory, self._index.credit, self._index.sizes, margin, shortest)

    def _near(
        self, heard: Sequence[tuple[Hearing, Progress]]
    ) -> list[tuple[list[Proposal], NDArray[np.float32] | None]]:
        blocks = [
            (row, begin, min(begin + BLOCK, len(one.phonemes)))
            for row, (one, done) in enumerate(heard)
            for begin in range(done.exact.heard, len(one.phonemes), BLOCK)
        ]
        texts = [bytes(one.phonemes) for one, _ in heard]
        found: list[list[Proposal]] = [[] for _ in heard]
        for (row, _, _), spans in zip(blocks, self._looked_up(texts, blocks), strict=True):
            found[row] += self._compared(texts[row], spans)
        return [(proposals, None) for proposals in found]

    def _looked_up(
        self, texts: Sequence[bytes], blocks: Sequence[tuple[int, int, int]]
    ) -> list[dict[int, tuple[int, int]]]:
        """For each block, phonemes [begin, stop) of a text, the names that sound like something that ends there.

        Returns:
            key -> the stretch [start, end) that comes nearest to it.
        """
        windows = [
            (block, end - size, end)
            for block, (_, begin, stop) in enumerate(blocks)
            for end in range(begin + 1, stop + 1)
            for size in LENGTHS
            if size <= end
        ]
        keys, far = self._index.nearest([texts[blocks[block][0]][start:end] for block, start, end in windows], NEAREST)
        window, rank = ((keys >= 0) & (far <= REACH * self._spare(keys))).nonzero()
        order = np.argsort(far[window, rank], kind="stable")
        spans: list[dict[int, tuple[int, int]]] = [{} for _ in blocks]
        for place, key in zip(window[order].tolist(), keys[window, rank][order].tolist(), strict=True):
            block, start, end = windows[place]
            if len(spans[block]) < COMPARED:
                spans[block].setdefault(key, (start, end))
        return spans

    def _compared(self, text: bytes, spans: dict[int, tuple[int, int]]) -> list[Proposal]:
        """The best by comparing phonemes, of names that were found at some spans of a text."""
        if not spans:
            return []
        keys, begin = np.fromiter(spans, np.int64), max(0, min(start for start, _ in spans.values()) - _SPARE)
        strings = [self.lexicon.phonemes(key) for key in spans]
        edits = Edits(self._costs, strings)
        found, _ = edits.follow(edits.start, text[begin : max(end for _, end in spans.values())])
        ends = np.array([end for _, end in spans.values()]) - begin - 1
        names = np.arange(len(keys))
        least = np.minimum(found[ends, names], found[np.maximum(ends - 1, 0), names])
        best = np.argsort(least / [len(string) for string in strings], kind="stable")
        chosen = best[(self._spare(keys) > SLOPE * least)[best]][:HEARD]
        return [self._proposal(key, *spans[key]) for key in keys[chosen].tolist()]


class AmongSome(HybridSearch):
    """By comparing all names of a list with what was heard."""

    def __init__(
        self,
        lexicon: MemoryLexicon,
        inventory: PhonemeInventory,
        margin: float,
        shortest: int | None,
        chances: Chances,
    ) -> None:
        strings = [lexicon.phonemes(key) for key in range(lexicon.keys)]
        sizes = np.array([len(string) for string in strings], np.int64)
        joined, starts = np.frombuffer(b"".join(strings), np.uint8), np.concatenate([[0], np.cumsum(sizes)])
        super().__init__(lexicon, inventory, chances.credit(joined, starts), sizes, margin, shortest)
        self._edits = Edits(self._costs, strings)

    def _near(
        self, heard: Sequence[tuple[Hearing, Progress]]
    ) -> list[tuple[list[Proposal], NDArray[np.float32] | None]]:
        return [self._followed(one.phonemes[done.exact.heard :], done) for one, done in heard]

    def _followed(self, fresh: Sequence[int], done: Progress) -> tuple[list[Proposal], NDArray[np.float32]]:
        state = self._edits.start if done.edits is None else done.edits
        proposals: list[Proposal] = []
        for begin in range(0, len(fresh) if self.lexicon.keys else 0, BLOCK):
            found, state = self._edits.follow(state, fresh[begin : begin + BLOCK])
            proposals += self._best(found, done.exact.heard + begin)
        return proposals, state

    def _best(self, found: NDArray[np.float32], begin: int) -> list[Proposal]:
        """Of what all names cost that end with each of some phonemes, from `begin` on."""
        least, ends = found.min(0), begin + found.argmin(0) + 1
        best = np.argsort(least / self._sizes, kind="stable")
        chosen = best[(self._spare(best) > SLOPE * least[best])][:HEARD]
        starts = np.maximum(ends - self._sizes, 0)
        return [self._proposal(int(key), int(starts[key]), int(ends[key])) for key in chosen]


def verify(heard: Sequence[Hearing], proposals: Sequence[Sequence[Proposal]]) -> list[list[Found]]:
    """The evidence for what was proposed in each of some utterances, by one pass over the audio of all."""
    asked = [
        Question(row, one.string, *heard[row].stretch(min(one.start, one.end - len(one.string)), one.end))
        for row, several in enumerate(proposals)
        for one in several
    ]
    told = iter(scores([one.log_probs for one in heard], asked))
    return [
        [Found(one.key, one.start, one.end, next(told) + one.credit, one.exact) for one in several]
        for several in proposals
    ]


def compete(found: Iterable[Found]) -> list[Found]:
    """Of those that lay claim to the same phonemes the one with most evidence, which comes first.

    Two that were heard exactly never exclude each other: which of them are hints is for `kit.retrieval.hints` to say.
    """
    taken: list[Found] = []
    for one in sorted(found, key=lambda one: (-one.evidence, one.start - one.end, one.start, one.key)):
        rivals = (other for other in taken if not (one.exact and other.exact))
        if all(_overlap(one, other) <= _SHARED for other in rivals):
            taken.append(one)
    return taken


def _without(proposals: Iterable[Proposal], matches: Sequence[Match]) -> list[Proposal]:
    """Those that were not heard exactly at about the same place."""
    said: dict[int, list[Match]] = {}
    for match in matches:
        said.setdefault(match.key, []).append(match)
    return [one for one in proposals if not any(_overlap(one, match) > 0 for match in said.get(one.key, ()))]


def _overlap(one: Match | Proposal, other: Match | Proposal) -> int:
    """Phonemes that both lay claim to; not above 0 if there are none."""
    return min(one.end, other.end) - max(one.start, other.start)
