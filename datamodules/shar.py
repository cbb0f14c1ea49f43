"""Lhotse Shar: cuts and their audio in numbered archives, for disks and networks that dislike millions of small files.

A folder PART has cuts.000000.jsonl.gz and recording.000000.tar and so on. PART.shards.json beside it lists them, for an
address on a network cannot be listed. The manifests are read at once and once, the archives when their turn comes.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import soundfile
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.shar.utils import to_shar_placeholder
from lhotse.utils import fastcopy

from datamodules.features import computed_samples
from datamodules.recordings import with_samples
from datamodules.rows import Rows, kept_rows
from datamodules.sources import RATE, Shelf
from kit.errors import KitError, UsageError
from kit.files import folder_atomic, write_text
from kit.progress import track

LIST = ".shards.json"  # behind the name of the folder, and not in it: there Lhotse takes every file for data
_CUTS = re.compile(r"cuts\.(\d+)\.jsonl\.gz")
_NAME = re.compile(r"[\w\-][\w.\-]*", re.ASCII)


def is_shar(name: str) -> bool:
    """Whether this is a Shar folder: one with cuts.*.jsonl.gz in it, or an address."""
    return is_address(name) or any(Path(name).glob("cuts.*.jsonl.gz"))


def is_address(name: str) -> bool:
    """Whether this is an address such as https://HOST/FOLDER."""
    return len(urlsplit(name).scheme) > 1 and "://" in name


def open_shar(name: str, cache: Path, shelf: Shelf) -> Rows:
    """The utterances of a Shar folder or address, their manifests copied to the cache.

    Raises:
        KitError: a file of it is missing or damaged (it is named).
    """
    shards = _remote(name, shelf) if is_address(name) else _local(Path(name))
    state = sha256(name.encode())
    for cuts, _ in shards:
        stat = None if is_address(name) else Path(cuts).stat()
        state.update(f"{cuts} {stat and (stat.st_size, stat.st_mtime_ns)}\n".encode())
    held = shelf if is_address(name) else None
    folder = cache / "manifests" / f"shar-{state.hexdigest()[:16]}"
    archives = [archive for _, archive in shards]
    about = {"archives": archives, "source": name}
    return kept_rows(folder, _rows([cuts for cuts, _ in shards], held), held, about)


def _local(folder: Path) -> list[tuple[str, str]]:
    cuts = sorted(path for path in folder.glob("cuts.*.jsonl.gz") if _CUTS.fullmatch(path.name))
    pairs = [(path, folder / f"recording.{_CUTS.fullmatch(path.name)[1]}.tar") for path in cuts]  # type: ignore[index]
    for _, archive in pairs:
        if not archive.is_file():
            raise KitError(f"the Shar folder {folder} has no {archive.name}; copy or export it again")
    return [(str(path), str(archive)) for path, archive in pairs]


def _remote(address: str, shelf: Shelf) -> list[tuple[str, str]]:
    """The addresses of cuts and recordings as the list beside them has them; a name in it cannot lead elsewhere."""
    base = address.rstrip("/")
    path = shelf.get(base + LIST)
    try:
        listed = [(shard["cuts"], shard["recording"]) for shard in json.loads(path.read_text("utf-8"))["shards"]]
        if not all(_NAME.fullmatch(name) for pair in listed for name in pair):
            raise ValueError("it has names that are no plain file names")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KitError(f"{base}{LIST} is not what `data export` writes ({error}); export it again") from error
    finally:
        path.unlink(missing_ok=True)  # the list may grow: it is read anew every time
    return [(f"{base}/{cuts}", f"{base}/{recording}") for cuts, recording in listed]


def _rows(manifests: list[str], shelf: Shelf | None) -> Iterator[tuple[Mapping[str, Any], float, int]]:
    for shard, name in enumerate(manifests):
        path = shelf.get(name) if shelf else Path(name)
        try:
            with gzip.open(path, "rt", encoding="utf-8") as file:
                for line in file:
                    cut = json.loads(line)
                    yield cut, float(cut["duration"]), shard
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise KitError(f"{path} is no list of Lhotse cuts ({error}); export or fetch it again") from error


def export(parts: Mapping[str, CutSet], out: Path, size: int) -> dict[str, int]:
    """Write parts of a corpus as Shar folders OUT/PART, whole or not at all: flac of 16 kHz, mono, 16 bit.

    Args:
        parts: the utterances of each.
        size: utterances in an archive.

    Returns:
        how many archives each part has.

    Raises:
        UsageError: there is nothing to export.
        KitError: a recording cannot be read (it is named), `out` is there already, or the disk is full.
    """
    if not any(len(cuts) for cuts in parts.values()):
        raise UsageError("there is nothing to export; choose a part that has utterances (split=...)")
    counts = {}
    with folder_atomic(out) as temporary:
        for part, cuts in parts.items():
            if len(cuts):
                counts[part] = _export_part(cuts, temporary / part.replace("/", "-"), size, part)
    return counts


def _export_part(cuts: CutSet, folder: Path, size: int, label: str) -> int:
    folder.mkdir(parents=True)
    stream = track(cuts, f"shards of {label}", total=len(cuts))
    shards: list[dict[str, Any]] = []
    while chunk := list(islice(stream, size)):
        number = f"{len(shards):06d}"
        names = {"cuts": f"cuts.{number}.jsonl.gz", "recording": f"recording.{number}.tar"}
        _write_shard(chunk, folder / names["cuts"], folder / names["recording"])
        seconds = round(sum(cut.duration for cut in chunk), 3)
        shards.append({**names, "utterances": len(chunk), "seconds": seconds})
    write_text(folder.with_name(folder.name + LIST), json.dumps({"format": "lhotse shar", "shards": shards}, indent=1))
    return len(shards)


def _write_shard(chunk: list[Cut], cuts: Path, recordings: Path) -> None:
    samples = computed_samples()
    with gzip.open(cuts, "wt", encoding="utf-8") as lines, tarfile.open(recordings, "w") as archive:
        for cut in chunk:
            said = samples.of(cut)
            whole = with_samples(cut, said)
            placeholder = to_shar_placeholder(fastcopy(whole.recording, id=cut.id), whole)
            sound = io.BytesIO()
            soundfile.write(sound, said, RATE, format="flac", subtype="PCM_16")
            _add(archive, f"{cut.id}.flac", sound.getvalue())
            _add(archive, f"{cut.id}.json", json.dumps(placeholder.to_dict()).encode())
            lines.write(json.dumps(fastcopy(whole, recording=placeholder).to_dict(), ensure_ascii=False) + "\n")


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size = len(content)
    archive.addfile(about, io.BytesIO(content))
