"""manifest.json of a hotword database: which version of the data is the current one, and what its files are like."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kit.errors import KitError, UsageError
from kit.files import write_text
from kit.text.phonemes import PhonemeInventory

FILE = "manifest.json"
FORMAT = "nim4-kit hotwords"
VERSION = 1
REBUILD = "build it again with python -m kit hotwords build NAMES out={}"

_CHUNK = 1 << 22


@dataclass(frozen=True)
class Manifest:
    """What the file says.

    Attributes:
        build: name of the folder with the data, another one for each build.
        created: date and time, UTC.
        inventory: kind, digest and number of the symbols that the phoneme numbers are of.
        rules: digest of what pronounces names; pronunciations by other rules are not used again.
        names, keys, pronunciations: different texts, different phoneme strings, pairs of both.
        refused: reason -> lines of the list that were left out.
        files: name -> {"size": bytes, "crc32": eight hexadecimal digits} of every file in the folder.
    """

    build: str
    created: str
    inventory: Mapping[str, Any]
    rules: str
    names: int
    keys: int
    pronunciations: int
    refused: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a database.

        Raises:
            UsageError: `folder` is no database.
            KitError: the manifest is damaged, or of a newer kit.
        """
        path = folder / FILE
        try:
            content = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise UsageError(
                f"{folder} is no hotword database: {FILE} cannot be read ({error.strerror}); " + REBUILD.format(folder)
            ) from error
        except ValueError as error:
            raise KitError(f"{path} is damaged: it is no JSON; " + REBUILD.format(folder)) from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise UsageError(f"{path} is not the manifest of a hotword database; name another folder")
        if content.get("version") != VERSION:
            raise KitError(
                f"{path} is of format version {content.get('version')}, this kit knows {VERSION}; "
                "update the kit, or " + REBUILD.format(folder)
            )
        return cls._checked(path, content)

    @classmethod
    def _checked(cls, path: Path, content: dict[str, Any]) -> Manifest:
        try:
            found = cls(**{key: content[key] for key in cls.__dataclass_fields__})
            numbers = (found.names, found.keys, found.pronunciations, found.inventory["symbols"])
            texts = (found.build, found.created, found.rules, found.inventory["kind"], found.inventory["digest"])
            files = [(name, file["size"], file["crc32"]) for name, file in found.files.items()]
            right = all(type(number) is int and number > 0 for number in numbers)
            right &= all(isinstance(text, str) for text in texts)
            right &= all(_is_plain(name) for name in (found.build, *found.files))
            right &= all(type(size) is int and isinstance(crc, str) for _, size, crc in files)
        except (KeyError, TypeError, AttributeError):
            right = False
        if not right:
            raise KitError(f"{path} is damaged: a value is missing or wrong; " + REBUILD.format(path.parent))
        return found

    def write(self, folder: Path) -> None:
        """Make this the manifest of a database; the file appears whole or not at all."""
        write_text(folder / FILE, json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1) + "\n")

    def sealed(self, data: Path, names: Iterable[str]) -> Manifest:
        """With the sizes and checksums of these files in `data`, which are on the disk then."""
        files = {**self.files, **{name: _describe(data / name) for name in names}}
        return replace(self, files=dict(sorted(files.items())))

    def check(self, data: Path, name: str) -> Path:
        """The path of a file in `data` that is as it was when it was written.

        Raises:
            KitError: it is not.
        """
        path = data / name
        rebuild = REBUILD.format(data.parent)
        if name not in self.files:
            raise KitError(f"the hotword database {data.parent} has no {name}; " + rebuild)
        try:
            size = path.stat().st_size
            if size != self.files[name]["size"]:
                raise KitError(f"{path} is torn: it has {size} of {self.files[name]['size']} bytes; " + rebuild)
            if checksum(path) != self.files[name]["crc32"]:
                raise KitError(f"{path} is damaged: its checksum is not that of {FILE}; " + rebuild)
        except OSError as error:
            raise KitError(f"cannot read {path}: {error.strerror}; " + rebuild) from error
        return path

    def check_inventory(self, folder: Path, inventory: PhonemeInventory) -> None:
        """Raises KitError if the phoneme numbers mean something else in `inventory`."""
        if self.inventory["digest"] != inventory.digest:
            raise KitError(
                f"the hotword database {folder} was built with another phoneme inventory "
                f"({self.inventory['symbols']} symbols) than the model's ({len(inventory)}); " + REBUILD.format(folder)
            )


def describe(inventory: PhonemeInventory) -> dict[str, Any]:
    """An inventory as the manifest names it."""
    return {"kind": inventory.kind, "digest": inventory.digest, "symbols": len(inventory)}


def damaged(path: Path) -> KitError:
    """What to raise where a file in the data of a database holds what it cannot."""
    return KitError(f"{path} is damaged; " + REBUILD.format(path.parent.parent))


def checksum(path: Path) -> str:
    """CRC-32 of a file. It tells damage, not malice: the numbers in the files are checked beside."""
    crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return f"{crc:08x}"


def _describe(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return {"size": path.stat().st_size, "crc32": checksum(path)}


def _is_plain(name: str) -> bool:
    """Whether a name cannot lead out of the folder."""
    return name == Path(name).name and not name.startswith(".")
