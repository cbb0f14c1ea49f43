"""names.tsv: a hotword a line, UTF-8, plain or gzipped: text, and if wanted kind, weight and pronunciations.

    text<TAB>kind<TAB>weight<TAB>phonemes separated by spaces, several pronunciations by |

What can be read of a list is taken; bad lines are told by their number on standard error and counted.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import BinaryIO, cast

from kit.errors import KitError, UsageError
from kit.progress import say
from kit.text.normalize import HAN, normalize, printable
from kit.text.phonemes import BLANK, PhonemeInventory

LONGEST = 100  # characters of a name
MOST_PHONEMES = 255  # of a pronunciation
MOST_SYMBOLS = 255  # of an inventory: a phoneme is kept in a byte
COLUMNS = 4
TOLD = 10  # bad lines of one kind that are told in full

_LONGEST_LINE = 1 << 16  # bytes; a file without line ends must not fill the memory
_UNUSUAL = re.compile(rf"[^\x00-\x7f{HAN}]")
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Name:
    """What a list says of a hotword.

    Attributes:
        text, kind, weight: as in `kit.retrieval.lexicon.Entry`.
        pronunciations: own ones, as phoneme numbers of the inventory, a byte each; none: by the rules.
        line: of the file; 0 where there is none.
    """

    text: str
    kind: str = ""
    weight: float = 1.0
    pronunciations: tuple[bytes, ...] = ()
    line: int = 0


class BadName(KitError):
    """A name that cannot be a hotword; `reason` is a word for its kind of mistake."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class BadLines:
    """The lines of a list that are left out: the first of each kind are told, all are counted.

    Attributes:
        counts: reason -> lines.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.counts: Counter[str] = Counter()

    def add(self, line: int, error: BadName) -> None:
        """Tell and count one."""
        self.counts[error.reason] += 1
        if self.counts[error.reason] <= TOLD:
            say(f"{self.path}, line {line}: {error}; left out")

    def tell(self) -> None:
        """Say how many there were, if there were any."""
        if self.counts:
            kinds = ", ".join(f"{reason} {count}" for reason, count in sorted(self.counts.items()))
            say(f"{self.path}: {self.counts.total()} lines left out ({kinds})")


def check_inventory(inventory: PhonemeInventory) -> None:
    """Raises KitError unless hotwords can be kept in these symbols."""
    if inventory.kind != "phonemes" or len(inventory) > MOST_SYMBOLS:
        raise KitError(
            f"hotwords are found by their phonemes, of at most {MOST_SYMBOLS} kinds, but the labels here are "
            f"{len(inventory)} {inventory.kind}; take a model with model.labels=phonemes"
        )


def check_readable(path: str | Path) -> None:
    """Raises UsageError if a list cannot be read, so that a build fails before it has begun."""
    next(_lines(path), None)


def make_name(
    inventory: PhonemeInventory, text: str, kind: str = "", weight: str = "", sounds: str = "", line: int = 0
) -> Name:
    """A name from what a person wrote in the columns of a line.

    Raises:
        BadName: it cannot be a hotword.
    """
    text = printable(text)
    if not text:
        raise BadName("empty", "there is no name")
    if len(text) > LONGEST:
        raise BadName("length", f"the name {text[:20]!r}... has {len(text)} characters, at most {LONGEST} are taken")
    pronunciations = _pronunciations(inventory, sounds) if sounds else ()
    if not pronunciations and (foreign := foreign_letter(text)):
        raise BadName("sound", f"nobody can tell how the letter {foreign} of {text!r} is pronounced; give its phonemes")
    return Name(text, _kind(kind), _weight(weight), pronunciations, line)


_kind = lru_cache(maxsize=1 << 10)(printable)  # there are but a few


def unpronounceable(name: Name) -> BadName:
    """What is wrong with a name for which the rules find no phonemes, or too many."""
    return BadName("sound", f"nobody can tell how {name.text!r} is pronounced; give its phonemes in the fourth column")


def foreign_letter(text: str) -> str:
    """A letter that normalization drops, so that the rules would pronounce only a part of the name; "" if none."""
    return next(filter(_is_dropped, _UNUSUAL.findall(text)), "")


@cache
def _is_dropped(character: str) -> bool:
    return character.isalpha() and not "\u02b0" <= character <= "\u02ff" and not normalize(character)


def _weight(written: str) -> float:
    if not written or written.isspace():
        return 1.0
    try:
        weight = float(written)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise BadName("weight", f"the weight {written.strip()[:20]!r} is no number from 0 up")
    return weight


def _pronunciations(inventory: PhonemeInventory, written: str) -> tuple[bytes, ...]:
    found = []
    for sounds in filter(str.strip, written.split("|")):
        symbols = sounds.split()
        if BLANK in symbols or len(symbols) > MOST_PHONEMES:
            raise BadName("phonemes", f"a pronunciation is 1 to {MOST_PHONEMES} phonemes, and {BLANK} is none of them")
        try:
            found.append(bytes(inventory.encode(symbols)))
        except KitError:
            unknown = next(symbol for symbol in symbols if symbol not in inventory.symbols)
            raise BadName("phonemes", f"the inventory has no phoneme {unknown[:20]!r}") from None
    return tuple(dict.fromkeys(found))


def read_names(path: str | Path, inventory: PhonemeInventory, bad: BadLines) -> Iterator[Name]:
    """The names of a file, line by line; bad lines are told to `bad`, empty ones count for nothing.

    Raises:
        UsageError: the file cannot be read.
    """
    for number, (text, kind, weight, sounds) in read_columns(path, bad):
        try:
            yield make_name(inventory, text, kind, weight, sounds, number)
        except BadName as error:
            bad.add(number, error)


def read_columns(path: str | Path, bad: BadLines) -> Iterator[tuple[int, list[str]]]:
    """(number from 1, the COLUMNS) of every line that is not empty.

    Raises:
        UsageError: the file cannot be read.
    """
    for number, line in _lines(path):
        try:
            columns = _columns(line)
        except BadName as error:
            bad.add(number, error)
        else:
            if columns:
                yield number, columns


def _columns(line: bytes) -> list[str]:
    if len(line) >= _LONGEST_LINE:
        raise BadName("length", f"the line has {_LONGEST_LINE} bytes or more")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise BadName("encoding", "the line is no UTF-8 text") from None
    if "\0" in text:
        raise BadName("encoding", "the line is no UTF-8 text, but perhaps UTF-16")
    columns = text.strip("\r\n\ufeff").split("\t")
    if len(columns) > COLUMNS:
        raise BadName("columns", f"the line has {len(columns)} columns, at most {COLUMNS} are known")
    return [] if not text or text.isspace() else columns + [""] * (COLUMNS - len(columns))


def _lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) of a plain or gzipped file; a line that is too long is cut."""
    try:
        with open(path, "rb") as plain:
            zipped = plain.peek(2)[:2] == _GZIP
            file = cast(BinaryIO, gzip.GzipFile(fileobj=plain)) if zipped else plain
            yield from enumerate(_cut_lines(file.readline), 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read the names {path}: {reason}; give a text file, a name a line") from error


def _cut_lines(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while line := read(_LONGEST_LINE):
        rest = line
        while len(rest) == _LONGEST_LINE and not rest.endswith(b"\n"):
            rest = read(_LONGEST_LINE)
        yield line


def merged(names: Iterable[Name]) -> dict[str, Name]:
    """text -> name: of several with one text the one with the highest weight, with the pronunciations of all."""
    found: dict[str, Name] = {}
    for name in names:
        other = found.setdefault(name.text, name)
        if other is not name:
            best = name if name.weight > other.weight else other
            sounds = tuple(dict.fromkeys(other.pronunciations + name.pronunciations))
            found[name.text] = replace(best, pronunciations=sounds)
    return found
