"""Miniature copies of the public corpora, each in the layout in which it is given out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000


def sound(path: Path, seconds: float = 0.5, pitch: float = 300.0) -> Path:
    """A tone as an audio file of the format that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.1 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * RATE)) / RATE)
    kind = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
    soundfile.write(path, tone, RATE, **kind)
    return path


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def librispeech(root: Path) -> None:
    base = root / "LibriSpeech"
    for part, chapter in (("train-clean-100", "19-198"), ("dev-clean", "84-121"), ("test-clean", "61-70968")):
        folder = base / part / chapter.replace("-", "/")
        names = [f"{chapter}-{number:04d}" for number in range(3)]
        texts = ["HELLO WORLD", "TURN ON THE RADIO", "IT'S LATE"]
        write(folder / f"{chapter}.trans.txt", *map(" ".join, zip(names, texts, strict=True)))
        for place, name in enumerate(names):
            sound(folder / f"{name}.flac", 0.5 + 0.1 * place)


def voxpopuli(root: Path) -> None:
    base = root / "transcribed_data" / "en"
    header = "id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender"
    for part in ("train", "dev", "test"):
        names = [f"20090{number}16-0900-PLENARY-3-en_{part}_{number}" for number in (1, 2)]
        rows = [f"{name}\tMr President.\tmr president\t28{place}\t{part}\tmale" for place, name in enumerate(names)]
        write(base / f"asr_{part}.tsv", header, *rows)
        for name in names:
            sound(base / "2009" / f"{name}.ogg", 0.6)


def mls_english(root: Path) -> None:
    base = root / "mls_english"
    write(base / "metainfo.txt", "SPEAKER|GENDER|PARTITION|MINUTES|BOOK ID|TITLE|CHAPTER", "4800|M|test|1|10003|x|y")
    for part in ("train", "dev", "test"):
        names = [f"4800_10003_{number:06d}" for number in range(2)]
        write(base / part / "transcripts.txt", *(f"{name}\toh my dear i must see him" for name in names))
        for name in names:
            sound(base / part / "audio" / "4800" / "10003" / f"{name}.flac")


def aishell(root: Path) -> None:
    base = root / "aishell" / "data_aishell"
    speakers = {"train": "S0002", "dev": "S0724", "test": "S0764"}
    said = {
        f"BAC009{speaker}W{number:04d}": "而 对 楼市 成交" for speaker in speakers.values() for number in (122, 123)
    }
    write(base / "transcript" / "aishell_transcript_v0.8.txt", *(f"{name} {text}" for name, text in said.items()))
    for part, speaker in speakers.items():
        for number in (122, 123):
            sound(base / "wav" / part / speaker / f"BAC009{speaker}W{number:04d}.wav")


def aishell2(root: Path) -> None:
    base = root / "AISHELL-2"
    for channel, split, letters in (
        ("iOS", "data", "IC0001"),
        ("iOS", "dev", "ID0012"),
        ("iOS", "test", "IT0011"),
        ("Android", "test", "AT0011"),
        ("Mic", "dev", "MD0012"),
    ):
        folder = base / channel / split
        names = [f"{letters}W{number:04d}" for number in (1, 2)]
        write(folder / "trans.txt", f"{names[0]}\t厨房用品", f"{names[1]}\t听Beat It")
        for name in names:
            sound(folder / "wav" / letters[1:] / f"{name}.wav")


def aishell2021_eval(root: Path) -> None:
    for domain in ("A", "B"):
        write(root / domain / "trans.txt", "0001\t今天天气怎么样", "0002\t播放音乐")
        for name in ("0001", "0002"):
            sound(root / domain / "wav" / f"{name}.wav")


def wenetspeech(root: Path) -> None:
    audios = []
    for number, subsets in enumerate((["L", "M", "S"], ["L"], ["DEV"], ["TEST_NET"], ["TEST_MEETING"])):
        path = f"audio/x/Y{number:04d}.opus"
        sound(root / path, 3.0)
        segments = [
            {
                "sid": f"Y{number:04d}_S{place:05d}",
                "begin_time": begin,
                "end_time": begin + 1.0,
                "text": "怎么样啊",
                "subsets": subsets,
                "confidence": 1.0,
            }
            for place, begin in enumerate((0.25, 1.5))
        ]
        about = {"aid": f"Y{number:04d}", "path": path, "duration": 3.0, "source": "youtube", "segments": segments}
        audios.append(about)
    write(root / "WenetSpeech.json", json.dumps({"dataset": "WenetSpeech", "audios": audios}, indent=1))


