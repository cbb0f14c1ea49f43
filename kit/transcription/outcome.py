"""What comes of an utterance of a manifest: plain values, whoever computed them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kit.text.normalize import language_of

if TYPE_CHECKING:
    from kit.decoding.batches import Transcript


@dataclass(frozen=True)
class Outcome:
    """Of one utterance.

    Attributes:
        id: as the manifest has it.
        row: what is written of it; None where it could not be transcribed.
        reason: why not.
    """

    id: str
    row: Mapping[str, Any] | None = None
    reason: str = ""


def row_of(name: str, found: Transcript, language: str, seconds: float, times: bool) -> dict[str, Any]:
    """The object that is written of an utterance.

    Args:
        language: as the manifest has it; what the text is in, by its script, where it does not tell.
        seconds: of its audio.
        times: with the utterances in it and their words, in seconds from its beginning.
    """
    text = found.text
    row = {
        "id": name,
        "text": text,
        "language": language or (language_of(text) if text else ""),
        "duration": round(seconds, 3),
    }
    if times:
        said = [one for one in found.utterances if one.text]
        row["segments"] = [{**_times(one.start, one.end), "text": one.text} for one in said]
        row["words"] = [{**_times(word.start, word.end), "text": word.text} for one in said for word in one.words]
    return row


def _times(start: float, end: float) -> dict[str, float]:
    return {"start": round(start, 3), "end": round(end, 3)}
