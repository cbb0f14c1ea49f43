"""LibriSpeech, VoxPopuli and Multilingual LibriSpeech: English."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from datamodules.corpora.base import Corpus, Published, Utterance, columns, each, table, untold


def _librispeech(root: Path, part: str) -> Iterator[Utterance]:
    """PART/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside ID.flac (README of the corpus, OpenSLR 12)."""
    for listed in sorted((root / part.replace("_", "-")).rglob("*.trans.txt")):
        folder = listed.parent
        told = (Utterance(name, folder / f"{name}.flac", text, name.split("-")[0]) for name, text in table(listed))
        yield from untold(told, folder.glob("*.flac"))


def _voxpopuli(root: Path, part: str) -> Iterator[Utterance]:
    """transcribed_data/en/asr_PART.tsv and YEAR/ID.ogg, as voxpopuli.get_asr_data of the corpus's own code leaves them.

    The normalized transcript is read; some are empty.
    """
    folder = root / "transcribed_data" / "en"
    if not (folder / f"asr_{part}.tsv").is_file():
        return
    for row in columns(folder / f"asr_{part}.tsv", "id", "normalized_text"):
        name = row["id"]
        audio = folder / name[:4] / f"{name}.ogg"
        yield Utterance(name, audio, row["normalized_text"], row.get("speaker_id"))


def _mls(root: Path, part: str) -> Iterator[Utterance]:
    """PART/transcripts.txt (ID, tab, text) and PART/audio/SPEAKER/BOOK/ID.flac, or .opus in the smaller edition."""
    listed = root / part / "transcripts.txt"
    if not listed.is_file():
        return
    ending = ".opus" if root.name.endswith("_opus") else ".flac"
    for name, text in table(listed, "\t"):
        speaker, book = (*name.split("_"), "")[:2]
        yield Utterance(name, root / part / "audio" / speaker / book / f"{name}{ending}", text, speaker)


LIBRISPEECH = Corpus(
    name="librispeech",
    title="LibriSpeech",
    language="en",
    license="CC BY 4.0",
    homepage="https://www.openslr.org/12",
    marks=("train-*/*/*/*.trans.txt", "dev-*/*/*/*.trans.txt", "test-*/*/*/*.trans.txt"),
    folders=("LibriSpeech",),
    hours=982.1,
    parts={
        "train_clean_100": Published(28539, 100.6),
        "train_clean_360": Published(104014, 363.6),
        "train_other_500": Published(148688, 496.7),
        "dev_clean": Published(2703, 5.4),
        "dev_other": Published(2864, 5.3),
        "test_clean": Published(2620, 5.4),
        "test_other": Published(2939, 5.1),
    },
    read=each(_librispeech),
)
VOXPOPULI = Corpus(
    name="voxpopuli",
    title="VoxPopuli (English)",
    language="en",
    license="CC0",
    homepage="https://github.com/facebookresearch/voxpopuli",
    marks=("transcribed_data/en/asr_*.tsv",),
    folders=("voxpopuli",),
    hours=543.0,
    parts={"train": Published(182482), "dev": Published(1753), "test": Published(1842)},
    read=each(_voxpopuli),
)
MLS = Corpus(
    name="mls_english",
    title="Multilingual LibriSpeech (English)",
    language="en",
    license="CC BY 4.0",
    homepage="https://www.openslr.org/94",
    marks=("train/transcripts.txt", "dev/transcripts.txt", "test/transcripts.txt"),
    folders=("mls_english", "mls_english_opus"),
    hours=44691.04,
    parts={
        "train": Published(10808037, 44659.74),
        "dev": Published(3807, 15.75),
        "test": Published(3769, 15.55),
    },
    read=each(_mls),
)
