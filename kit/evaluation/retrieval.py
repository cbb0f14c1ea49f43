"""How well ways of finding hotwords find them: recall and precision on speech whose phonemes are known."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor

from kit.evaluation.metrics import PhonemeErrorRate
from kit.evaluation.mishearing import Snippets, heard
from kit.retrieval.calibrate import curve, in_hundredths, least_margin
from kit.retrieval.database import Database
from kit.retrieval.dense import SHORTEST, DenseIndex
from kit.retrieval.exact import ExactSearch
from kit.retrieval.hints import outermost
from kit.retrieval.hybrid import LENGTHS, Found, Hearing, HybridSearch, Progress, compete, verify
from kit.retrieval.lexicon import Lexicon
from kit.text.keywords import occurs
from kit.text.normalize import normalize

CHUNK = 16  # frames that come at once: 640 ms
NEAREST = 6  # names a stretch, of the dense search alone
LIKELY = 70.0  # percent of a name's phonemes that must agree to be looked at, by edit distance
_LEAST = 1e-3  # credit that a name is given in any case
ALIKE = 20  # names an utterance at most, by edit distance


@dataclass(frozen=True)
class Spoken:
    """An utterance.

    Attributes:
        chunks: (n, V) log-probabilities, as a stream brings them.
        phonemes: that were said.
        text: that was said, normalized; of simulated speech the name, and the sentence that it was put into.
        names: normalized names in it that the database has.
    """

    chunks: list[Tensor]
    phonemes: bytes
    text: str
    names: list[str]


@dataclass(frozen=True)
class Quality:
    """What a way of searching reached.

    Attributes:
        recall: share of the names said that were found.
        precision: share of what was found that was said; nan where nothing was found.
        hints: found in an utterance.
        margin: evidence that was asked for.
    """

    recall: float
    precision: float
    hints: float
    margin: float


def spoken(log_probs: Tensor, phonemes: Sequence[int], text: str, names: Iterable[str], chunk: int = CHUNK) -> Spoken:
    """An utterance from its (T, V) log-probabilities; `chunk` frames come at once, 0 is all."""
    return Spoken(list(log_probs.split(chunk or max(1, len(log_probs)))), bytes(phonemes), text, list(names))


def simulated(
    database: Database, snippets: Snippets, carriers: Sequence[tuple[bytes, str]], count: int, errors: float
) -> list[Spoken]:
    """Names of a database in the middle of other speech; the same ones at all error rates.

    Args:
        carriers: phonemes and texts of sentences; a name is put between two words or anywhere else.
        count: utterances, with one name each, drawn evenly among the database's strings.
        errors: share of the phonemes that are heard wrongly.
    """
    draw, made = Random(0), []
    for number in range(count):
        key, (carrier, text) = draw.randrange(database.keys), draw.choice(carriers)
        at = draw.randint(0, len(carrier))
        said = carrier[:at] + database.phonemes(key) + carrier[at:]
        log_probs = snippets.speak(said, errors, Random(f"{number} {errors}"))
        name = normalize(database.entries(key)[0].text)
        made.append(spoken(log_probs, said, f"{name} {text}", [name]))
    return made


def error_rate(utterances: Iterable[Spoken]) -> float:
    """The phoneme error rate of the greedy path, in percent."""
    metric = PhonemeErrorRate()
    for one in utterances:
        metric.update_strings([heard(torch.cat(one.chunks))], [list(one.phonemes)])
    return 100 * float(metric.compute())


def has_name(database: Database, strings: Iterable[bytes], name: str) -> bool:
    """Whether a database has a normalized name under one of some phoneme strings."""
    found = ((string, database.automaton.find_overlapping(string)) for string in strings)
    keys = (key for string, all_ in found for start, end, key in all_ if (start, end) == (0, len(string)))
    return any(name == normalize(entry.text) for key in keys for entry in database.entries(key))


@dataclass
class Judged:
    """Hints and what became of them.

    Attributes:
        hints: evidence of each in hundredths, and whether it was said: by its letters, or by its phonemes.
        names: for each name said the evidence with which it is a hint, in hundredths; minus infinity if it is none.
        utterances: that all this is from.
    """

    hints: list[tuple[float, bool]] = field(default_factory=list)
    names: list[float] = field(default_factory=list)
    utterances: int = 0

    def add(self, lexicon: Lexicon, found: Sequence[Found], said: Spoken) -> None:
        """Judge what was found in an utterance."""
        texts = {one.key: [normalize(entry.text) for entry in lexicon.entries(one.key)] for one in found}
        for one in found:
            by_letters = any(occurs(text, said.text) for text in texts[one.key])
            right = by_letters or lexicon.phonemes(one.key) in said.phonemes
            self.hints.append((in_hundredths(one.evidence), right))
        for name in said.names:
            best = max((one.evidence for one in found if name in texts[one.key]), default=-math.inf)
            self.names.append(in_hundredths(best))
        self.utterances += 1


class Way(ABC):
    """A way of searching.

    Attributes:
        evidence: whether what it finds has evidence that a threshold can be put on.
    """

    evidence = True

    @abstractmethod
    def find(self, utterance: Spoken) -> list[Found]:
        """What stands in the end; no two of them lay claim to the same phonemes."""


class Exact(Way):
    """The string stands in the greedy path."""

    evidence = False

    def __init__(self, database: Database, shortest: int | None = None) -> None:
        self._search = ExactSearch(database, shortest, database.inventory)

    def find(self, utterance: Spoken) -> list[Found]:
        """See `Way`."""
        matches, _ = self._search.search(heard(torch.cat(utterance.chunks)))
        spans = set(outermost({(match.start, match.end) for match in matches}))
        return [Found(one.key, one.start, one.end, 0.0, True) for one in matches if (one.start, one.end) in spans]


class Dense(Way):
    """The nearest by the embedding, of every stretch of the greedy path; nothing is held against the audio.

    The longer and the rarer a name is, the farther it may be: its distance counts by its credit
    (`kit.retrieval.evidence`).
    """

    def __init__(self, index: DenseIndex) -> None:
        self._index = index

    def find(self, utterance: Spoken) -> list[Found]:
        """See `Way`."""
        text = bytes(heard(torch.cat(utterance.chunks)))
        spans = [(end - size, end) for end in range(len(text) + 1) for size in LENGTHS if size <= end]
        found = self._index.search([text[start:end] for start, end in spans], NEAREST)
        return compete(
            Found(key, start, end, near / max(float(self._index.credit[key]), _LEAST), False)
            for (start, end), several in zip(spans, found, strict=True)
            for key, near in several
        )


class Edits(Way):
    """The usual way: rapidfuzz compares every name with the greedy path; how much agrees in the best place counts."""

    def __init__(self, database: Database) -> None:
        # The same names as the dense search has: shorter ones agree with everything.
        self._keys = [key for key in range(database.keys) if len(database.phonemes(key)) >= SHORTEST]
        self._strings = [_letters(database.phonemes(key)) for key in self._keys]

    def find(self, utterance: Spoken) -> list[Found]:
        """See `Way`."""
        from rapidfuzz import fuzz, process

        text = _letters(heard(torch.cat(utterance.chunks)))
        best = process.extract(text, self._strings, scorer=fuzz.partial_ratio, limit=ALIKE, score_cutoff=LIKELY)
        found = []
        for string, score, place in best:
            where: Any = fuzz.partial_ratio_alignment(string, text)
            found.append(Found(self._keys[place], where.dest_start, where.dest_end, score, False))
        return compete(found)


class Hybrid(Way):
    """Exact and dense together, held against the audio (`kit.retrieval.hybrid`)."""

    def __init__(self, search: HybridSearch) -> None:
        self._search = search

    def find(self, utterance: Spoken) -> list[Found]:
        """See `Way`; what has less evidence than the search's margin is left out."""
        every = (found for several in self.steps(utterance) for found in several)
        return _outermost(compete(one for one in every if one.evidence >= self._search.margin))

    def steps(self, utterance: Spoken) -> Iterator[list[Found]]:
        """What each chunk brings."""
        hearing, progress = Hearing(), Progress()
        for number in range(1, len(utterance.chunks) + 1):
            hearing.hear(utterance.chunks[:number])
            [(proposed, progress)] = self._search.propose([(hearing, progress)])
            yield verify([hearing], [proposed])[0]


