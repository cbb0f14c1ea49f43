"""What a session tells: each event is plain values and becomes one JSON object."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Word:
    """A word or Han character, in seconds from the stream's beginning."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Event:
    """Anything that a session tells.

    Attributes:
        utterance: number of the utterance in the stream, from 0.
        time: seconds of the stream heard so far.
    """

    utterance: int
    time: float


@dataclass(frozen=True)
class Began(Event):
    """Speech began, at `start` seconds."""

    start: float


@dataclass(frozen=True)
class Partial(Event):
    """The text so far; its first `stable` characters will be kept until the end of speech."""

    text: str
    stable: int


@dataclass(frozen=True)
class Hotword(Event):
    """A hotword was heard and is now a hint."""

    text: str


@dataclass(frozen=True)
class Final(Event):
    """The text of an ended utterance, its place in seconds of the stream, and where its words lie if that is known."""

    text: str
    start: float
    end: float
    words: list[Word] = field(default_factory=list)


def as_dict(event: Event) -> dict[str, Any]:
    """Plain values for JSON: {"event": "partial", ...}, seconds with three decimals."""
    content: dict[str, Any] = _rounded({"event": type(event).__name__.lower(), **asdict(event)})
    return content


def to_json(event: Event) -> str:
    """`as_dict` as one line."""
    return json.dumps(as_dict(event), ensure_ascii=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
