"""Millions of hotwords by their sound, on disk; docs/hotwords.md has the format byte by byte.

<folder>/manifest.json     names the folder of the current data and has the checksums of its files
<folder>/<build>/          the data, memory mapped; never changed once it is there

A rebuild puts new data beside the old and then replaces the manifest, so a reader finds the one or the other. A process
that has the old data open keeps it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kit.errors import KitError
from kit.files import held
from kit.progress import say
from kit.retrieval import manifest as manifests
from kit.retrieval.arrays import read_array
from kit.retrieval.lexicon import Entry, Lexicon
from kit.retrieval.manifest import Manifest, damaged
from kit.retrieval.names import check_inventory
from kit.text.phonemes import PhonemeInventory

if TYPE_CHECKING:
    import daachorse

    from kit.retrieval.dense import DenseIndex

__all__ = ["Database", "Entry", "Lexicon", "Shared"]

AUTOMATON, KINDS, PHONEMES = "automaton.bin", "kinds.txt", "phonemes.json"
# The arrays, each in a .npy file; starts and ends of n things are n + 1 numbers.
ARRAYS = {
    "strings": np.uint8,  # all phoneme strings behind one another, sorted
    "starts": np.int64,  # of the strings
    "texts": np.uint8,  # all names in UTF-8 behind one another, sorted
    "text_starts": np.int64,
    "weights": np.float64,  # of the names
    "kinds": np.uint32,  # of the names: lines of kinds.txt
    "own": np.bool_,  # whether the list itself said how the name is pronounced
    "members": np.uint32,  # names by the string they sound like, by falling weight
    "member_starts": np.int64,
}
_SAMPLES = 64  # strings that an automaton is tried with


class Database(Lexicon):
    """A hotword database that is open for reading.

    Args:
        data: the folder of its files.
        manifest: what they must be like.
        inventory: the model's; None takes the database's own for granted.

    Attributes:
        folder: of this version's files.
        inventory: what the phoneme numbers mean.
        strings, starts: (N,) uint8 and (keys + 1,) int64; key k is strings[starts[k] : starts[k + 1]].

    Raises:
        KitError: a file is missing, damaged or foreign; it is named.
    """

    def __init__(self, data: Path, manifest: Manifest, inventory: PhonemeInventory | None = None) -> None:
        self.folder, self.manifest = data, manifest
        self.version, self.keys = manifest.build, manifest.keys
        if inventory is not None:
            manifest.check_inventory(data.parent, inventory)
        self.inventory = PhonemeInventory.load(self.verified(PHONEMES))
        manifest.check_inventory(data.parent, self.inventory)
        check_inventory(self.inventory)
        for name, kind in ARRAYS.items():
            setattr(self, name, self._array(name, kind))
        self.kind_names = self._kind_names()
        self._check_numbers()
        self.longest = int(np.diff(self.starts).max())
        self._automaton = self._load_automaton()
        self._indexes: dict[str, DenseIndex] = {}

    strings: NDArray[np.uint8]
    starts: NDArray[np.int64]
    texts: NDArray[np.uint8]
    text_starts: NDArray[np.int64]
    weights: NDArray[np.float64]
    kinds: NDArray[np.uint32]
    own: NDArray[np.bool_]
    members: NDArray[np.uint32]
    member_starts: NDArray[np.int64]

    @classmethod
    def open(cls, folder: str | Path, inventory: PhonemeInventory | None = None) -> Database:
        """The current data of a database.

        Raises:
            UsageError: `folder` is no database.
            KitError: it is damaged, of a newer kit, or was built with another inventory; what is wrong is named.
        """
        folder = Path(folder)
        while True:
            manifest = Manifest.read(folder)
            try:
                return cls(folder / manifest.build, manifest, inventory)
            except KitError:
                if Manifest.read(folder).build == manifest.build:
                    raise
                # It was replaced, and the old data removed, between the two looks.

    @property
    def automaton(self) -> daachorse.DoubleArrayAhoCorasick:
        """Finds all strings in `bytes` of phonemes at once; what it answers with are the keys."""
        return self._automaton

    def dense(self, device: str = "cpu") -> DenseIndex:
        """The index for names that sound alike, opened at the first call.

        Raises:
            KitError: there is none, or it is damaged.
        """
        if device not in self._indexes:
            from kit.retrieval.dense import DenseIndex  # FAISS takes a while to load

            self._indexes[device] = DenseIndex.open(self, device)
        return self._indexes[device]

    def open_as(self, other: Database) -> None:
        """Open what is open of another version.

        Raises:
            KitError: this one does not have it.
        """
        for device in other._indexes:
            self.dense(device)

    def phonemes(self, key: int) -> bytes:
        """The string: numbers in the phoneme inventory, a byte each."""
        return self.strings[self.starts[key] : self.starts[key + 1]].tobytes()

    def entries(self, key: int) -> list[Entry]:
        """The names that sound so, by falling weight, then by their text."""
        return [self.entry(name) for name in self.members[self.member_starts[key] : self.member_starts[key + 1]]]

    def entry(self, name: int) -> Entry:
        """A name by its place in the order of the texts."""
        return Entry(self.text(name), self.kind_names[self.kinds[name]], float(self.weights[name]))

    def text(self, name: int) -> str:
        """The text of a name by its place."""
        return self.texts[self.text_starts[name] : self.text_starts[name + 1]].tobytes().decode("utf-8", "replace")

    def sounds(self) -> Iterator[tuple[str, list[bytes]]]:
        """All names in order, each with the strings that it is found by."""
        owners = np.repeat(np.arange(self.keys), np.diff(self.member_starts))
        order = np.argsort(self.members, kind="stable")
        keys, ends = owners[order].tolist(), np.cumsum(np.bincount(self.members, minlength=len(self.weights))).tolist()
        strings, starts = self.strings.tobytes(), self.starts.tolist()
        texts, text_starts = self.texts.tobytes(), self.text_starts.tolist()
        begin = 0
        for name, end in enumerate(ends):
            text = texts[text_starts[name] : text_starts[name + 1]].decode("utf-8", "replace")
            yield text, [strings[starts[key] : starts[key + 1]] for key in keys[begin:end]]
            begin = end

    def verified(self, name: str) -> Path:
        """The path of one of its files, which is whole.

        Raises:
            KitError: it is missing, torn or damaged.
        """
        return self.manifest.check(self.folder, name)

    def seal(self, *names: str) -> None:
        """Take files that were added to the folder, or replaced in it, into the manifest.

        Raises:
            KitError: the database was built anew meanwhile, or the manifest cannot be written.
        """
        home = self.folder.parent
        with held(home, wait=True):
            if Manifest.read(home).build != self.version:
                raise KitError(f"{home} was built anew meanwhile; repeat the command")
            self.manifest = Manifest.read(home).sealed(self.folder, names)
            self.manifest.write(home)

    def _array(self, name: str, kind: Any) -> NDArray[Any]:
        path = self.verified(f"{name}.npy")
        found = read_array(path, kind)
        if found.ndim != 1:
            raise damaged(path)
        return found

    def _kind_names(self) -> list[str]:
        path = self.verified(KINDS)
        try:
            return path.read_text("utf-8").split("\n")
        except ValueError as error:
            raise damaged(path) from error

    def _check_numbers(self) -> None:
        """No number may lead out of its array, whoever wrote it."""
        names, keys = len(self.weights), self.keys
        right = {
            "starts": _cuts(self.starts, keys, len(self.strings)),
            "text_starts": _cuts(self.text_starts, names, len(self.texts)),
            "member_starts": _cuts(self.member_starts, keys, len(self.members)),
            "strings": bool(self.strings.all() and self.strings.max(initial=0) < len(self.inventory)),
            "members": bool(self.members.max(initial=0) < names),
            "kinds": len(self.kinds) == names and bool(self.kinds.max(initial=0) < len(self.kind_names)),
            "own": len(self.own) == names,
            "weights": names == self.manifest.names and bool(np.isfinite(self.weights).all()),
        }
        for name, is_right in right.items():
            if not is_right:
                raise damaged(self.folder / f"{name}.npy")

    def _load_automaton(self) -> daachorse.DoubleArrayAhoCorasick:
        import daachorse

        try:
            found = daachorse.DoubleArrayAhoCorasick.deserialize(self.verified(AUTOMATON).read_bytes())
        except ValueError as error:
            raise damaged(self.folder / AUTOMATON) from error
        for key in np.linspace(0, self.keys - 1, min(_SAMPLES, self.keys)).astype(int).tolist():
            string = self.phonemes(key)
            if (0, len(string), key) not in found.find_overlapping(string):
                raise damaged(self.folder / AUTOMATON)
        return found


def _cuts(starts: NDArray[np.int64], parts: int, total: int) -> bool:
    """Whether `starts` cuts `total` things into so many parts, none of them empty."""
    right = len(starts) == parts + 1 and starts[0] == 0 and starts[-1] == total
    return bool(right and (starts[:-1] < starts[1:]).all())  # a difference might overflow


class Shared:
    """A database that may be built anew while it is used. `Shared.of` gives one for a folder and process.

    Raises:
        KitError: as in `Database.open`.
    """

    _known: ClassVar[dict[tuple[Path, str], Shared]] = {}
    _opening = threading.Lock()

    def __init__(self, folder: str | Path, inventory: PhonemeInventory | None = None) -> None:
        self.folder, self._inventory = Path(folder), inventory
        self._seen = self._look()
        self._database = Database.open(folder, inventory)
        self._busy = threading.Lock()

    @classmethod
    def of(cls, folder: str | Path, inventory: PhonemeInventory | None = None) -> Shared:
        """The one that this process has for a folder; opened at the first call."""
        place = (Path(folder).resolve(), inventory.digest if inventory else "")
        with cls._opening:
            if place not in cls._known:
                cls._known[place] = cls(folder, inventory)
            return cls._known[place]

    def current(self) -> Database:
        """The newest version that is ready. Costs a look at the manifest; a new one is opened in a thread meanwhile."""
        if self._look() != self._seen and self._busy.acquire(blocking=False):
            threading.Thread(target=self._reopen, name="hotwords", daemon=True).start()
        return self._database

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self.folder / manifests.FILE)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _reopen(self) -> None:
        try:
            seen = self._look()
            try:
                fresh = Database.open(self.folder, self._inventory)
                fresh.open_as(self._database)
                self._database = fresh
            except KitError as error:
                say(f"kit: {error}; the version before stays in use")
            self._seen = seen
        finally:
            self._busy.release()