def _outermost(found: Iterable[Found]) -> list[Found]:
    """Those that lie wholly in none of at least as much evidence: such a name is no hint. By falling evidence."""
    kept: list[Found] = []
    for one in found:
        around = (other for other in kept if other.start <= one.start and one.end <= other.end)
        if all((other.start, other.end) == (one.start, one.end) for other in around):
            kept.append(one)
    return kept


def quality(
    database: Database,
    found: Sequence[tuple[Spoken, Sequence[Found]]],
    margin: float = -math.inf,
    precision: float | None = None,
) -> Quality:
    """What was found of what was said.

    Args:
        found: utterances and what a way found in them.
        margin: evidence that is asked for.
        precision: choose the margin with hindsight, the smallest with this precision; none has it: nothing is found.
    """
    judged = Judged()
    for utterance, several in found:
        judged.add(database, several, utterance)
    hints, names = judged.hints, judged.names
    if precision is not None:
        point = least_margin(curve(hints, names), precision)
        margin = point.margin if point else math.inf
    right = [said for evidence, said in hints if evidence >= margin]
    hit = sum(evidence >= margin and evidence > -math.inf for evidence in names)
    return Quality(
        recall=hit / max(1, len(names)),
        precision=sum(right) / len(right) if right else math.nan,
        hints=len(right) / max(1, len(found)),
        margin=margin,
    )


def measure(
    database: Database,
    ways: Mapping[str, Way],
    utterances: Sequence[Spoken],
    margin: float,
    precision: float,
    most: Mapping[str, int],
) -> Iterator[tuple[str, Quality]]:
    """What each way reaches: the hybrid one at a margin that was chosen before, the others as well as can be.

    Args:
        margin: of the way called "hybrid".
        precision: for all others that have evidence a threshold is chosen with hindsight to have it.
        most: utterances for a way that takes long; missing: all.
    """
    for name, way in ways.items():
        chosen = utterances[: most.get(name, len(utterances))]
        found = [(one, way.find(one)) for one in chosen]
        if name == "hybrid" or not way.evidence:
            yield name, quality(database, found, margin if way.evidence else -math.inf)
        else:
            yield name, quality(database, found, precision=precision)


def _letters(phonemes: Iterable[int]) -> str:
    return "".join(map(chr, phonemes))
