"""Texts with times as OpenAI's API and subtitle files have them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kit.text.scripts import scripts

_LONGEST = 7.0  # seconds of a cue
_WIDEST = 80  # characters of one, of which a Han character counts two

Final = dict[str, Any]  # a final event


@dataclass(frozen=True)
class Cue:
    """A line of subtitles, in seconds."""

    start: float
    end: float
    text: str


def cues(finals: Sequence[Final]) -> list[Cue]:
    """Utterances, cut between two words where they are long."""
    return [cue for final in finals if final["text"] for cue in _cut(final)]


def _cut(final: Final) -> Iterator[Cue]:
    text, words = final["text"], _placed(final)
    if not words:
        yield Cue(final["start"], final["end"], text)
        return
    begin, start = 0, words[0][1]["start"]
    for (_, word), (place, following) in pairwise(words):
        wide = _width(text[begin:place]) + _width(following["text"]) > _WIDEST
        if wide or following["end"] - start > _LONGEST:
            yield Cue(start, word["end"], text[begin:place].strip())
            begin, start = place, following["start"]
    yield Cue(start, words[-1][1]["end"], text[begin:].strip())


def _placed(final: Final) -> list[tuple[int, dict[str, Any]]]:
    """The words with their places in the text; none if one is not found there."""
    found, at = [], 0
    for word in final["words"]:
        at = final["text"].find(word["text"], at)
        if at < 0:
            return []
        found.append((at, word))
        at += len(word["text"])
    return found


def _width(text: str) -> int:
    return sum(2 if ord(character) > 0x2E7F else 1 for character in text)


def srt(finals: Sequence[Final]) -> str:
    """A SubRip file."""
    blocks = (
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{cue.text}\n"
        for number, cue in enumerate(cues(finals), 1)
    )
    return "\n".join(blocks)


def vtt(finals: Sequence[Final]) -> str:
    """A WebVTT file."""
    plain = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
    blocks = (
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{cue.text.translate(plain)}\n" for cue in cues(finals)
    )
    return "\n".join(["WEBVTT\n", *blocks])


def _clock(seconds: float, point: str) -> str:
    whole = round(seconds * 1000)
    minutes, milliseconds = divmod(whole, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


def text_of(finals: Sequence[Final]) -> str:
    """All that was said: utterances joined as their scripts want it."""
    joined = ""
    for text in filter(None, (final["text"] for final in finals)):
        spaced = joined and not (_han(joined[-1]) and _han(text[0]))
        joined += (" " if spaced else "") + text
    return joined


def _han(character: str) -> bool:
    return ord(character) > 0x2E7F


def verbose(finals: Sequence[Final], seconds: float, granularities: Sequence[str]) -> dict[str, Any]:
    """OpenAI's `verbose_json`. What is not known of a segment (tokens, log-probabilities) is not there."""
    text = text_of(finals)
    found: dict[str, Any] = {"task": "transcribe", "language": language(text), "duration": seconds, "text": text}
    if "segment" in granularities:
        found["segments"] = [_segment(number, final) for number, final in enumerate(finals)]
    if "word" in granularities:
        words = (word for final in finals for word in final["words"])
        found["words"] = [{"word": one["text"], "start": one["start"], "end": one["end"]} for one in words]
    return found


def _segment(number: int, final: Final) -> dict[str, Any]:
    raw = final["text"].encode()
    return {
        "id": number,
        "seek": 0,
        "start": final["start"],
        "end": final["end"],
        "text": final["text"],
        "temperature": 0.0,
        "compression_ratio": round(len(raw) / len(zlib.compress(raw)), 3),
    }


def language(text: str) -> str:
    """By the script: "chinese" where Han characters are in it."""
    return "chinese" if scripts(text)["han"] else "english"
