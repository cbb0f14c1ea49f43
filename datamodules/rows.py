"""Manifests of any size: a line of JSON an utterance on disk, an index in memory, a Lhotse cut when one is asked for.

A million utterances held as Lhotse cuts take gigabytes; here they take 12 bytes each.
"""

from __future__ import annotations

import gzip
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from lhotse import AudioSource, CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.serialization import deserialize_item
from lhotse.utils import fastcopy
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from datamodules.sources import Member, Shelf
from kit.errors import KitError
from kit.files import folder_once, write_atomic

ROWS, INDEX, ABOUT = "rows.jsonl", "index.safetensors", "about.json"
EAGER = 50_000  # utterances up to which all cuts of a part are held in memory; more are made when they are wanted


class Rows(Sequence[MonoCut]):
    """The utterances of a folder that `RowWriter` made, as Lhotse cuts that are made anew whenever asked for.

    Args:
        folder: with rows.jsonl, index.safetensors and about.json.
        shelf: for archives that lie elsewhere.

    Attributes:
        durations: (n,) seconds, float32.
        shards: (n,) the archive that each lies in; None where there are no archives.

    Raises:
        KitError: the folder is not whole.
    """

    def __init__(self, folder: str | Path, shelf: Shelf | None = None) -> None:
        self.folder, self.shelf = Path(folder), shelf
        try:
            index = load_file(self.folder / INDEX)
            self.about: dict[str, Any] = json.loads((self.folder / ABOUT).read_text("utf-8"))
            self.offsets: np.ndarray = index["offsets"].numpy()
            self.durations: torch.Tensor = index["durations"]
            self.shards: torch.Tensor | None = index.get("shards")
            self._open()
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise KitError(f"the manifest {self.folder} is damaged ({error}); delete it and make it again") from error

    def _open(self) -> None:
        self._file = open(self.folder / ROWS, "rb")  # noqa: SIM115  # for as long as the rows are wanted

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_file"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, place: int) -> MonoCut: ...
    @overload
    def __getitem__(self, place: slice) -> list[MonoCut]: ...
    def __getitem__(self, place: int | slice) -> MonoCut | list[MonoCut]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place %= len(self)
        start, end = int(self.offsets[place]), int(self.offsets[place + 1])
        return self._cut(place, os.pread(self._file.fileno(), end - start, start))

    def __iter__(self) -> Iterator[MonoCut]:
        with open(self.folder / ROWS, "rb") as file:
            for place, line in enumerate(file):
                yield self._cut(place, line)

    def _cut(self, place: int, line: bytes) -> MonoCut:
        row = json.loads(line)
        if "recording" not in row:
            return cut_of_row(row)
        cut = deserialize_item(row)
        if self.shards is not None:
            archive = self.about["archives"][int(self.shards[place])]
            source = Member(type="file", channels=[0], source=archive, member=cut.id, shelf=self.shelf)
            cut.recording.sources = [source]
        return cut


def cut_of_row(row: Mapping[str, Any]) -> MonoCut:
    """The cut of an utterance: id, audio (a path), text, language; where known start and duration in seconds (of the
    utterance), rate and samples (of the recording), speaker, entities.
    """
    name, rate, samples = row["id"], row["rate"], row["samples"]
    start, whole = row.get("start", 0.0), samples / rate
    duration = row.get("duration", whole)
    source = AudioSource(type="file", channels=[0], source=row["audio"])
    recording = Recording(name, [source], rate, samples, whole, channel_ids=[0])
    custom = {key: row[key] for key in ("entities", "domain") if key in row}
    said = SupervisionSegment(
        id=name,
        recording_id=name,
        start=0.0,
        duration=duration,
        text=row["text"],
        language=row["language"],
        speaker=row.get("speaker"),
        custom=custom or None,
    )
    return MonoCut(id=name, start=start, duration=duration, channel=0, recording=recording, supervisions=[said])


