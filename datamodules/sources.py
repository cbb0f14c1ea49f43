"""Where the samples of a cut come from: a file, or a member of a tar archive, which may be fetched when wanted."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import torch
from lhotse import AudioSource
from lhotse.cut import Cut
from omegaconf import DictConfig

from kit.audio.reading import read_audio
from kit.errors import KitError
from kit.files import write_atomic

RATE = 16000
_ABOUT = {".json", ".nodata", ".nometa"}  # what Lhotse puts beside the recordings in its archives
_PATIENCE = 60  # seconds without an answer


@dataclass(frozen=True)
class Shelf:
    """Copies of remote files, fetched when they are first wanted.

    Args:
        folder: of the copies.
        keep: how many; the one that was not used for longest goes first.
        command: a program and its arguments that writes a file to standard output, {url} standing for its address; none
            of it passes through a shell. Empty: http and https are fetched by Python itself.
    """

    folder: str
    keep: int = 32
    command: tuple[str, ...] = ()

    def get(self, url: str) -> Path:
        """The copy of a file.

        Raises:
            KitError: it cannot be fetched, or the disk is full.
        """
        name = Path(urlsplit(url).path).name
        path = Path(self.folder) / f"{sha256(url.encode()).hexdigest()[:16]}-{name}"
        if path.exists():
            os.utime(path)
            return path
        write_atomic(path, lambda file: self._fetch(url, file))
        self._tidy(path)
        return path

    def _fetch(self, url: str, file: BinaryIO) -> None:
        try:
            if self.command:
                argv = [word.replace("{url}", url) for word in self.command]
                subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE, check=True)
            else:
                _download(url, file)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            said = (getattr(error, "stderr", None) or b"").decode("utf-8", "replace").strip().splitlines()
            raise KitError(f"cannot fetch {url}: {said[-1] if said else error}; check the address") from error

    def _tidy(self, newest: Path) -> None:
        copies = [path for path in Path(self.folder).iterdir() if path != newest and not path.name.startswith(".")]
        copies.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in copies[max(0, self.keep - 1) :]:
            path.unlink(missing_ok=True)


def _download(url: str, file: BinaryIO) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("only http and https are fetched without a command (data.fetch)")
    with urllib.request.urlopen(url, timeout=_PATIENCE) as answer:
        shutil.copyfileobj(answer, file)
        promised = answer.headers.get("Content-Length")
        if promised is not None and file.tell() != int(promised):
            raise ValueError(f"the connection broke after {file.tell()} of {promised} bytes")


class OwnSource(AudioSource):
    """An audio source that is read by itself, not by Lhotse."""

    def read(self, start: float = 0.0, seconds: float | None = None) -> torch.Tensor:
        """(N,) float32 samples at 16 kHz, from a second on; all that follow, or so many seconds.

        Raises:
            KitError: they cannot be had.
        """
        raise NotImplementedError


@dataclass(repr=False)
class Member(OwnSource):
    """A recording inside a tar archive: `source` is the archive, a file or, with a shelf, an address."""

    member: str = ""
    shelf: Shelf | None = None

    def read(self, start: float = 0.0, seconds: float | None = None) -> torch.Tensor:
        """As `OwnSource.read`.

        Raises:
            KitError: there is no such archive or member, or it is no audio.
        """
        path = self.shelf.get(str(self.source)) if self.shelf else Path(str(self.source))
        try:
            offset, size = members(path)[self.member]
            with path.open("rb") as archive:
                archive.seek(offset)
                sound = BytesIO(archive.read(size))
        except (OSError, tarfile.TarError) as error:
            raise KitError(f"the archive {path} cannot be read: {error}; export or fetch it again") from error
        except KeyError:
            raise KitError(f"the archive {path} has no recording {self.member}; export or fetch it again") from None
        return read_audio(f"{path}/{self.member}", start=start, seconds=seconds, file=sound)


def members(path: Path) -> Mapping[str, tuple[int, int]]:
    """The recordings in an archive without compression: name without its ending, where it begins, bytes."""
    return _members(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _members(path: Path, stamp: int) -> dict[str, tuple[int, int]]:
    with tarfile.open(path, "r:") as archive:
        files = [member for member in archive if member.isfile()]
    split = [(os.path.splitext(file.name), file) for file in files]
    return {stem: (file.offset_data, file.size) for (stem, ending), file in split if ending not in _ABOUT}


def read_samples(cut: Cut) -> torch.Tensor:
    """(N,) float32 samples of a cut at 16 kHz; of a part of a recording only that part is decoded.

    Lhotse's own loading is passed by: it knows nothing of our archives, and runs what a manifest calls a command.

    Raises:
        KitError: the recording cannot be read (it is named).
    """
    whole = cut.start == 0 and cut.duration >= cut.recording.duration
    start, seconds = (0.0, None) if whole else (cut.start, cut.duration)
    return read_source(cut.recording.sources[0], start, seconds)[: round(cut.duration * RATE)]


def read_source(source: AudioSource, start: float = 0.0, seconds: float | None = None) -> torch.Tensor:
    """(N,) float32 samples at 16 kHz of a file or a member of an archive; see `OwnSource.read`.

    Raises:
        KitError: they cannot be had.
    """
    if isinstance(source, OwnSource):
        return source.read(start, seconds)
    return read_audio(source.source, start=start, seconds=seconds)


def shelf_of(config: DictConfig) -> Shelf:
    """Where archives of an address are kept, and how they are fetched (`data.fetch`, `data.keep_archives`)."""
    command = tuple(str(word) for word in config.data.get("fetch") or ())
    return Shelf(str(Path(config.cache) / "archives"), int(config.data.get("keep_archives", 32)), command)
