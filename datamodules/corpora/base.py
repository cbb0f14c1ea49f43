"""What all corpora share: how an utterance is told, what is known of a corpus, and the helpers of its reader.

A reader tells everything that a corpus lists, what is wrong with it included: audio that is not there, transcripts that
are empty. Lhotse's recipes leave such utterances out without a count, so that an error rate has a smaller denominator
than the one that others publish. Therefore the readers here are our own; tests compare them with the recipes where
Lhotse has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kit.errors import KitError, UsageError

_SHOWN = 6  # names of a folder that an error shows


@dataclass(frozen=True)
class Embedded:
    """A recording that lies inside another file: what to call it, and the bytes of an audio file."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Utterance:
    """One utterance as a corpus tells of it.

    Args:
        audio: a path, whether it is there or not; None where the corpus lists none.
        text: the transcript, without annotations of noises and the like; None where the corpus has none.
        start: second of the recording.
        duration: seconds; None until the end of the recording.
        domain: a topic, accent or the like by which figures can be grouped.
    """

    id: str
    audio: Path | Embedded | None
    text: str | None
    speaker: str | None = None
    start: float = 0.0
    duration: float | None = None
    domain: str | None = None


@dataclass(frozen=True)
class Published:
    """What its makers say of a part; None where no figure could be established."""

    utterances: int | None = None
    hours: float | None = None


Read = Callable[[Path, Sequence[str]], Iterator[tuple[str, Utterance]]]


@dataclass(frozen=True)
class Corpus:
    """What is known of a corpus.

    Args:
        name: in configs/data and on the command line.
        language: of its transcripts: "zh", "en" or "mixed".
        hours: of all parts, as published.
        marks: files of which one is in the folder of every copy, as patterns.
        folders: names of the folder that its archives unpack to; the folder above it is good, too.
        parts: names and published sizes.
        read: gives (part, utterance) of some parts; nothing of a part that is not there.
    """

    name: str
    title: str
    language: str
    license: str
    homepage: str
    marks: tuple[str, ...]
    read: Read
    parts: Mapping[str, Published] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    hours: float | None = None

    def locate(self, root: Path) -> Path | None:
        """The folder of a copy at or right below `root`; None if there is none."""
        candidates = [root, *(root / name for name in self.folders)]
        return next((one for one in candidates if any(any(one.glob(mark)) for mark in self.marks)), None)


def located(corpus: Corpus, root: str | Path, known: Iterable[Corpus]) -> Path:
    """The folder of the copy of a corpus that `root` means.

    Raises:
        UsageError: there is none; tells what was looked for and found, and which other corpus it may be.
    """
    path = Path(root).expanduser()
    if not path.is_dir():
        raise UsageError(f"root={path} is no folder; give the one to which {corpus.title} was unpacked")
    folder = corpus.locate(path)
    if folder is not None:
        return folder
    others = [other.name for other in known if other.name != corpus.name and other.locate(path)]
    guess = f"; it looks like corpus={others[0]}" if others else ""
    names = sorted(entry.name for entry in path.iterdir())
    shown = ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN) if names else "nothing"
    raise UsageError(
        f"root={path} is no copy of {corpus.title}: looked for {' or '.join(corpus.marks)}, found {shown}{guess}"
    )


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file that are not empty.

    Raises:
        KitError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from (line.rstrip("\r\n") for line in file if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise KitError(f"{path} cannot be read: {error}; unpack the corpus again") from error


def table(path: Path, separator: str | None = None) -> Iterator[tuple[str, str]]:
    """Key and rest of each line, separated by white space unless said otherwise; the rest may be empty."""
    for line in lines(path):
        key, *rest = line.split(separator, 1)
        yield key.strip(), rest[0].strip() if rest else ""


def columns(path: Path, *needed: str) -> Iterator[dict[str, str]]:
    """The rows of a table with tabs whose first line names the columns.

    Raises:
        KitError: it cannot be read, or lacks a column.
    """
    rows = (line.split("\t") for line in lines(path))
    header = next(rows, [])
    lost = [name for name in needed if name not in header]
    if lost:
        raise KitError(f"{path} has no column {lost[0]}; its first line must name the columns, with tabs between them")
    for values in rows:
        yield {**dict.fromkeys(header, ""), **dict(zip(header, values, strict=False))}


def each(read: Callable[[Path, str], Iterator[Utterance]]) -> Read:
    """A reader of several parts from one that reads a part."""

    def read_all(root: Path, parts: Sequence[str]) -> Iterator[tuple[str, Utterance]]:
        return ((part, utterance) for part in parts for utterance in read(root, part))

    return read_all


def untold(told: Iterable[Utterance], files: Iterable[Path]) -> Iterator[Utterance]:
    """The utterances, then the audio files that none of them has: those without a transcript."""
    names = set()
    for utterance in told:
        names.add(utterance.id)
        yield utterance
    for path in sorted(files):
        if path.stem not in names:
            yield Utterance(path.stem, path, None)


def kaldi(folder: Path, resolve: Callable[[str], Path], clean: Callable[[str], str] = str.strip) -> Iterator[Utterance]:
    """The utterances of a Kaldi folder (text, wav.scp and, if there is one, utt2spk); ids that only one of the files
    has are told without a text, or without audio.

    Args:
        resolve: a path in wav.scp to one on this machine.
        clean: takes annotations out of a transcript.
    """
    if not (folder / "text").is_file():
        return
    paths = dict(table(folder / "wav.scp"))
    speakers = dict(table(folder / "utt2spk")) if (folder / "utt2spk").is_file() else {}
    seen = set()
    for name, text in table(folder / "text"):
        seen.add(name)
        audio = resolve(paths[name]) if name in paths else None
        yield Utterance(name, audio, clean(text), speakers.get(name))
    for name in sorted(paths.keys() - seen):
        yield Utterance(name, resolve(paths[name]), None, speakers.get(name))
