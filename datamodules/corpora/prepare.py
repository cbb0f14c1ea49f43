"""`data prepare`: what a copy of a corpus holds, checked against what is published, as manifests to train and test on.

A prepared part is a folder: rows.jsonl with its index (datamodules/rows.py), about.json with the counts, problems.tsv
with every utterance that cannot be used, or that is odd, by name.
"""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

from datamodules.corpora.base import Corpus, Embedded, Utterance, located
from datamodules.corpora.registry import CORPORA
from datamodules.rows import RowWriter
from kit.errors import KitError, UsageError, nearest
from kit.files import folder_atomic, replace_folder, write_text
from kit.processors import processors
from kit.progress import count
from kit.text.normalize import normalize
from kit.text.scripts import foreign

PROBLEMS = "problems.tsv"
MISSING, BROKEN, TIMES = "missing audio", "unreadable audio", "times outside the recording"
BARE, EMPTY, FOREIGN = "no transcript", "empty transcript", "all in another script"
AGAIN, STRANGE = "id comes twice", "strange script"
KINDS = (MISSING, BROKEN, TIMES, BARE, EMPTY, FOREIGN, AGAIN, STRANGE)
_AT_ONCE = 512  # headers read by several threads
_SLACK = 0.5  # seconds by which a segment may end after its recording: times are rounded

Header = tuple[int, int] | str  # rate and samples, or what is wrong


@dataclass(frozen=True)
class Found:
    """What there is of a part.

    Attributes:
        listed: utterances that the corpus tells of, good or not.
        usable: those in the manifest.
        problems: how many of each kind; only those of a strange script are in the manifest.
    """

    part: str
    listed: int
    usable: int
    seconds: float
    problems: dict[str, int]


def prepare(corpus: Corpus, root: str | Path, parts: Sequence[str], out: Path) -> list[Found]:
    """Read parts of a copy and write them to `out`, each whole or not at all; parts that are not there are passed over.

    Args:
        parts: their names; empty for all.
        out: folder of the corpus in the cache; parts that were prepared earlier and are not wanted now stay.

    Raises:
        KitError: no such part, no copy there, nothing of the wanted parts in it, or it is damaged.
    """
    wanted = check_parts(corpus, parts)
    folder = located(corpus, root, CORPORA.values())
    with ExitStack() as stack:
        writers = {part: stack.enter_context(_part(out / part)) for part in wanted}
        makers = {part: PartMaker(corpus, writers[part], out / part, folder) for part in wanted}
        pool = stack.enter_context(ThreadPoolExecutor(4 * processors()))  # disks and networks answer several at once
        try:
            for batch in batches(count(corpus.read(folder, wanted), f"reading {corpus.title}"), _AT_ONCE):
                _take(batch, makers, pool)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise KitError(f"{folder} is not laid out as {corpus.title} should be ({what}); unpack it again") from error
        found = [makers[part].close() for part in wanted]
        if not any(part.listed for part in found):
            raise KitError(f"{folder} has nothing of {corpus.title}'s {', '.join(wanted)}; is it all unpacked?")
    return [part for part in found if part.listed]


def unusable(folder: Path) -> list[str]:
    """Ids of the utterances that a prepared part lists and does not have."""
    path = folder / PROBLEMS
    lines = path.read_text("utf-8").splitlines()[1:] if path.is_file() else []
    return [name for kind, name, _ in (line.split("\t", 2) for line in lines) if kind != STRANGE]


def check_parts(corpus: Corpus, parts: Sequence[str]) -> list[str]:
    """The parts that are wanted, in the corpus's order.

    Raises:
        UsageError: it has no such part.
    """
    for part in parts:
        if part not in corpus.parts:
            guess = nearest(part, corpus.parts)
            hint = f"did you mean {guess}?" if guess else f"it has {', '.join(corpus.parts)}"
            raise UsageError(f"{corpus.title} has no part {part}; {hint}")
    return [part for part in corpus.parts if part in parts or not parts]


