"""CS-Dialogue and ASCEND: Mandarin and English in one sentence; M4Singer: Mandarin songs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from datamodules.corpora.base import Corpus, Embedded, Published, Utterance, each, kaldi
from datamodules.corpora.dialects import without_tags
from kit.errors import KitError, UsageError

_FILES = {"train": "train", "dev": "validation", "test": "test"}
_COLUMNS = ("id", "audio", "transcription", "original_speaker_id", "topic")


def _cs_dialogue(root: Path, part: str) -> Iterator[Utterance]:
    """data/index/short_wav/PART/{text,wav.scp}; data/short_wav/ unpacked from its archive in pieces.

    Paths in wav.scp begin at data/ or, as some unpack it, at data/short_wav/. Fillers stand in angle brackets; what
    could not be understood is an asterisk. Speakers are the first two parts of an id such as ZH-CN_U0001_S0_4.
    """
    data = root / "data"
    folder = data / "index" / "short_wav" / part

    def resolve(path: str) -> Path:
        deeper = data / "short_wav" / path
        return deeper if deeper.exists() else data / path

    for told in kaldi(folder, resolve, lambda text: without_tags(text.replace("*", " "))):
        yield replace(told, speaker="_".join(told.id.split("_")[:2]))


def _ascend(root: Path, part: str) -> Iterator[Utterance]:
    """main/{train,validation,test}-*.parquet with the audio inside; it is copied to the prepared part.

    Words that nobody understood are [UNK].

    Raises:
        KitError: a file cannot be read, or pyarrow, which reads them, is not installed.
    """
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UsageError("reading ASCEND needs pyarrow; install it with pip install pyarrow") from error
    for path in sorted((root / "main").glob(f"{_FILES[part]}-*.parquet")):
        try:
            for batch in ParquetFile(path).iter_batches(batch_size=64, columns=list(_COLUMNS)):
                yield from map(_ascend_row, batch.to_pylist())
        except (OSError, pyarrow.ArrowException) as error:
            raise KitError(f"{path} cannot be read: {error}; download it again") from error


def _ascend_row(row: dict) -> Utterance:
    name, content = str(row["id"]), (row["audio"] or {}).get("bytes")
    audio = Embedded(f"{name}{Path(row['audio'].get('path') or '.wav').suffix}", content) if content else None
    text = re.sub(r"\[[^\[\]]*\]", " ", row["transcription"] or "").strip()
    speaker = row["original_speaker_id"]
    return Utterance(name, audio, text, None if speaker is None else str(speaker), domain=row["topic"])


def _m4singer(root: Path, part: str) -> Iterator[Utterance]:
    """meta.json, a list with item_name (SINGER#SONG#NUMBER) and txt, and SINGER#SONG/NUMBER.wav.

    The corpus has no split of its own: all of it is one part.
    """
    path = root / "meta.json"
    try:
        listed = json.loads(path.read_text("utf-8"))
        named = [(str(one["item_name"]), str(one["txt"])) for one in listed]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KitError(f"{path} is no list of item_name and txt ({error}); unpack the corpus again") from error
    for name, text in named:
        song, _, number = name.rpartition("#")
        yield Utterance(name, root / song / f"{number}.wav", without_tags(text), song.split("#")[0])


CS_DIALOGUE = Corpus(
    name="cs_dialogue",
    title="CS-Dialogue",
    language="mixed",
    license="CC BY-NC-SA 4.0",
    homepage="https://huggingface.co/datasets/BAAI/CS-Dialogue",
    marks=("data/index/short_wav/*/text",),
    folders=("CS-Dialogue",),
    hours=104.02,
    parts={"train": Published(), "dev": Published(), "test": Published()},
    read=each(_cs_dialogue),
)
ASCEND = Corpus(
    name="ascend",
    title="ASCEND",
    language="mixed",
    license="CC BY-SA 4.0",
    homepage="https://huggingface.co/datasets/CAiRE/ASCEND",
    marks=("main/*.parquet",),
    folders=("ASCEND",),
    hours=10.62,
    parts={"train": Published(9869, 8.77), "dev": Published(1130, 0.92), "test": Published(1315, 0.92)},
    read=each(_ascend),
)
M4SINGER = Corpus(
    name="m4singer",
    title="M4Singer",
    language="zh",
    license="on application",
    homepage="https://github.com/M4Singer/M4Singer",
    marks=("meta.json",),
    folders=("m4singer", "M4Singer"),
    hours=29.77,
    parts={"test": Published(None, 29.77)},
    read=each(_m4singer),
)
