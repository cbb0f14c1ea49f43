"""AISHELL-1, AISHELL-2, AISHELL-2021-Eval, WenetSpeech and SpeechIO: Mandarin."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.corpora.base import Corpus, Published, Utterance, columns, each, table, untold
from kit.errors import KitError

_LIST = "data_aishell/transcript/aishell_transcript_v0.8.txt"
_LAST = {"train": 723, "dev": 763, "test": 916}  # speaker of each part, from S0002 on
_SUBSETS = {"train_l": "L", "train_m": "M", "train_s": "S", "dev": "DEV", "test_net": "TEST_NET"}
_SUBSETS["test_meeting"] = "TEST_MEETING"
_PIECE = 1 << 20


def _aishell(root: Path, part: str) -> Iterator[Utterance]:
    """data_aishell/wav/PART/SPEAKER/ID.wav and one list of all transcripts, words with spaces between them.

    The speakers' archives in wav/ have to be unpacked. Which part a transcript belongs to follows from its speaker, so
    that one whose recording is missing is still missed in its part.
    """
    folder = root / "data_aishell" / "wav" / part
    if not folder.is_dir():
        return
    told = (
        Utterance(name, folder / name[6:11] / f"{name}.wav", text.replace(" ", ""), name[6:11])
        for name, text in table(root / _LIST)
        if _aishell_part(name) == part
    )
    yield from untold(told, folder.glob("*/*.wav"))


def _aishell_part(name: str) -> str | None:
    """The part of an utterance such as BAC009S0002W0122."""
    found = re.match(r"BAC009S(\d{4})", name)
    return next((part for part, last in _LAST.items() if int(found[1]) <= last), None) if found else None


def _aishell2(root: Path, part: str) -> Iterator[Utterance]:
    """CHANNEL/{data,dev,test}/trans.txt (ID, tab, text) and wav/SPEAKER/ID.wav; iOS is the channel that is trained on.

    The evaluation sets of the three channels (AISHELL2-2018A-EVAL) come as CHANNEL/{dev,test} alone.
    """
    split, _, channel = part.partition("_")
    folder = root / {"": "iOS", "android": "Android", "mic": "Mic"}[channel] / ("data" if split == "train" else split)
    if (folder / "trans.txt").is_file():
        told = (
            Utterance(name, folder / "wav" / name[1:6] / f"{name}.wav", text, name[1:6])
            for name, text in table(folder / "trans.txt")
        )
        yield from told if split == "train" else untold(told, (folder / "wav").glob("*/*.wav"))


def _aishell2021(root: Path, part: str) -> Iterator[Utterance]:
    """Every trans.txt (or text) below the folder, with the wav files below the same folder.

    The layout of this set could not be established from public sources: it is given out on request
    (aishelltech.com/aishell_2021_eval). The form is that of AISHELL-2's lists; wav files are found by their names
    wherever they lie. Where there are several lists their folders become the domains, and stand in front of the ids.
    """
    listed = sorted(path for name in ("trans.txt", "text") for path in root.rglob(name))
    for path in listed:
        files = {found.stem: found for found in path.parent.rglob("*.wav")}
        domain = path.parent.relative_to(root).as_posix() if len(listed) > 1 else None
        prefix = f"{domain}-".replace("/", "-") if domain else ""
        for name, text in table(path):
            yield Utterance(prefix + name, files.pop(name, None), text, domain=domain)
        for name, audio in sorted(files.items()):
            yield Utterance(prefix + name, audio, None, domain=domain)


def _wenetspeech(root: Path, parts: Sequence[str]) -> Iterator[tuple[str, Utterance]]:
    """WenetSpeech.json, 8 GB of long recordings and the segments in them, and audio/; read in one go for all parts.

    A segment belongs to all subsets that it names: those of S are in M, and those of M in L.
    """
    wanted = {_SUBSETS[part]: part for part in parts}
    for recording in objects(root / "WenetSpeech.json", "audios"):
        audio = root / recording["path"]
        for said in recording["segments"]:
            start = float(said["begin_time"])
            for subset in wanted.keys() & set(said["subsets"]):
                length = float(said["end_time"]) - start
                text, domain = said["text"].strip(), recording.get("source")
                told = Utterance(said["sid"], audio, text, start=start, duration=length, domain=domain)
                yield wanted[subset], told


def objects(path: Path, key: str) -> Iterator[dict[str, Any]]:
    """The objects of the list under a key of a JSON file, one after the other: the file may be larger than memory.

    Raises:
        KitError: the file cannot be read, has no such list, or ends in it.
    """
    decoder = json.JSONDecoder()
    try:
        with path.open(encoding="utf-8") as file:
            text = _until_list(file, key)
            while True:
                text = text.lstrip(" \t\r\n,")
                if text.startswith("]"):
                    return
                try:
                    found, end = decoder.raw_decode(text)
                except ValueError:
                    piece = file.read(max(_PIECE, len(text)))  # as much again, so that long objects stay linear
                    if not piece:
                        raise
                    text += piece
                    continue
                yield found
                text = text[end:]
    except (OSError, ValueError) as error:
        raise KitError(f"{path} has no whole list {key!r} ({error}); download it again") from error


def _until_list(file: Any, key: str) -> str:
    """What was read behind the bracket that opens the list of a key."""
    opening, text = re.compile(rf'"{key}"\s*:\s*\['), ""
    while not (found := opening.search(text)):
        piece = file.read(_PIECE)
        if not piece:
            raise ValueError("it is not in there")
        text = text[-100:] + piece
    return text[found.end() :]


def _speechio(root: Path, part: str) -> Iterator[Utterance]:
    """SPEECHIO_ASR_ZH000NN/metadata.tsv with the columns ID, AUDIO, DURATION and TEXT, and wav/."""
    folder = root / f"SPEECHIO_ASR_ZH000{part.removeprefix('test_')}"
    if not (folder / "metadata.tsv").is_file():
        return
    told = (
        Utterance(row["ID"], folder / row["AUDIO"] if row["AUDIO"] else None, row["TEXT"], row["ID"].split("_")[0])
        for row in columns(folder / "metadata.tsv", "ID", "AUDIO", "TEXT")
    )
    yield from untold(told, (folder / "wav").glob("*.wav"))


_SPEECHIO_HOURS = [1.0, 9.0, 3.0, 2.7, 2.7, 4.4, 1.6, 0.9, 1.3, 4.5, 4.2, 3.4, 3.4, 1.8, 1.0, 2.2, 1.0, 1.8, 0.9, 0.7]
_SPEECHIO_HOURS += [2.2, 1.7, 1.7, 2.0, 2.7, 1.3, 2.4]

AISHELL = Corpus(
    name="aishell",
    title="AISHELL-1",
    language="zh",
    license="Apache 2.0",
    homepage="https://www.openslr.org/33",
    marks=(_LIST,),
    folders=("aishell",),
    hours=178.0,
    parts={"train": Published(120098), "dev": Published(14326), "test": Published(7176)},
    read=each(_aishell),
)
AISHELL2 = Corpus(
    name="aishell2",
    title="AISHELL-2",
    language="zh",
    license="on application, for research",
    homepage="https://www.aishelltech.com/aishell_2",
    marks=("iOS/*/trans.txt", "Android/*/trans.txt", "Mic/*/trans.txt"),
    folders=("AISHELL-2", "AISHELL-DEV-TEST-SET"),
    hours=1000.0,
    parts={
        "train": Published(1009223, 1000.0),
        **{f"dev{channel}": Published(2500) for channel in ("", "_android", "_mic")},
        **{f"test{channel}": Published(5000) for channel in ("", "_android", "_mic")},
    },
    read=each(_aishell2),
)
AISHELL2021 = Corpus(
    name="aishell2021_eval",
    title="AISHELL-2021-Eval",
    language="zh",
    license="on application",
    homepage="https://www.aishelltech.com/aishell_2021_eval",
    marks=("trans.txt", "*/trans.txt", "*/*/trans.txt", "*/*/*/trans.txt", "text", "*/text", "*/*/text"),
    parts={"test": Published()},
    read=each(_aishell2021),
)
WENETSPEECH = Corpus(
    name="wenetspeech",
    title="WenetSpeech",
    language="zh",
    license="CC BY 4.0, for non-commercial use",
    homepage="https://wenet-e2e.github.io/WenetSpeech",
    marks=("WenetSpeech.json",),
    hours=10063.0,
    parts={
        "train_l": Published(None, 10005.0),
        "train_m": Published(None, 1000.0),
        "train_s": Published(None, 100.0),
        "dev": Published(13825, 20.0),
        "test_net": Published(24774, 23.0),
        "test_meeting": Published(8370, 15.0),
    },
    read=_wenetspeech,
)
SPEECHIO = Corpus(
    name="speechio",
    title="SpeechIO leaderboard",
    language="zh",
    license="for evaluation only",
    homepage="https://github.com/SpeechColab/Leaderboard",
    marks=("SPEECHIO_ASR_ZH000*/metadata.tsv",),
    hours=round(sum(_SPEECHIO_HOURS), 1),
    parts={f"test_{number:02d}": Published(None, hours) for number, hours in enumerate(_SPEECHIO_HOURS)},
    read=each(_speechio),
)
