"""The hotwords of one session or user: some names in memory, beside a big database that is not built anew for them.

A list may live in a file: a names.tsv (`kit.retrieval.names`) in which a line that begins with "-" and a tab hides the
name behind it, in the big database, too. Of several lines about one name the last one counts.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from kit.errors import KitError, UsageError
from kit.files import held, write_text
from kit.retrieval.lexicon import Entry, Lexicon, MemoryLexicon
from kit.retrieval.names import BadLines, BadName, Name, check_inventory, make_name, read_columns, unpronounceable
from kit.retrieval.sounds import Sounds, sounds_of
from kit.text.normalize import normalize, printable
from kit.text.phonemes import PhonemeInventory

if TYPE_CHECKING:
    import daachorse

HIDE = "-"  # in place of a name: the one in the next column is hidden

_versions = itertools.count(1)  # those of two lists differ as well


class PersonalList(Lexicon):
    """Names that come and go while others search; who needs several answers that agree asks a `snapshot`.

    Args:
        inventory: of the model.

    Attributes:
        hidden: normalized texts that are not wanted as hints, whichever lexicon has them.

    Raises:
        KitError: the inventory has no phonemes.
    """

    def __init__(self, inventory: PhonemeInventory) -> None:
        check_inventory(inventory)
        self.inventory = inventory
        self.hidden: frozenset[str] = frozenset()
        self._names: dict[str, tuple[Entry, Sounds]] = {}
        self._changing = threading.Lock()
        self._renew()

    @classmethod
    def load(cls, path: str | Path, inventory: PhonemeInventory) -> Self:
        """The list in a file; bad lines are told on standard error and left out.

        Raises:
            UsageError: the file cannot be read.
        """
        found, bad = cls(inventory), BadLines(path)
        wanted: dict[str, Name | None] = {}  # None: hidden
        for number, (text, kind, weight, sounds) in read_columns(path, bad):
            if text.strip() == HIDE:
                wanted[_key(kind)] = None
                continue
            try:
                wanted[_key(text)] = make_name(inventory, text, kind, weight, sounds, number)
            except BadName as error:
                bad.add(number, error)
        found._take(wanted, bad)
        bad.tell()
        return found

    def add(self, *names: Name) -> None:
        """Take names in, in place of those of the same text; all or none. What was hidden is no longer.

        Raises:
            BadName: nobody can tell how one is pronounced.
        """
        sounds = self._sounds(names)
        for name, found in zip(names, sounds, strict=True):
            if not found:
                raise unpronounceable(name)
        self._put(zip(names, sounds, strict=True))

    def remove(self, text: str) -> None:
        """Take a name out, and hide it where other lexicons have it."""
        with self._changing:
            self._names.pop(_key(text), None)
            self.hidden |= {_key(text)} - {""}
            self._renew()

    def copy(self) -> Self:
        """Another list of the names of now, to go its own way."""
        other = type(self)(self.inventory)
        with self._changing:
            other._names, other.hidden = dict(self._names), self.hidden
            other._go_by(self._lexicon)
        return other

    def snapshot(self) -> MemoryLexicon:
        """The names of now, which stay as they are."""
        return self._lexicon

    def entries(self, key: int) -> list[Entry]:
        """The names that sound so, by falling weight, then by their text."""
        return self._lexicon.entries(key)

    def phonemes(self, key: int) -> bytes:
        """The string: numbers in the phoneme inventory, a byte each."""
        return self._lexicon.phonemes(key)

    @property
    def automaton(self) -> daachorse.DoubleArrayAhoCorasick:
        """Finds all strings in `bytes` of phonemes at once; what it answers with are the keys."""
        return self._lexicon.automaton

    def _take(self, wanted: Mapping[str, Name | None], bad: BadLines) -> None:
        """Add all at once but those that nobody can pronounce, and hide the others."""
        names = [name for name in wanted.values() if name is not None]
        pronounced = list(zip(names, self._sounds(names), strict=True))
        for name, sounds in pronounced:
            if not sounds:
                bad.add(name.line, unpronounceable(name))
        self._put((name, sounds) for name, sounds in pronounced if sounds)
        self.hidden = frozenset(key for key, name in wanted.items() if name is None) - {""}

    def _put(self, names: Iterable[tuple[Name, Sounds]]) -> None:
        with self._changing:
            for name, sounds in names:
                self._names[_key(name.text)] = (Entry(name.text, name.kind, name.weight), sounds)
                self.hidden -= {_key(name.text)}
            self._renew()

    def _sounds(self, names: Sequence[Name]) -> list[Sounds]:
        by_rule = iter(sounds_of([name.text for name in names if not name.pronunciations], self.inventory))
        return [list(name.pronunciations) or next(by_rule) for name in names]

    def _renew(self) -> None:
        sounds: dict[bytes, list[Entry]] = {}
        for entry, found in self._names.values():
            for sound in found:
                sounds.setdefault(sound, []).append(entry)
        self._go_by(MemoryLexicon(sounds, f"personal-{next(_versions)}"))

    def _go_by(self, lexicon: MemoryLexicon) -> None:
        self._lexicon = lexicon
        self.version, self.keys, self.longest = lexicon.version, lexicon.keys, lexicon.longest


def add_to_file(
    path: str | Path, inventory: PhonemeInventory, text: str, kind: str = "", weight: str = "", sounds: str = ""
) -> Sounds:
    """Put a name into the list in a file, in place of other lines about it; how it is pronounced.

    Args:
        text, kind, weight, sounds: as in the columns of a line.

    Raises:
        BadName: it cannot be a hotword.
        KitError: the file cannot be read or written.
    """
    name = make_name(inventory, text, kind, weight, sounds)
    if name.text == HIDE:
        raise BadName("empty", f"a name cannot be {HIDE}: in a list it hides the name behind it")
    found = list(name.pronunciations) or sounds_of([name.text], inventory)[0]
    if not found:
        raise unpronounceable(name)
    line = "\t".join(map(printable, (text, kind, weight, sounds)))
    _replace_line(Path(path), _key(name.text), line.rstrip("\t"))
    return found


def remove_from_file(path: str | Path, text: str) -> None:
    """Hide a name by the list in a file, in place of other lines about it.

    Raises:
        BadName: there is no name.
        KitError: the file cannot be read or written.
    """
    if not _key(text):
        raise BadName("empty", "there is no name")
    _replace_line(Path(path), _key(text), f"{HIDE}\t{printable(text)}")


def _replace_line(path: Path, key: str, line: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with held(path.parent, wait=True):  # of two who change the list neither loses what the other one wrote
            lines = path.read_text("utf-8-sig").split("\n") if path.exists() else []
            kept = [old for old in lines if old.strip() and _key_of_line(old) != key]
            write_text(path, "".join(f"{one}\n" for one in [*kept, line]))
    except OSError as error:
        raise KitError(f"cannot change {path}: {error.strerror}; name a file that you may write") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no UTF-8 text; name a list of hotwords, a name a line") from error


def _key_of_line(line: str) -> str:
    columns = line.split("\t")
    return _key(columns[1] if columns[0].strip() == HIDE and len(columns) > 1 else columns[0])


def _key(text: str) -> str:
    """By what two texts are the same name."""
    return normalize(text) or printable(text)
