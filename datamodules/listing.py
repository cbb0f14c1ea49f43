"""What a manifest lists, to be transcribed: it needs no texts, and what is wrong with a line stays with that line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lhotse import AudioSource, CutSet
from lhotse.cut import Cut, MonoCut
from lhotse.serialization import deserialize_item
from omegaconf import DictConfig

from datamodules.rows import ROWS, Rows, is_lhotse, numbered_lines
from datamodules.shar import is_address, is_shar, open_shar
from datamodules.sources import RATE, Member, Shelf, read_source, shelf_of
from kit.errors import KitError, UsageError, first_line

SLACK = 0.1  # seconds by which a clip may end after its recording: times are rounded


@dataclass(frozen=True, slots=True)
class Clip:
    """Audio to transcribe, in plain values: another process, perhaps on another machine, can read it.

    Attributes:
        path: of the recording, or of the archive that it lies in: a file, or an address.
        start: second of the recording at which the clip begins.
        seconds: how long it is; None to the recording's end.
        member: name in the archive; empty where there is none.
        language: as the manifest has it; empty if it does not tell.
    """

    id: str
    path: str
    start: float = 0.0
    seconds: float | None = None
    member: str = ""
    language: str = ""

    def samples(self, shelf: Shelf | None = None) -> torch.Tensor:
        """(N,) float32 samples at 16 kHz.

        Args:
            shelf: where archives of an address are kept.

        Raises:
            KitError: the recording cannot be read, or ends before the clip does (it is named).
        """
        source = AudioSource(type="file", channels=[0], source=self.path)
        if self.member:
            far = shelf if is_address(self.path) else None
            source = Member(type="file", channels=[0], source=self.path, member=self.member, shelf=far)
        samples = read_source(source, self.start, self.seconds)
        if self.seconds is not None and len(samples) < (self.seconds - SLACK) * RATE:
            end = f"ends {self.start + len(samples) / RATE:.2f} s after its beginning"
            raise KitError(f"{self.path} {end}, not {self.start + self.seconds:.2f} s; mend the times of {self.id}")
        return samples


@dataclass(frozen=True, slots=True)
class Fault:
    """A line of a manifest that is no clip.

    Attributes:
        id: as far as it is known; else which line it is.
        reason: what is wrong, and how to mend it.
    """

    id: str
    reason: str


def list_clips(name: str, config: DictConfig) -> Iterator[Clip | Fault]:
    """All that a manifest lists, in its order; no recording is looked at.

    Args:
        name: a jsonl of `audio` and, if known, id, start, duration and language; a Lhotse manifest of cuts; a Shar
            folder or address; or a folder that `data prepare` made.

    Raises:
        KitError: it is none of these, or damaged as a whole.
    """
    path, cache = Path(name), Path(config.cache)
    if is_shar(name):
        shelf = shelf_of(config)
        return map(clip_of, open_shar(name, cache, shelf))
    if (path / ROWS).is_file():
        return map(clip_of, Rows(path))
    if not path.is_file():
        raise UsageError(f"manifest={name} does not exist; give a jsonl of audio, a Lhotse manifest or a Shar folder")
    if not is_lhotse(path):
        return _lines(path, _clip_of_row)
    if ".jsonl" in path.suffixes:
        return _lines(path, lambda row, _: clip_of(deserialize_item(row)))
    return map(clip_of, _whole(path))


def clip_of(cut: Cut) -> Clip | Fault:
    """What has to be read for a cut of Lhotse's."""
    if not isinstance(cut, MonoCut) or not cut.has_recording or len(cut.recording.sources) != 1:
        return Fault(str(cut.id), "it is no cut of one recording in one file; save its audio first")
    source = cut.recording.sources[0]
    whole = cut.start == 0 and cut.duration >= cut.recording.duration
    spoken = cut.supervisions[0].language if cut.supervisions else None
    times = {"start": cut.start, "seconds": None if whole else cut.duration, "language": spoken or ""}
    if isinstance(source, Member):
        return Clip(cut.id, str(source.source), member=source.member, **times)
    if source.type != "file":
        return Fault(cut.id, f"its audio is a {source.type}, which is not run or read here; save it to a file first")
    return Clip(cut.id, str(source.source), **times)


def _lines(path: Path, make: Any) -> Iterator[Clip | Fault]:
    for number, line in numbered_lines(path):
        try:
            yield make(json.loads(line), path)
        except Exception as error:  # Lhotse says in many ways that it cannot read a cut
            reason = f"{path} line {number} is no utterance ({first_line(error)}); mend or remove it"
            yield Fault(f"line {number}", reason)


def _clip_of_row(row: Mapping[str, Any], path: Path) -> Clip:
    """A row of a jsonl; `audio` is relative to its folder."""
    if not isinstance(row, dict) or not isinstance(row.get("audio"), str):
        raise TypeError("'audio' must be a path")
    audio = path.parent / row["audio"]
    start, seconds = row.get("start", 0.0), row.get("duration")
    for key, value in (("start", start), ("duration", 0.0 if seconds is None else seconds)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise TypeError(f"{key!r} must be seconds")
    name, language = row.get("id"), row.get("language")
    return Clip(
        audio.stem if name is None else str(name),
        str(audio),
        float(start),
        None if seconds is None else float(seconds),
        language=language if isinstance(language, str) else "",
    )


def _whole(path: Path) -> Iterator[Cut]:
    try:
        yield from CutSet.from_file(path)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AssertionError, gzip.BadGzipFile) as error:
        raise KitError(f"{path} is no list of Lhotse cuts ({first_line(error)}); write it as cuts.jsonl.gz") from error