@contextmanager
def _part(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path`, unless nothing was listed in it (`PartMaker.close`)."""
    new = path.with_name(f".{path.name}.new")
    shutil.rmtree(new, ignore_errors=True)  # of a call that was killed
    with folder_atomic(new) as temporary:
        yield temporary
    if (new / PROBLEMS).exists():
        replace_folder(new, path)
    else:
        shutil.rmtree(new)


class PartMaker:
    """Collects the utterances of one part.

    Args:
        folder: to write to, which will be `final`.
    """

    def __init__(self, corpus: Corpus, folder: Path, final: Path, root: Path) -> None:
        self.corpus, self.folder, self.final, self.root = corpus, folder, final, root
        self._rows = RowWriter(folder)
        self._problems: list[tuple[str, str, str]] = []
        self._names: set[bytes] = set()
        self._listed = 0

    def take(self, said: Utterance, header: Header | None) -> None:
        """Add an utterance; `header` is that of its recording, None where that is not there."""
        self._listed += 1
        key = blake2b(said.id.encode(), digest_size=8).digest()
        problem = (AGAIN, "") if key in self._names else fault(said, header)
        self._names.add(key)
        if problem is None:
            assert isinstance(header, tuple)
            odd = foreign(said.text or "", self.corpus.language)
            problem = (STRANGE, f"{odd}: {said.text}") if odd else None
            self._write(said, *header)
        if problem:
            self._problems.append((problem[0], said.id, problem[1]))

    def _write(self, said: Utterance, rate: int, samples: int) -> None:
        row: dict[str, Any] = {"id": said.id, "audio": self._audio(said.audio), "rate": rate, "samples": samples}
        row.update({"text": said.text, "language": self.corpus.language})
        row.update({name: value for name in ("speaker", "domain") if (value := getattr(said, name))})
        whole = samples / rate
        if said.start or said.duration is not None:
            length = whole - said.start if said.duration is None else said.duration
            row.update({"start": said.start, "duration": min(length, whole - said.start)})
        self._rows.write(row, row.get("duration", whole))

    def _audio(self, audio: Path | Embedded | None) -> str:
        if not isinstance(audio, Embedded):
            return str(audio)
        name = Path(audio.name).name
        (self.folder / "audio").mkdir(exist_ok=True)
        (self.folder / "audio" / name).write_bytes(audio.content)
        return str((self.final / "audio" / name).absolute())

    def close(self) -> Found:
        """Write the index and the list of problems; nothing remains of a part of which the corpus listed nothing."""
        kinds = Counter(kind for kind, _, _ in self._problems)
        counts = {kind: kinds[kind] for kind in KINDS if kinds[kind]}
        about = {"corpus": self.corpus.name, "root": str(self.root), "listed": self._listed, "problems": counts}
        self._rows.close(**about)
        if self._listed:
            told = ("\t".join(" ".join(str(field).split()) for field in problem) for problem in self._problems)
            write_text(self.folder / PROBLEMS, "".join(f"{line}\n" for line in ("kind\tid\tdetail", *told)))
        return Found(self.final.name, self._listed, len(self._rows), self._rows.seconds, counts)


def fault(said: Utterance, header: Header | None) -> tuple[str, str] | None:
    """Why an utterance cannot be used: kind and detail."""
    if header is None:
        return MISSING, str(said.audio or "the corpus lists none")
    if isinstance(header, str):
        return BROKEN, header
    if said.text is None:
        return BARE, str(said.audio)
    if not normalize(said.text):
        return FOREIGN if any(map(str.isalpha, said.text)) else EMPTY, said.text
    whole = header[1] / header[0]
    end = whole if said.duration is None else said.start + said.duration
    if not 0 <= said.start < min(end, whole) or end > whole + _SLACK:
        return TIMES, f"from second {said.start:g} to {end:g} of {whole:.2f}"
    return None


def _take(batch: Sequence[tuple[str, Utterance]], makers: dict[str, PartMaker], pool: ThreadPoolExecutor) -> None:
    sounds = list(dict.fromkeys(said.audio for _, said in batch))  # segments of one recording follow each other
    headers = dict(zip(sounds, pool.map(header, sounds), strict=True))
    for part, said in batch:
        makers[part].take(said, headers[said.audio])


def header(audio: Path | Embedded | None) -> Header | None:
    """Rate and number of samples of a recording; None if it is not there, a text if it cannot be read."""
    import soundfile

    if audio is None:
        return None
    try:
        about = soundfile.info(io.BytesIO(audio.content) if isinstance(audio, Embedded) else str(audio))
    except (OSError, soundfile.LibsndfileError) as error:
        if isinstance(audio, Path) and not audio.exists():
            return None
        return f"{audio.name}: {str(error).splitlines()[0]}"
    return (about.samplerate, about.frames) if about.frames else f"{audio.name}: no samples"


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of so many items, the last shorter."""
    stream = iter(items)
    while batch := list(islice(stream, size)):
        yield batch