class RowWriter:
    """Writes the utterances of a folder in the order in which they come; close it to have the index.

    Args:
        folder: exists, and is empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds = 0.0
        self._file = open(folder / ROWS, "wb")  # noqa: SIM115  # closed by `close`
        self._offsets, self._durations = array("q", [0]), array("f")
        self._shards, self._names = array("i"), array("Q")

    def __len__(self) -> int:
        return len(self._durations)

    def write(self, row: Mapping[str, Any], duration: float, shard: int | None = None) -> None:
        """Add an utterance.

        Args:
            row: as `cut_of_row` takes it, or a whole Lhotse cut as a mapping.
            duration: seconds.
            shard: number of the archive that it lies in.
        """
        line = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n").encode()
        self._file.write(line)
        self._offsets.append(self._offsets[-1] + len(line))
        self._durations.append(duration)
        self._names.append(int.from_bytes(blake2b(str(row["id"]).encode(), digest_size=8).digest(), "little"))
        self.seconds += duration
        if shard is not None:
            self._shards.append(shard)

    def twice(self) -> list[int]:
        """Places of the utterances whose id an earlier one has."""
        names = np.frombuffer(self._names, dtype=np.uint64)
        first = np.unique(names, return_index=True)[1]
        return np.setdiff1d(np.arange(len(names)), first).tolist()

    def close(self, **about: Any) -> None:
        """Write the index, and what is to be known of the utterances as a whole."""
        self._file.close()
        tensors = {
            "offsets": torch.frombuffer(self._offsets, dtype=torch.int64),
            "durations": _tensor(self._durations, torch.float32),
        }
        if self._shards:
            tensors["shards"] = torch.frombuffer(self._shards, dtype=torch.int32)
        write_atomic(self.folder / INDEX, lambda file: file.write(save(tensors)))
        told = json.dumps({"utterances": len(self), "seconds": round(self.seconds, 3), **about}, ensure_ascii=False)
        write_atomic(self.folder / ABOUT, lambda file: file.write(told.encode()))


def _tensor(values: array, kind: torch.dtype) -> torch.Tensor:
    return torch.frombuffer(values, dtype=kind) if len(values) else torch.zeros(0, dtype=kind)


def kept_rows(
    folder: Path,
    rows: Iterable[tuple[Mapping[str, Any], float, int | None]],
    shelf: Shelf | None = None,
    about: Mapping[str, Any] | None = None,
) -> Rows:
    """Write (row, seconds, shard) to a folder, unless it is there, and open it.

    Args:
        about: what to know of them later, looked at when the last is written; their `source` for messages.

    Raises:
        KitError: two rows have one id, `rows` fails, or the folder cannot be written.
    """

    def fill(temporary: Path) -> None:
        writer = RowWriter(temporary)
        for row, duration, shard in rows:
            writer.write(row, duration, shard)
        writer.close(**(about or {}))
        if again := writer.twice():
            name = Rows(temporary)[again[0]].id
            many = f"{len(again)} ids come" if len(again) > 1 else "an id comes"
            source = (about or {}).get("source", folder)
            raise KitError(f"{source}: {many} twice, such as {name}; give each utterance an id of its own")

    folder_once(folder, fill)
    return Rows(folder, shelf)


def as_cuts(rows: Sequence[MonoCut]) -> CutSet:
    """The utterances as a CutSet: held in memory if they are few, made when wanted if not."""
    return CutSet.from_cuts(rows) if len(rows) <= EAGER else CutSet(rows)


def subset(cuts: CutSet, places: Sequence[int]) -> CutSet:
    """The cuts at these places; made when wanted if `cuts` are."""
    if cuts.is_lazy:
        return CutSet(Picked(cuts.data, np.array(places, dtype=np.int64)))
    return CutSet.from_cuts(cuts[place] for place in places)


class Picked(Sequence[MonoCut]):
    """Some of many utterances, by their places, in an order of their own, some perhaps more than once."""

    def __init__(self, cuts: Sequence[MonoCut], places: np.ndarray) -> None:
        self.cuts, self.places = cuts, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: Any) -> Any:
        return self.cuts[int(self.places[place])]

    def __iter__(self) -> Iterator[MonoCut]:
        return (self.cuts[int(place)] for place in self.places)


class Chained(Sequence[MonoCut]):
    """Several sequences of utterances, one behind the other.

    Args:
        members: by name.
        rename: put the name in front of the ids of its utterances, which may be those of others.
    """

    def __init__(self, members: Mapping[str, Sequence[MonoCut]], rename: bool = True) -> None:
        self.members, self._rename = list(members.items()), rename
        self.ends = np.cumsum([len(cuts) for cuts in members.values()])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, place: Any) -> Any:
        owner = int(np.searchsorted(self.ends, place, side="right"))
        name, cuts = self.members[owner]
        return self._named(cuts[place - (int(self.ends[owner - 1]) if owner else 0)], name)

    def __iter__(self) -> Iterator[MonoCut]:
        return (self._named(cut, name) for name, cuts in self.members for cut in cuts)

    def _named(self, cut: MonoCut, owner: str) -> MonoCut:
        return renamed(cut, owner) if self._rename else cut


def renamed(cut: MonoCut, owner: str) -> MonoCut:
    """The cut under the id OWNER/ID; its recording and supervisions keep theirs."""
    return fastcopy(cut, id=f"{owner}/{cut.id}")


def durations(cuts: CutSet) -> torch.Tensor:
    """(n,) seconds of each cut in double precision; of many without making them."""
    data = cuts.data
    if isinstance(data, Rows):
        return data.durations.double()
    if isinstance(data, Chained):
        return torch.cat([durations(CutSet(one)) for _, one in data.members])
    if isinstance(data, Picked):
        return durations(CutSet(data.cuts))[data.places]
    return torch.tensor([cut.duration for cut in cuts], dtype=torch.float64)


def archives(cuts: CutSet) -> torch.Tensor | None:
    """(n,) the archive that each cut lies in, where some lie in archives; those that do not get one of their own."""
    data = cuts.data
    if isinstance(data, Rows):
        return data.shards
    if isinstance(data, Picked):
        shards = archives(CutSet(data.cuts))
        return None if shards is None else shards[data.places]
    if not isinstance(data, Chained):
        return None
    found, first = [], 0
    for _, one in data.members:
        shards = archives(CutSet(one))
        found.append((torch.zeros(len(one), dtype=torch.int32) if shards is None else shards) + first)
        first = int(found[-1].max()) + 1 if len(one) else first
    return torch.cat(found) if any(archives(CutSet(one)) is not None for _, one in data.members) else None


def is_lhotse(path: Path) -> bool:
    """Whether a file is a Lhotse manifest, by its name: cuts.jsonl.gz, cuts_train.jsonl and the like."""
    return path.name.removesuffix(".gz").startswith("cuts")


def numbered_lines(path: Path, wanted: str = "a jsonl") -> Iterator[tuple[int, str]]:
    """The lines of a text, gzipped or not, that are not blank, with their numbers from 1.

    Raises:
        KitError: it cannot be read, or is not in UTF-8; asks for what was `wanted`.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise KitError(f"{path} cannot be read: {error}; give {wanted} in UTF-8") from error