def speechio(root: Path) -> None:
    for number in (0, 1, 26):
        folder = root / f"SPEECHIO_ASR_ZH000{number:02d}"
        rows = [f"{name}\twav/{name}.wav\t0.5\t各位 观众 晚上 好" for name in ("A_1", "A_2")]
        write(folder / "metadata.tsv", "ID\tAUDIO\tDURATION\tTEXT", *rows)
        for name in ("A_1", "A_2"):
            sound(folder / "wav" / f"{name}.wav")


def wenetspeech_chuan(root: Path) -> None:
    for part in ("Easy", "Hard"):
        folder = root / "WSC-Eval-ASR" / part
        write(folder / "text", f"{part}_1 你晓得（不）*嘛", f"{part}_2 巴适得板")
        write(folder / "wav.scp", f"{part}_1 /home/x/{part}_1.wav", f"{part}_2 /home/x/{part}_2.wav")
        for name in (f"{part}_1", f"{part}_2"):
            sound(folder / "wav" / f"{name}.wav")


def wenetspeech_yue(root: Path) -> None:
    base = root / "WSYue-ASR-eval"
    write(base / "Short" / "content.txt", "0001.wav\t中年\t中性\t男\t你食咗饭未", "0002.wav\t青年\t高兴\t女\t唔该晒")
    for name in ("0001", "0002"):
        sound(base / "Short" / "wav_" / f"{name}.wav")
    tiers = [("说话人", ["甲"]), ("文本", ["我哋", "去边度"])]
    lines = ['File type = "ooTextFile"', "item []:"]
    for name, texts in tiers:
        lines += ["    item [1]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += [f'            text = "{text}"' for text in texts]
    write(base / "Long" / "TextGrid" / "1001.TextGrid", *lines)
    sound(base / "Long" / "wav" / "1001.wav", 1.0)


def kespeech(root: Path) -> None:
    for part in ("train_phase1", "train_phase2", "dev_phase1", "dev_phase2", "test"):
        folder = root / "KeSpeech" / "Tasks" / "ASR" / part
        names = [f"1000001_{part}_{number}" for number in (1, 2)]
        write(folder / "text", f"{names[0]} <SPOKEN_NOISE>北京时间", f"{names[1]} 我家在山东")
        write(folder / "wav.scp", *(f"{name} Audio/1000001/{name}.wav" for name in names))
        write(folder / "utt2spk", *(f"{name} 1000001" for name in names))
        write(folder / "utt2subdialect", *(f"{name} Ji-Lu" for name in names))
        for name in names:
            sound(root / "KeSpeech" / "Audio" / "1000001" / f"{name}.wav")


def cs_dialogue(root: Path) -> None:
    base = root / "CS-Dialogue" / "data"
    for number, part in enumerate(("train", "dev", "test")):
        names = [f"ZH-CN_U000{number}_S0_{place}" for place in (1, 2)]
        folder = base / "index" / "short_wav" / part
        write(folder / "text", f"{names[0]} <FIL/>我在做一个 project *", f"{names[1]} yeah exactly")
        write(folder / "wav.scp", *(f"{name} short_wav/WAVE/C0/{name}.wav" for name in names))
        for name in names:
            sound(base / "short_wav" / "WAVE" / "C0" / f"{name}.wav")


def ascend(root: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    for part in ("train", "validation", "test"):
        rows = []
        for number in range(2):
            content = io.BytesIO()
            soundfile.write(content, 0.1 * np.ones(8000), RATE, format="WAV")
            rows.append(
                {
                    "id": f"{part}{number:05d}",
                    "path": "x.wav",
                    "audio": {"bytes": content.getvalue(), "path": f"ses1_spk3_{number}.wav"},
                    "transcription": "我想去 hong kong [UNK]",
                    "duration": 0.5,
                    "language": "mixed",
                    "original_speaker_id": 3,
                    "session_id": 1,
                    "topic": "persona",
                }
            )
        (root / "main").mkdir(parents=True, exist_ok=True)
        write_table(pyarrow.Table.from_pylist(rows), root / "main" / f"{part}-00000-of-00001.parquet")


def m4singer(root: Path) -> None:
    rows = [{"item_name": f"Alto-1#美错#000{number}", "txt": "你说要给我", "phs": ["n", "i"]} for number in (0, 1)]
    write(root / "m4singer" / "meta.json", json.dumps(rows, ensure_ascii=False))
    for number in (0, 1):
        sound(root / "m4singer" / "Alto-1#美错" / f"000{number}.wav")


TREES = {
    make.__name__: make
    for make in (
        librispeech,
        voxpopuli,
        mls_english,
        aishell,
        aishell2,
        aishell2021_eval,
        wenetspeech,
        speechio,
        wenetspeech_chuan,
        wenetspeech_yue,
        kespeech,
        cs_dialogue,
        ascend,
        m4singer,
    )
}
