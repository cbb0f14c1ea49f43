"""WenetSpeech-Chuan, WenetSpeech-Yue and KeSpeech: what is spoken in China beside standard Mandarin.

Of the two WenetSpeech corpora the evaluation sets are read. Their training halves are given out as addresses of videos
and times in them; who has cut them brings them as a jsonl (data=manifest).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from datamodules.corpora.base import Corpus, Published, Utterance, each, kaldi, lines, table, untold

_TIER = re.compile(r'name = "([^"]*)"')
_SAID = re.compile(r'text = "((?:[^"]|"")*)"')


def _chuan(root: Path, part: str) -> Iterator[Utterance]:
    """WSC-Eval-ASR/{Easy,Hard}/text and wav/ID.wav.

    What the transcribers could not hear is an asterisk; what they were not sure of stands in brackets. Short and Long
    hold the same recordings once more, sorted by length.
    """
    folder = root / part.removeprefix("test_").capitalize()
    if not (folder / "text").is_file():
        return
    told = (
        Utterance(name, folder / "wav" / f"{name}.wav", re.sub(r"[*()（）]", "", text).strip())
        for name, text in table(folder / "text")
    )
    yield from untold(told, (folder / "wav").glob("*.wav"))


def _yue(root: Path, part: str) -> Iterator[Utterance]:
    """Short/content.txt (file, age, emotion, gender, text) and Long/**/ID.TextGrid with a tier of text.

    The wav files may lie anywhere below the same folder, for their archives unpack to folders of several names.
    """
    folder = root / part.removeprefix("test_").capitalize()
    if not folder.is_dir():
        return
    files = {path.stem: path for path in folder.rglob("*.wav")}
    told = _yue_short(folder) if part == "test_short" else _yue_long(folder)
    for name, text in told:
        yield Utterance(name, files.pop(name, None), text)
    for name, audio in sorted(files.items()):
        yield Utterance(name, audio, None)


def _yue_short(folder: Path) -> Iterator[tuple[str, str]]:
    listed = folder / "content.txt"
    for line in lines(listed) if listed.is_file() else ():
        name, *rest = line.split("\t", 4)
        yield Path(name).stem, rest[3].strip() if len(rest) == 4 else ""


def _yue_long(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*.TextGrid")):
        yield path.stem, tier(path, "文本")


def tier(path: Path, name: str) -> str:
    """All texts of a tier of a TextGrid of Praat, put together."""
    texts, inside = [], False
    for line in lines(path):
        if found := _TIER.search(line):
            inside = found[1] == name
        elif inside and (found := _SAID.search(line)):
            texts.append(found[1].replace('""', '"').strip())
    return "".join(texts)


def _kespeech(root: Path, part: str) -> Iterator[Utterance]:
    """Tasks/ASR/PART/{wav.scp,text,utt2spk,utt2subdialect}; paths begin at the corpus's folder.

    The subdialect is the domain. Noises stand in angle brackets.
    """
    folder = root / "Tasks" / "ASR" / part
    dialects = dict(table(folder / "utt2subdialect")) if (folder / "utt2subdialect").is_file() else {}
    for told in kaldi(folder, lambda path: root / path, without_tags):
        yield replace(told, domain=dialects.get(told.id))


def without_tags(text: str) -> str:
    """A transcript without what stands in angle brackets."""
    return " ".join(re.sub(r"<[^<>]*>", " ", text).split())


CHUAN = Corpus(
    name="wenetspeech_chuan",
    title="WenetSpeech-Chuan (WSC-Eval-ASR)",
    language="zh",
    license="Apache 2.0",
    homepage="https://huggingface.co/datasets/ASLP-lab/WSC-Eval",
    marks=("Easy/text", "Hard/text"),
    folders=("WSC-Eval-ASR", "WSC-Eval/WSC-Eval-ASR"),
    parts={"test_easy": Published(6981), "test_hard": Published(1392)},
    read=each(_chuan),
)
YUE = Corpus(
    name="wenetspeech_yue",
    title="WenetSpeech-Yue (WSYue-ASR-eval)",
    language="zh",
    license="CC BY-NC 4.0",
    homepage="https://huggingface.co/datasets/ASLP-lab/WSYue-ASR-eval",
    marks=("Short/content.txt", "Long/**/*.TextGrid"),
    folders=("WSYue-ASR-eval",),
    hours=11.43,
    parts={"test_short": Published(7060, 9.46), "test_long": Published(370, 1.97)},
    read=each(_yue),
)
KESPEECH = Corpus(
    name="kespeech",
    title="KeSpeech",
    language="zh",
    license="free for academic use, on application",
    homepage="https://github.com/KeSpeech/KeSpeech",
    marks=("Tasks/ASR/*/text",),
    folders=("KeSpeech",),
    hours=1542.0,
    parts={
        "train_phase1": Published(),
        "train_phase2": Published(),
        "dev_phase1": Published(),
        "dev_phase2": Published(),
        "test": Published(19723),
    },
    read=each(_kespeech),
)
